"""What is shown of an exam on its way: bounds that hold, and no division by what is not yet there."""

import re

import torch

from unshaken.base import progress
from unshaken.evaluate.live import live, outlook
from unshaken.evaluate.notes import Notes
from unshaken.evaluate.verdicts import forecast

BLOCKS = torch.arange(100).split(25)
CHAIN = ("clean", "first", "last")


def bits(held: int) -> torch.Tensor:
    return torch.arange(25) < held


def test_the_bound_and_the_interval():
    """All that has not fallen may still hold; the interval is of the blocks that went through everything."""
    notes = Notes()
    assert outlook(CHAIN, notes, BLOCKS) == "at most 100.0 %"
    for part, held in zip(CHAIN, (20, 18, 15), strict=True):
        notes.write(part, 0, bits(held))
    notes.write("clean", 2, bits(23))
    notes.write("first", 2, bits(12))
    notes.write("other", 1, bits(0))  # no part of the chain
    low, high = forecast(15, 25, 100)
    assert outlook(CHAIN, notes, BLOCKS) == f"at most 77.0 %, 95 %: {100 * low:.1f} to {100 * high:.1f}"


def test_lines_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    notes = Notes()
    with live(CHAIN, CHAIN, notes, BLOCKS, (1, 3), quiet=False) as tell:
        for block in (1, 3):
            for part in CHAIN:
                notes.write(part, block, bits(10))
                tell(block, part)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6
    assert lines[0].split("  ")[0] == "exam: 0 of 50 images"
    assert "left" not in lines[0]
    assert lines[1].endswith("first")
    assert re.match(r"exam: 25 of 50 images .* images/s  last  \d+ s left", lines[2])
    assert lines[5].startswith("exam: 50 of 50 images")


def test_nothing_is_said_in_silence(capsys):
    notes = Notes()
    notes.write("clean", 0, bits(10))
    with live(("clean",), ("clean",), notes, BLOCKS, (0, 1), quiet=True) as tell:
        tell(0, "clean")
    assert capsys.readouterr() == ("", "")
