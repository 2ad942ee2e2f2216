"""Atomic writes: the old file or the new one, whole; nothing beside it; and errors that name their file."""

import errno
import multiprocessing
import os
from pathlib import Path

import pytest

from unshaken.base.atomic_files import append_text, read_bytes, replacing, sweep, write_bytes, write_text


def test_a_write_leaves_one_file_and_no_part(tmp_path: Path):
    path = tmp_path / "new" / "folder" / "a.bin"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]


def test_the_old_file_remains_until_the_new_one_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def crash(*_: object) -> None:
        assert path.read_text() == "old"
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new")
    assert path.read_text() == "old"


def test_bytes_reach_the_disk_before_the_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    events = []
    sync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (events.append("sync"), sync(file)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("replace"), rename(a, b)))
    write_bytes(tmp_path / "a", b"x")
    assert events == ["sync", "replace"]


def test_an_error_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_bytes(tmp_path / "a.bin", b"x")
    assert caught.value.filename == str(tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_names_the_file_that_grows():
    with pytest.raises(OSError, match="/dev/full") as caught:
        append_text(Path("/dev/full"), "x" * 10)
    assert caught.value.errno == errno.ENOSPC


def test_a_file_above_its_size_limit_is_refused(tmp_path: Path):
    write_bytes(tmp_path / "a", b"12345")
    assert read_bytes(tmp_path / "a", 5) == b"12345"
    with pytest.raises(ValueError, match="a has 5 bytes, but a file of this kind may have at most 4"):
        read_bytes(tmp_path / "a", 4)


def test_two_writers_with_the_same_process_number_use_different_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As two containers that share a folder: each write is whole, whichever comes last."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    path = tmp_path / "a.bin"
    with replacing(path) as first, replacing(path) as second:
        first.write(b"1" * 10)
        second.write(b"2")
        assert len(list(tmp_path.iterdir())) == 2
    assert path.read_bytes() in (b"1" * 10, b"2")
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_the_next_write_removes_partial_files_of_a_killed_process(tmp_path: Path):
    for name in ("a.bin.0123456789ab.part", "a.bin.4711.part"):  # the second as earlier versions called them
        (tmp_path / name).write_bytes(b"half")
    others = ["b.bin.0123456789ab.part", "a.bin.part", "a.bin.mine.part"]
    for name in others:
        (tmp_path / name).write_bytes(b"of others")
    write_bytes(tmp_path / "a.bin", b"x")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["a.bin", *others])


def test_a_sweep_does_not_remove_files_being_written(tmp_path: Path):
    with replacing(tmp_path / "a.bin") as file:
        file.write(b"x")
        (tmp_path / "b.bin.0123456789ab.part").write_bytes(b"half")
        sweep(tmp_path)
        assert len(list(tmp_path.iterdir())) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def _write_often(path: str, word: bytes) -> None:
    for _ in range(100):
        write_bytes(Path(path), word * 1000)


def test_many_processes_write_one_file(tmp_path: Path):
    path = tmp_path / "a.bin"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_often, args=(str(path), word)) for word in (b"1", b"2", b"3")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert len(set(path.read_bytes())) == 1
    assert len(path.read_bytes()) == 1000
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
