"""What is shown of an evaluation on its way: bounds that hold, and no division by what is not yet there."""

import re
import time

import torch

from unshaken.base import progress
from unshaken.evaluation.progress import evaluation_progress, outlook
from unshaken.evaluation.verdict_log import VerdictLog
from unshaken.evaluation.verdicts import forecast

BLOCKS = torch.arange(100).split(25)


class Stages:
    """Three stages; the last one includes only the first blocks."""

    chain = ("clean", "first", "last")

    def __init__(self, blocks: int = 4) -> None:
        self.blocks = blocks

    def includes(self, stage: str, block: int) -> bool:
        return stage != "last" or block < self.blocks


CHAIN = Stages.chain
CALLS = {"clean": 0, "first": 10, "last": 40}


def bits(held: int) -> torch.Tensor:
    return torch.arange(25) < held


def test_the_bound_and_the_interval():
    """All that has not fallen may still hold; the interval is of the blocks that went through everything."""
    log = VerdictLog()
    assert outlook(Stages(), log, BLOCKS) == "accuracy at most 100.0 %"
    for part, held in zip(CHAIN, (20, 18, 15), strict=True):
        log.write(part, 0, bits(held))
    log.write("clean", 2, bits(23))
    log.write("first", 2, bits(12))
    log.write("other", 1, bits(0))  # no part of the chain
    low, high = forecast(15, 25, 100)
    assert outlook(Stages(), log, BLOCKS) == (
        f"accuracy at most 77.0 %, {100 * low:.1f} to {100 * high:.1f} % by a 95 % interval"
    )


def test_lines_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    log = VerdictLog()
    with evaluation_progress(CALLS, Stages(), log, BLOCKS, (1, 3), quiet=False) as shown:
        for block in (1, 3):
            for part in CHAIN:
                shown.begin(block, part)
                log.write(part, block, bits(10))
                shown.end(block, part)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6
    assert lines[0].split("  ")[0] == "evaluation: 0 of 50 images"
    assert "left" not in lines[0]
    assert lines[1].endswith("first")
    assert re.match(r"evaluation: 25 of 50 images .* images/s  last  \d+ s left", lines[2])
    assert lines[5].startswith("evaluation: 50 of 50 images")


def test_nothing_is_said_in_silence(capsys):
    log = VerdictLog()
    log.write("clean", 0, bits(10))
    with evaluation_progress(CALLS, Stages(), log, BLOCKS, (0, 1), quiet=True) as shown:
        shown.begin(0, "clean")
        shown.end(0, "clean")
    assert capsys.readouterr() == ("", "")


def test_a_long_attack_says_its_step_and_the_time_left(monkeypatch, capsys):
    """Within a block of which nothing is done yet: which attack, which step of how many, and what is left at most."""
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    monkeypatch.setattr("unshaken.evaluation.progress.PAUSE", 0.0)
    with evaluation_progress(CALLS, Stages(), VerdictLog(), BLOCKS, (0,), quiet=False) as shown:
        logits = shown.counted(lambda x: x)
        assert logits(3) == 3  # between parts nothing is said
        shown.begin(0, "first")
        for _ in range(4):
            time.sleep(0.01)
            logits(0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    found = re.search(r"first, call 4 of at most 10, at most (\d+) s left for these 25 images", lines[-1])
    assert found
    assert lines[-1].startswith("evaluation: 0 of 25 images")
    left = shown.attack_text(shown.stage_started + 4.0)  # a second a call: 6 more of this part, and 40 of the next
    assert left == "first, call 4 of at most 10, at most 46 s left for these 25 images"


def test_the_bound_is_that_of_the_last_attack_that_ended(monkeypatch, capsys):
    """An attack that ends just after a line was shown: its verdicts are in the first line of the next attack."""
    now = [0.0]
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    monkeypatch.setattr("unshaken.evaluation.progress.monotonic", lambda: now[0])
    log = VerdictLog()
    with evaluation_progress(CALLS, Stages(), log, BLOCKS, (0,), quiet=False) as shown:
        logits = shown.counted(lambda x: x)
        for stage, held in (("clean", 20), ("first", 12)):
            shown.begin(0, stage)
            for _ in range(2):
                now[0] += 1.0
                logits(0)
            log.write(stage, 0, bits(held))
            now[0] += 0.01
            shown.end(0, stage)
        shown.begin(0, "last")
        now[0] += 1.0
        logits(0)
    lines = capsys.readouterr().err.splitlines()
    assert "accuracy at most 95.0 %  first" in lines[-2]  # 75 images are not judged yet, and 20 of 25 held
    assert "accuracy at most 87.0 %  last" in lines[-1]


def test_an_attack_for_some_blocks_is_judged_by_them():
    log = VerdictLog()
    log.write("clean", 0, bits(20))
    log.write("first", 0, bits(18))
    log.write("last", 0, bits(15))
    log.write("clean", 2, bits(0))
    assert outlook(Stages(1), log, BLOCKS) == "accuracy at most 60.0 %, 60.0 to 60.0 % by a 95 % interval"
    with evaluation_progress(CALLS, Stages(1), log, BLOCKS, (0, 1), quiet=True) as shown:
        assert shown.is_finished(0)
        log.write("clean", 1, bits(3))
        assert not shown.is_finished(1)
        log.write("first", 1, bits(3))
        assert shown.is_finished(1)
