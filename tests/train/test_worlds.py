"""Runs resumed in another world say so and keep both; finished ones are said to be found; edited code is a new run."""

import json
import os
import signal
import sys
import types
from dataclasses import replace

import pytest
from test_resume import in_child
from tiny import RECIPE

import unshaken
from unshaken.train.run_dir import Run

SMALL = replace(RECIPE, epochs=2)


def stopped_with(threads: int, root) -> None:
    """Killed after its first checkpoint."""
    save = Run.save

    def work() -> None:
        def once(run: Run, *state) -> None:
            save(run, *state)
            os.kill(os.getpid(), signal.SIGKILL)

        Run.save = once
        unshaken.pretrain(SMALL, unshaken.Workspace(root, unshaken.Runtime(threads=threads), save_every=0, quiet=True))

    assert in_child(work) == -signal.SIGKILL


def threads_of(run) -> list[int]:
    return [world["threads"] for world in json.loads((run / "run.json").read_text())["worlds"]]


def test_a_resume_in_another_world_is_said_and_kept(tmp_path, capsys):
    stopped_with(2, tmp_path)
    with pytest.raises(ValueError, match="trained in another environment .threads 2, now 1"):
        unshaken.pretrain(SMALL, unshaken.Workspace(tmp_path, unshaken.Runtime(threads=1, same_world=True), quiet=True))
    run = unshaken.pretrain(SMALL, unshaken.Workspace(tmp_path, unshaken.Runtime(threads=1), quiet=True))
    assert "resumes in another environment (threads 2, now 1)" in capsys.readouterr().err
    assert threads_of(run) == [2, 1]


def test_a_resume_in_the_same_world_is_silent(tmp_path, capsys):
    stopped_with(1, tmp_path)
    run = unshaken.pretrain(
        SMALL, unshaken.Workspace(tmp_path, unshaken.Runtime(threads=1, same_world=True), quiet=True)
    )
    assert capsys.readouterr().err == ""
    assert threads_of(run) == [1]
    assert unshaken.pretrain(SMALL, unshaken.Workspace(tmp_path, quiet=True)) == run
    assert capsys.readouterr().err == f"found finished: {run}\n"


METHOD = """
from dataclasses import dataclass
from typing import ClassVar
from unshaken.methods.acl import ACL
from unshaken.methods.base import Method

@dataclass(frozen=True)
class Mine(Method):
    acl: ACL = ACL()
    routes: ClassVar = ACL.routes
    views: ClassVar = ACL.views

    def loss(self, h, batch, clock, key):
        terms = self.acl.loss(h, batch, clock, key)
        return terms | {{"loss": {factor} * terms["loss"]}}
"""


def mine(factor: float):
    module = types.ModuleType("notebook_cell")
    sys.modules["notebook_cell"] = module
    exec(METHOD.format(factor=factor), module.__dict__)  # noqa: S102
    return replace(SMALL, name="mine", method=module.Mine(SMALL.method), epochs=1)


def test_an_edited_method_is_another_run(tmp_path, capsys):
    first, second, again = (
        unshaken.pretrain(mine(factor), unshaken.Workspace(tmp_path, quiet=True)) for factor in (1.0, 2.0, 1.0)
    )
    assert first == again != second
    assert capsys.readouterr().err == f"found finished: {first}\n"
