"""Progress: silent when short, lines without a terminal, a bar in one."""

import pytest

from unshaken.base import progress as module
from unshaken.base.progress import progress


def test_short_work_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("reading", 10, "images") as advance:
        advance(10)
    assert capsys.readouterr() == ("", "")


def test_lines_without_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.0)
    with progress("reading [b]", 2000, "images") as advance:
        advance(500)
        advance(1000, "slowly")
    assert capsys.readouterr().err.splitlines() == [
        "reading [b]: 500 of 2,000 images  0 s left",
        "reading [b]: 1,500 of 2,000 images  slowly  0 s left",
    ]


def test_a_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress("reading [b]", None, "MB") as advance:
        advance(3)
    out, err = capsys.readouterr()
    assert out == ""
    assert "reading [b]" in err
