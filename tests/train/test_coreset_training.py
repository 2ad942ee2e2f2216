"""Training on coresets: what an epoch sees, when it is chosen anew, and that a run killed anywhere chooses the same."""

import json
import os
import signal
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import unshaken
from processes import ended, launched_together, started
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.base.schedule import StepSchedule
from unshaken.coreset.kmeans_margin import KMeansMargin
from unshaken.coreset.rcs import RCS
from unshaken.coreset.selector import Random, Ranked, split
from unshaken.nets.checkpoint import read_tensors
from unshaken.train.approximations import Approximations
from unshaken.train.batches import BatchStream
from unshaken.train.coreset_training import SELECTION
from variants import variants

SELECTOR = RCS(0.25, warmup=1, every=2, validation=0.1, attack=PGD(Linf(0.1), 1))


RECALLING = replace(SELECTOR, recall=True, steps=1)


def recipe(selector=SELECTOR, **changes):
    base = unshaken.recipe("acl-rcs/digits")
    method = replace(base.method, attack=PGD(Linf(0.1), 1))
    small = {"method": method, "data": unshaken.DataSource(limit=60), "epochs": 4, "batch_size": 8, "coreset": selector}
    return replace(base, **small | changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return unshaken.pretrain(recipe(), unshaken.Workspace(tmp_path_factory.mktemp("whole"), save_every=0, quiet=True))


def selections(run: Path) -> dict[int, torch.Tensor]:
    return {int(file.stem[-4:]): read_tensors(file)[0]["index"] for file in sorted(run.glob("coreset-*.safetensors"))}


def test_each_selection_is_exact_distinct_and_of_the_candidates(run):
    """A quarter of the 54 that are not set aside, after epochs 1 and 3, in a file with what it took."""
    candidates, held = split(60, 0.1, Key(1) / "pretrain" / "coreset")
    assert (len(candidates), len(held)) == (54, 6)
    chosen = selections(run)
    assert list(chosen) == [1, 3]
    for index in chosen.values():
        assert len(index) == round(0.25 * 54) == len(set(index.tolist()))
        assert set(index.tolist()) <= set(candidates.tolist())
    tensors, about = read_tensors(run / "coreset-0001.safetensors")
    assert torch.equal(tensors["held"], held)
    assert (about["selector"], about["epoch"], about["seconds"] > 0) == ("RCS", 1, True)
    assert not torch.equal(chosen[1], chosen[3])


def test_the_classes_of_each_selection_are_recorded(run):
    """Against counts of the set's labels; the record is beside the images, and read with them."""
    label = unshaken.DataSource("digits", limit=60).load("train").label
    candidates, _ = split(60, 0.1, Key(1) / "pretrain" / "coreset")
    for file in run.glob("coreset-*.safetensors"):
        tensors, about = read_tensors(file, SELECTION)
        assert about["classes"]["selected"] == [int((label[tensors["index"]] == k).sum()) for k in range(10)]
        assert about["classes"]["candidates"] == [int((label[candidates] == k).sum()) for k in range(10)]
        assert 0 < about["classes"]["random_mean"] < 1


LABEL_FREE = [
    SELECTOR,
    RCS(0.25, 1, None, 0.1, granularity="sample", at_once=4, diversity=1.0, attack=PGD(Linf(0.1), 1)),
    Ranked(0.25, 1, None, 0.1, by="gradient", largest=False),
    KMeansMargin(0.25, 1, None, 0.1),
]


@pytest.mark.parametrize("selector", LABEL_FREE, ids=["rcs", "diverse", "gradient", "k-means"])
def test_labels_do_not_change_what_is_picked(selector, tmp_path, capsys, monkeypatch):
    """The set's labels, other labels and none: the same picks and the same network."""
    images = unshaken.DataSource("digits").load("train")[:60]
    others = replace(images, label=images.label.flip(0))
    none = replace(images, label=None, names=())
    runs = []
    for name, each in (("own", images), ("others", others), ("none", none)):
        monkeypatch.setattr("unshaken.runs.pretrain.load_sets", lambda *_, each=each: [each])
        workspace = unshaken.Workspace(tmp_path / name, quiet=name != "own")
        runs.append(unshaken.pretrain(recipe(selector, epochs=2), workspace))
    printed = capsys.readouterr().err
    assert printed.count("selection before epoch 1: 14 of 54 images; classes have ") == 1
    picked = [selections(run)[1] for run in runs]
    assert torch.equal(picked[0], picked[1])
    assert torch.equal(picked[0], picked[2])
    assert len({digest(run) for run in runs}) == 1
    about = [read_tensors(run / "coreset-0001.safetensors")[1] for run in runs]
    assert about[0]["classes"] != about[1]["classes"]
    assert "classes" not in about[2]


def test_an_epoch_sees_what_was_picked_and_time_goes_on_in_epochs(tmp_path, monkeypatch):
    seen: dict[int, list[int]] = {}
    times: list[float] = []
    after = BatchStream.after

    def noted(self, place):
        for at, onward, batch in after(self, place):
            seen.setdefault(at.epoch, []).extend(batch.index.tolist())
            times.append(self.clock(at).time)
            yield at, onward, batch

    monkeypatch.setattr(BatchStream, "after", noted)
    run = unshaken.pretrain(recipe(), unshaken.Workspace(tmp_path, quiet=True))
    chosen = selections(run)
    candidates, held = split(60, 0.1, Key(1) / "pretrain" / "coreset")
    assert sorted(seen[0]) == candidates.tolist()
    for epoch, selection in ((1, 1), (2, 1), (3, 3)):
        assert sorted(seen[epoch]) == sorted(chosen[selection].tolist())
    assert times == sorted(times)
    assert [t for t in times if t == int(t)] == [1, 2, 3, 4]


KILLED = [
    (SELECTOR, Approximations(), True),
    (RECALLING, Approximations(), False),
    (RECALLING, Approximations(replays=2, side=StepSchedule(3 / 4, 1, every=1)), False),
]


@pytest.mark.parametrize(
    ("selector", "approximations", "everywhere"),
    variants(KILLED, KILLED[2:]),
    ids=["anew", "recalling", "saving"],
)
def test_a_run_killed_anywhere_picks_the_same_and_ends_with_the_same_bits(
    selector, approximations, everywhere, tmp_path
):
    """Around each selection, at the first files and at the last; with the other two, before one and after one."""
    wanted, moves = recipe(selector, approximations=approximations, data=unshaken.DataSource(limit=40)), []

    def trained(name: str) -> Path:
        return unshaken.pretrain(wanted, unshaken.Workspace(tmp_path / name, save_every=0, quiet=True))

    def counted(part: Path, file: Path, replace=os.replace) -> None:
        moves.append(Path(file).name)
        replace(part, file)

    os.replace, kept = counted, os.replace
    try:
        run = trained("whole")
    finally:
        os.replace = kept
    first, last = (at for at, name in enumerate(moves) if name.startswith("coreset"))
    around = {0, 3, first - 1, first, first + 1, last, last + 1, len(moves) - 1}
    for at in around if everywhere else {first, last + 1}:
        assert killed(at, lambda at=at: trained(f"broken{at}"))
        again = trained(f"broken{at}")
        assert json.loads((again / "run.json").read_text())["digest"] == digest(run), moves[at]
        assert all(torch.equal(a, b) for a, b in zip(selections(again).values(), selections(run).values(), strict=True))
        assert not list(again.glob("attacks*"))


def digest(run: Path) -> str:
    return json.loads((run / "run.json").read_text())["digest"]


def killed(at: int, work) -> bool:
    """Do the work in a forked process that is killed at its at-th move: every other time before it, else after."""

    def move(part: Path, file: Path, replace=os.replace, count=iter(range(10**6))) -> None:
        last = next(count) == at
        if not last or at % 2:
            replace(part, file)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # later Pythons warn of threads; the child uses none of them
        child = os.fork()
    if child == 0:
        try:
            os.replace = move
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) < 0


