"""A run that is killed anywhere and started again ends with the bits of one that was not."""

import json
import os
import shutil
import signal
import time
import warnings
from pathlib import Path

import pytest
import torch
from tiny import RECIPE, STEPS

import unshaken
from unshaken.base.serialize import short_hash
from unshaken.train.loop import Loop
from unshaken.train.optim import flatten, unflatten
from unshaken.train.run_dir import Run
from unshaken.train.signals import LATER, Interrupted, guard_signals
from variants import variants


def finish(root: Path) -> dict:
    run = unshaken.pretrain(RECIPE, unshaken.Workspace(root, save_every=0, quiet=True))
    return json.loads((run / "run.json").read_text())


def logged(root: Path) -> list[int]:
    """The steps of the log's lines."""
    (file,) = root.rglob("log.jsonl")
    return [json.loads(line)["step"] for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return finish(tmp_path_factory.mktemp("unbroken"))


def in_child(work) -> int:
    """Do the work in a forked process; returns the signal that ended it, 0 if none did."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # later Pythons warn of threads; the child uses none of them
        child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(
    ("saves", "moment"),  # 4 and 8 end an epoch, STEPS the run
    variants(
        [(1, "before"), (1, "after"), (3, "before"), (4, "after"), (5, "before"), (8, "after"), (STEPS, "before")]
        + [(STEPS, "after")],
        [(4, "after"), (5, "before")],
    ),
)
def test_killed_while_saving(tmp_path, unbroken, saves, moment):
    """kill -9 at the given checkpoint, before it is moved into its place or just after."""

    def die_at_checkpoint(part: Path, file: Path, replace=os.replace) -> None:
        if Path(file).name == "checkpoint.safetensors":
            die_at_checkpoint.count += 1
        last = die_at_checkpoint.count == saves
        if last and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        replace(part, file)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)

    die_at_checkpoint.count = 0

    def work() -> None:
        os.replace = die_at_checkpoint
        finish(tmp_path)

    assert in_child(work) == -signal.SIGKILL
    assert not list(tmp_path.rglob("run.json"))
    assert finish(tmp_path)["digest"] == unbroken["digest"]


@pytest.mark.parametrize("step", variants([0, 3, 4, 7, STEPS - 1], [4, STEPS - 1]))
def test_killed_between_checkpoints(tmp_path, unbroken, monkeypatch, step):
    """What was done since the last checkpoint is done again, to the same bits, and logged once."""
    save = Run.save

    def work() -> None:
        def seldom(run: Run, onward, *state) -> None:
            if onward.step > step:
                os.kill(os.getpid(), signal.SIGKILL)
            if onward.step % 3 == 0:
                save(run, onward, *state)

        Run.save = seldom
        finish(tmp_path)

    assert in_child(work) == -signal.SIGKILL
    assert finish(tmp_path)["digest"] == unbroken["digest"]
    assert logged(tmp_path) == [3, 7, 9, 11]


@pytest.mark.parametrize(("number", "code", "at"), [(signal.SIGTERM, 143, 3), (signal.SIGINT, 130, STEPS - 1)])
def test_asked_to_stop(tmp_path, unbroken, monkeypatch, number, code, at):
    """SIGTERM and Ctrl-C end with a checkpoint; the log has each step once."""
    log = Run.log

    def asked(run: Run, line) -> None:
        log(run, line)
        if line["step"] == at:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Run, "log", asked)
    with pytest.raises(Interrupted) as stop:
        unshaken.pretrain(RECIPE, unshaken.Workspace(tmp_path, save_every=1e9, quiet=True))
    assert stop.value.code == code
    monkeypatch.undo()
    assert finish(tmp_path)["digest"] == unbroken["digest"]
    assert logged(tmp_path) == [3, 7, 9, 11]


def test_cut_into_pieces(tmp_path, unbroken, monkeypatch):
    """Half a second each, of which a step takes a tenth or more: three pieces, or more on a slow machine."""
    update, codes, run = Loop._update, [], None

    def slowly(*given) -> None:
        update(*given)
        time.sleep(0.1)

    monkeypatch.setattr(Loop, "_update", slowly)
    while run is None:
        try:
            with guard_signals(0.5):
                run = unshaken.pretrain(RECIPE, unshaken.Workspace(tmp_path, save_every=1e9, quiet=True))
        except Interrupted as stop:
            codes.append(stop.code)
    assert len(codes) >= 2
    assert set(codes) == {LATER}
    assert json.loads((run / "run.json").read_text())["digest"] == unbroken["digest"]
    assert logged(tmp_path) == [3, 7, 9, 11]


@pytest.mark.extra
def test_less_time_than_a_step_takes_is_enough_for_one(tmp_path, unbroken):
    """However short the time, decoding included, each command goes on by a step, and the last one ends."""
    run, stops = None, 0
    while run is None:
        try:
            with guard_signals(1e-9):
                run = unshaken.pretrain(RECIPE, unshaken.Workspace(tmp_path, save_every=1e9, quiet=True))
        except Interrupted as stop:
            stops, code = stops + 1, stop.code
    assert (stops, code) == (STEPS, LATER)
    assert json.loads((run / "run.json").read_text())["digest"] == unbroken["digest"]


def test_a_folder_that_is_taken_away_ends_its_run(tmp_path):
    """It is said; and nothing is written where the folder was, without the recipe that it belongs to."""

    def take(training, *given) -> None:
        shutil.move(tmp_path / training.run.path.name, tmp_path / "elsewhere")
        update(training, *given)

    update = Loop._update
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_update", take)
        with pytest.raises(ValueError, match="was moved or removed during the run"):
            unshaken.pretrain(RECIPE, unshaken.Workspace(tmp_path, save_every=0, quiet=True))
    assert [folder.name for folder in tmp_path.iterdir()] == ["elsewhere"]


def test_a_lock_that_is_a_link_is_refused(tmp_path, unbroken):
    """Nothing is written to what it points to."""
    (tmp_path / "precious").write_text("all that I have")
    folder = tmp_path / "runs" / f"acl-digits-{short_hash(RECIPE)}"
    folder.mkdir(parents=True)
    (folder / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(ValueError, match="is a link"):
        unshaken.pretrain(RECIPE, unshaken.Workspace(tmp_path / "runs", quiet=True))
    assert (tmp_path / "precious").read_text() == "all that I have"


def test_nobody_stops_what_is_over_or_was_not_asked_to_stop():
    with guard_signals(0.05):
        pass
    with guard_signals(0):
        time.sleep(0.1)
    with pytest.raises(ValueError, match="not after -1"), guard_signals(-1):
        pass


def test_a_finished_run_is_found(tmp_path, unbroken):
    first = finish(tmp_path)
    assert finish(tmp_path) == first
    assert first["digest"] == unbroken["digest"]
    assert not list(tmp_path.rglob("checkpoint*"))


def test_killed_after_the_encoder_is_written(tmp_path, unbroken):
    """The checkpoint of the end is still there: what follows it is done again."""

    def work() -> None:
        Run.finish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        finish(tmp_path)

    assert in_child(work) == -signal.SIGKILL
    assert list(tmp_path.rglob("encoder.safetensors"))
    assert finish(tmp_path)["digest"] == unbroken["digest"]


def test_a_lost_encoder_is_made_again(tmp_path, unbroken):
    run = unshaken.pretrain(RECIPE, unshaken.Workspace(tmp_path, quiet=True))
    (run / "encoder.safetensors").unlink()
    assert finish(tmp_path)["digest"] == unbroken["digest"]
    assert (run / "encoder.safetensors").exists()


def test_an_optimisers_state_comes_back_in_its_weights_layout():
    """Another layout may round otherwise, and is slower to go through."""
    net = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    before, after = (torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9) for _ in range(2))
    net(torch.ones(1, 3, 5, 5)).sum().backward()
    before.step()
    tensors, values = flatten(before)
    unflatten(after, {name: tensor.contiguous() for name, tensor in tensors.items()}, values)
    buffer = after.state[net.weight]["momentum_buffer"]
    assert buffer.stride() == net.weight.stride()
    assert torch.equal(buffer, before.state[net.weight]["momentum_buffer"])


def test_another_precision_is_refused(tmp_path):
    unshaken.pretrain(RECIPE, unshaken.Workspace(tmp_path, quiet=True))
    with pytest.raises(ValueError, match="'precision': 'bf16'"):
        unshaken.pretrain(RECIPE, unshaken.Workspace(tmp_path, unshaken.Runtime(precision="bf16"), quiet=True))


def test_two_at_once_are_refused(tmp_path):
    run = unshaken.pretrain(RECIPE, unshaken.Workspace(tmp_path, quiet=True))
    found = json.loads((run / "recipe.json").read_text())["data"]
    with Run(run, RECIPE, found), pytest.raises(ValueError, match="another process"):
        Run(run, RECIPE, found)


def test_other_images_are_refused(tmp_path):
    run = unshaken.pretrain(RECIPE, unshaken.Workspace(tmp_path, quiet=True))
    with pytest.raises(ValueError, match="but now there is"):
        Run(run, RECIPE, {"name": "digits", "split": "train", "n": 99, "digest": "0"})


def test_a_truncated_checkpoint_is_named(tmp_path):
    save = Run.save

    def work() -> None:
        def once(run: Run, *state) -> None:
            save(run, *state)
            os.kill(os.getpid(), signal.SIGKILL)

        Run.save = once
        finish(tmp_path)

    in_child(work)
    (file,) = tmp_path.rglob("checkpoint.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="checkpoint.safetensors is not a complete safetensors file"):
        finish(tmp_path)
