"""Damaged files of every kind: one line that names the file, never a traceback, never a wait, never a wrong answer.

FAULTS=5000 asks for as many trials as that, SEED=3 for others.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import signal
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from damage import DAMAGE, edit_header, edit_json, edit_line
from kinds import KINDS, Kind

from unshaken.evaluation import verdict_log as notes

TRIALS = int(os.environ.get("FAULTS", "250"))
SEED = int(os.environ.get("SEED", "1"))
LONGEST = 10
"""Seconds after which a reader hangs: each takes a few hundredths."""
EDITS = {"json": edit_json, "lines": edit_line, "tensors": edit_header}


class Hangs(BaseException):
    """A reader took too long."""


@contextlib.contextmanager
def alarm() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path, Any]]:
    """Of each kind: a folder, the file's place in it, and what a reader knows of it."""
    found = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp("sound")
        place = kind.make(folder).relative_to(folder)
        what, known, _ = tried(kind, folder, place, folder.with_name(f"{folder.name}-try"), None)
        assert what == "known", f"{kind.name}: {what}: {known}"
        found[kind.name] = folder, place, known
    return found


def tried(kind: Kind, folder: Path, place: Path, work: Path, content: bytes | None) -> tuple[str, Any, str]:
    """What came of reading a copy, with other content: "known" or "refused" or what went wrong; and what was said."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(folder, work)
    file = work / place
    if content is not None:
        file.write_bytes(content)
        os.utime(file, ns=(file.stat().st_atime_ns, (folder / place).stat().st_mtime_ns))
    said = io.StringIO()
    notes._WARNED.clear()
    try:
        with (
            alarm(),
            contextlib.redirect_stderr(said),
            contextlib.redirect_stdout(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            return "known", kind.read(file), said.getvalue()
    except (ValueError, OSError) as error:
        line = str(error)
        named = any(name in line for name in (file.name, file.stem, file.parent.name))
        checks = (("of several lines", "\n" in line), ("names no file", not named), ("in Python's words", _raw(error)))
        faults = [what for what, bad in checks if bad]
        return ("refused" if not faults else f"refused, {faults[0]}"), line, said.getvalue()
    except Hangs:
        return "hangs", None, ""
    except BaseException as error:
        return f"traceback: {type(error).__name__}", str(error)[:200], ""


def _raw(error: Exception) -> bool:
    """Whether an error is of Python's own and nobody has put it into words."""
    return isinstance(error, (UnicodeError, json.JSONDecodeError))


def judged(kind: Kind, sound: Any, content: bytes, before: bytes, outcome: tuple[str, Any, str]) -> str:
    """What to call the outcome: nothing is wrong if it begins with "ok"."""
    what, found, said = outcome
    if what == "refused":
        return "ok: refused"
    if what != "known":
        return what
    if found == sound:
        return "ok: nothing that counts was changed"
    if not kind.ours:
        return "ok: of others, without a checksum"
    if kind.heals and all(name in sound and sound[name] == value for name, value in found.items()):
        cut = before.startswith(content) or content.startswith(before)  # as a process that was killed leaves it
        return "ok: done again" if said or cut else "done again without a word"
    return "ACCEPTED"


@pytest.mark.slow
def test_no_damage_is_believed(sound, tmp_path: Path) -> None:
    counts: Counter[tuple[str, str]] = Counter()
    wrong = []
    for trial in range(TRIALS):
        kind = KINDS[trial % len(KINDS)]
        rng = random.Random(f"{SEED}/{trial}")
        folder, place, known = sound[kind.name]
        before = (folder / place).read_bytes()
        edit = EDITS.get(kind.form)
        damage = edit if edit and rng.random() < 0.5 else rng.choice(DAMAGE)
        content = damage(before, rng)
        if content == before:
            continue
        outcome = tried(kind, folder, place, tmp_path / "work", content)
        verdict = judged(kind, known, content, before, outcome)
        counts["ours" if kind.ours else "of others", verdict] += 1
        if not verdict.startswith("ok"):
            wrong.append(f"trial {trial}, {kind.name}, {damage.__name__}: {verdict}: {outcome[1]}")
    for (whose, verdict), count in sorted(counts.items()):
        print(f"{count:6d}  {whose}: {verdict}")
    assert not wrong, "\n".join(wrong[:40])


def test_the_judge_sees_what_is_wrong() -> None:
    """A reader that believes damage, one that trips over it, and one that does work again without a word."""
    kind = Kind("x", Path, lambda file: 0)
    assert judged(kind, 1, b"a", b"b", ("known", 2, "")) == "ACCEPTED"
    assert judged(kind, 1, b"a", b"b", ("known", 1, "")).startswith("ok")
    assert judged(kind, 1, b"a", b"b", ("traceback: KeyError", "x", "")) == "traceback: KeyError"
    heals = Kind("x", Path, lambda file: 0, heals=True)
    assert judged(heals, {"a": 1}, b"a", b"b", ("known", {}, "")) == "done again without a word"
    assert judged(heals, {"a": 1}, b"a", b"b", ("known", {}, "said")).startswith("ok")
    assert judged(heals, {"a": 1}, b"a", b"b", ("known", {"a": 2}, "said")) == "ACCEPTED"


@pytest.mark.parametrize(
    ("raised", "outcome"),
    [
        (KeyError("x"), "traceback: KeyError"),
        (RecursionError("x"), "traceback: RecursionError"),
        (ValueError("it is bad"), "refused, names no file"),
        (ValueError("file.json\nis bad"), "refused, of several lines"),
        (ValueError("file.json is bad"), "refused"),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "file.json is bad"), "refused, in Python's words"),
        (Hangs(), "hangs"),
    ],
)
def test_the_trial_sees_what_is_raised(raised: BaseException, outcome: str, tmp_path: Path) -> None:
    def read(file: Path) -> None:
        raise raised

    (tmp_path / "sound").mkdir()
    (tmp_path / "sound" / "file.json").write_text("{}")
    kind = Kind("x", Path, read)
    assert tried(kind, tmp_path / "sound", Path("file.json"), tmp_path / "work", b"x")[0] == outcome