def test_time_is_accounted_for_by_part(run, tmp_path):
    """Warm-up, selections (as their files say) and training apart; the run's seconds are their sum."""
    about = json.loads((run / "run.json").read_text())
    spent = about["spent"]
    assert set(spent) == {"warmup", "selection", "training"}
    assert min(spent.values()) > 0
    assert about["seconds"] == pytest.approx(sum(spent.values()), abs=0.03)
    took = [read_tensors(file)[1]["seconds"] for file in run.glob("coreset-*.safetensors")]
    assert spent["selection"] == pytest.approx(sum(took), abs=0.01)
    plain = unshaken.pretrain(recipe(None, epochs=1), unshaken.Workspace(tmp_path, quiet=True))
    assert set(json.loads((plain / "run.json").read_text())["spent"]) == {"training"}


def test_what_is_recalled_is_not_attacked_again(tmp_path):
    """After a warm-up all candidates are recalled; picks are others than after attacks anew, and still exact."""
    chosen = selections(unshaken.pretrain(recipe(RECALLING), unshaken.Workspace(tmp_path, quiet=True)))
    assert list(chosen) == [1, 3]
    assert [len(set(index.tolist())) for index in chosen.values()] == [14, 14]
    with pytest.raises(ValueError, match="there is none before a selection at epoch 0"):
        replace(RECALLING, warmup=0)
    without = unshaken.pretrain(
        recipe(RECALLING, method=unshaken.recipe("simclr/digits").method, epochs=2),
        unshaken.Workspace(tmp_path, quiet=True),
    )
    assert not list(without.glob("attacks*"))


