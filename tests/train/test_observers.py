"""Observers are told everything and change nothing; what the tools read is what the log says."""

import csv
import json
import struct
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import unshaken
from unshaken.base.json_files import read_json
from unshaken.train.observers import Observers, RunInfo
from unshaken.train.trackers import CSV, MLflow, TensorBoard, WandB, numbers, trackers

QUICK = replace(unshaken.recipe("simclr/digits"), epochs=2, batch_size=32, data=unshaken.DataSource("digits", limit=96))


def digest(run: Path) -> str:
    return read_json(run / "run.json")["digest"]


def logged(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "checksum"} for line in lines]


class Meddler:
    """Notes all events, and tries to change what it is told and what the run draws."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def start(self, run: RunInfo) -> None:
        self.events.append(("start", (run.step, run.epochs, run.recipe["name"])))
        run.recipe.clear()
        torch.manual_seed(1)

    def line(self, line: dict[str, float]) -> None:
        self.events.append(("line", dict(line)))
        line.clear()

    def epoch(self, epoch: int) -> None:
        self.events.append(("epoch", epoch))

    def checkpoint(self, file: Path, step: int) -> None:
        self.events.append(("checkpoint", step))

    def end(self, outcome: str, summary: dict[str, Any]) -> None:
        self.events.append(("end", (outcome, summary["digest"])))
        summary.clear()


class Broken:
    def line(self, line: dict[str, float]) -> None:
        raise OSError("disk full")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unshaken.pretrain(QUICK, unshaken.Workspace(tmp_path_factory.mktemp("plain"), quiet=True))


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Meddler]:
    """A run with all observers that need no package, one of which fails."""
    meddler, root = Meddler(), tmp_path_factory.mktemp("observed")
    run = unshaken.pretrain(QUICK, unshaken.Workspace(root, quiet=True), observers=[Broken(), meddler, CSV()])
    return run, meddler


def test_a_run_is_the_same_with_observers(plain: Path, observed: tuple[Path, Meddler]) -> None:
    assert (digest(observed[0]), observed[0].name) == (digest(plain), plain.name)
    times = ("images_per_s",)
    same = [[{k: v for k, v in line.items() if k not in times} for line in logged(run)] for run in (plain, observed[0])]
    assert same[0] == same[1]


def test_every_event_is_told_in_its_order(observed: tuple[Path, Meddler]) -> None:
    run, meddler = observed
    kinds = [kind for kind, _ in meddler.events]
    assert kinds == ["start", "line", "epoch", "line", "epoch", "checkpoint", "end"]
    told = dict(meddler.events)
    assert told["start"] == (0, 2, "simclr")
    assert [line for kind, line in meddler.events if kind == "line"] == logged(run)
    assert (told["epoch"], told["checkpoint"], told["end"]) == (2, 6, ("finished", digest(run)))


def test_one_that_fails_is_told_nothing_more(capsys: pytest.CaptureFixture[str]) -> None:
    both = Observers([Broken(), meddler := Meddler()])
    before = torch.get_rng_state()
    both.tell("start", RunInfo("run", Path(), {"name": "x"}, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    for step in range(3):
        both.tell("line", {"step": step})
    assert len(meddler.events) == 4
    said = capsys.readouterr().err
    assert said.count("the observer Broken failed at 'line' (OSError: disk full)") == 1
    for wrong in (3, Meddler):
        with pytest.raises(ValueError, match="an observer is an object with some of the methods start, line"):
            Observers([wrong])


def test_the_end_says_how(tmp_path: Path) -> None:
    class Stops(Meddler):
        def end(self, outcome: str, summary: dict[str, Any]) -> None:
            self.events.append(("end", outcome))

    meddler = Stops()

    def fails() -> None:
        with unshaken.Workspace(tmp_path, observers=(meddler,)).open("run", QUICK, {}) as run:
            run.observers.start(RunInfo("run", tmp_path, {"name": "x"}, 0, 1))
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fails()
    assert meddler.events[-1] == ("end", "failed")


def test_csv_has_the_log(observed: tuple[Path, Meddler], tmp_path: Path) -> None:
    run, _ = observed
    with (run / "metrics.csv").open() as text:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(text)]
    assert rows == [numbers(line) for line in logged(run)]
    resumed = CSV()
    for step, line in ((0, {"step": 0, "loss": 1}), (1, {"step": 1, "loss": 2})):
        resumed = CSV()
        resumed.start(RunInfo("run", tmp_path, {}, step, 1))
        resumed.line(line)
    resumed.line({"step": 2, "rank": 3})
    assert (tmp_path / "metrics.csv").read_text() == "step,loss,rank\n0,1,\n1,2,\n2,,3\n"


INFO = {"name": "acl-digits-1", "recipe": {"name": "acl", "lr": {"peak": 0.5}}}
LINES = [{"step": 9, "epoch": 1.0, "loss": 2.5, "precision": "float32"}, {"step": 19, "epoch": 2.0, "loss": 1.5}]


def tell(observer: Any, folder: Path) -> None:
    observer.start(RunInfo(folder=folder, step=0, epochs=2, **INFO))
    for line in LINES:
        observer.line(dict(line))
    observer.end("finished", {})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_it(tmp_path: Path) -> None:
    reading = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    tell(TensorBoard(), tmp_path)
    found = reading.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(each.step, each.value) for each in found.Scalars("train/loss")] == [(9, 2.5), (19, 1.5)]
    assert [each.value for each in found.Scalars("epoch")] == [1, 2]
    assert "train/precision" not in found.Tags()["scalars"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.extra
def test_mlflow_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    tell(MLflow(), tmp_path)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("unshaken").experiment_id
    (run,) = client.search_runs([experiment])
    assert [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "train/loss")] == [
        (9, 2.5),
        (19, 1.5),
    ]
    assert run.data.params == {"name": "acl", "lr.peak": "0.5"}
    assert run.info.status == "FINISHED"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.extra
def test_wandb_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    tell(WandB(), tmp_path)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + 60
    while file.stat().st_size < 100 and time.monotonic() < deadline:  # written by a process of its own
        time.sleep(0.1)
    data, at, history = file.read_bytes(), 7, []
    while at < len(data):  # after ":W&B" and a version: a checksum, a length and a kind before each record
        _, length, kind = struct.unpack_from("<IHB", data, at)
        assert kind == 1
        record = Record.FromString(data[at + 7 : at + 7 + length])
        if record.HasField("history"):
            history.append({"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item})
        at += 7 + length
    assert [float(line["train/loss"]) for line in history] == [2.5, 1.5]


def test_a_name_that_is_none_is_said() -> None:
    with pytest.raises(
        ValueError, match="--observe is csv, tensorboard, wandb, mlflow, not 'tensorbord'; did you mean"
    ):
        trackers(("tensorbord",))