def test_random_selections_are_fixed_or_anew(tmp_path):
    anew = selections(unshaken.pretrain(recipe(Random(0.25, 1, 2, 0.1)), unshaken.Workspace(tmp_path, quiet=True)))
    fixed = selections(unshaken.pretrain(recipe(Random(0.25, 1, None, 0.1)), unshaken.Workspace(tmp_path, quiet=True)))
    assert (list(anew), list(fixed)) == ([1, 3], [1])
    assert not torch.equal(anew[1], anew[3])


def test_more_clusters_than_candidates_are_refused_before_the_warm_up(tmp_path):
    with pytest.raises(ValueError, match="54 candidates cannot form 55 clusters: set clusters to 54"):
        unshaken.pretrain(recipe(KMeansMargin(0.25, 1, 2, 0.1, clusters=55)), unshaken.Workspace(tmp_path, quiet=True))
    assert not list(tmp_path.rglob("checkpoint*"))


def test_without_a_selector_nothing_is_set_aside(tmp_path):
    run = unshaken.pretrain(recipe(None, epochs=1), unshaken.Workspace(tmp_path, quiet=True))
    assert not selections(run)
    assert json.loads((run / "recipe.json").read_text())["recipe"]["coreset"] is None


def test_the_recipes_numbers():
    """100 epochs of warm-up and a selection every 20 of 1,000; a fifth of the images; on U 3 steps of 10/255/3."""
    for name in ("acl-rcs", "dynacl-rcs"):
        rcs = unshaken.recipe(f"{name}/cifar10").coreset
        assert (rcs.fraction, rcs.warmup, rcs.every, rcs.validation, rcs.eta) == (0.2, 100, 20, 0.01, 0.01)
        assert (rcs.attack.steps, rcs.attack.ball, rcs.distance) == (3, Linf(8 / 255), "kl")
        assert rcs.attack.rel_step_size * 8 / 255 == pytest.approx(10 / 255 / 3)


def selecting(root: Path, victim: int | None, rank: int) -> None:
    """Train on coresets of cached attacks; a victim dies within the second selection."""
    select, calls = RCS.select, []

    def until_death(selector, *given):
        calls.append(given)
        if rank == victim and len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return select(selector, *given)

    RCS.select = until_death
    unshaken.pretrain(recipe(RECALLING), unshaken.Workspace(root, unshaken.Runtime("cpu"), save_every=1e9, quiet=True))


@pytest.mark.slow
@pytest.mark.extra
def test_two_processes_pick_as_one_and_a_death_within_a_selection_loses_nothing(tmp_path):
    """With attacks that the epoch before has cached, each process those of its own images.

    Only the first selection is compared with one process's: after it the weights differ by rounding, which LARS scales.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RCS, "select", RCS.select)
        selecting(tmp_path / "alone", None, 0)
    launched_together(2, partial(selecting, tmp_path / "through", None))
    running = started(2, partial(selecting, tmp_path / "killed", 1))
    running[1].wait()
    codes, _ = ended(running, 30), [one.communicate() for one in running]
    assert codes[1] == -signal.SIGKILL
    launched_together(2, partial(selecting, tmp_path / "killed", None))
    (alone,), (through,), (killed,) = ([*(tmp_path / name).iterdir()] for name in ("alone", "through", "killed"))
    assert torch.equal(selections(alone)[1], selections(through)[1])
    first, second = selections(through), selections(killed)
    assert list(first) == list(second) == [1, 3]
    assert all(torch.equal(first[epoch], second[epoch]) for epoch in first)
    assert not [*through.glob("attacks-*"), *killed.glob("attacks-*")]
    digests = [json.loads((folder / "run.json").read_text())["digest"] for folder in (through, killed)]
    assert digests[0] == digests[1]
