"""STL-10 from a tiny archive made here."""

import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unshaken.data import stl as module
from unshaken.data.stl import STL10, stl
from unshaken.storage.archive import Archive
from unshaken.storage.download import checksum


def images(count: int) -> np.ndarray:
    """(N 3 96 96): brighter from left to right, each channel and image its own."""
    x = np.arange(96, dtype=np.uint8)
    offset = np.arange(count * 3, dtype=np.uint8).reshape(count, 3, 1, 1)
    return np.broadcast_to(x + offset, (count, 3, 96, 96))


def published(folder: Path) -> Archive:
    unpacked = folder / STL10.folder
    unpacked.mkdir(parents=True)
    for name, count in (("train", 5), ("test", 3), ("unlabeled", 4)):
        by_column = np.ascontiguousarray(images(count).swapaxes(2, 3))
        (unpacked / f"{name}_X.bin").write_bytes(by_column.tobytes())
    (unpacked / "train_y.bin").write_bytes(bytes([1, 2, 10, 1, 2]))
    (unpacked / "test_y.bin").write_bytes(bytes([3, 2, 1]))
    (unpacked / "class_names.txt").write_text("\n".join(f"class {k}".replace(" ", "") for k in range(10)))
    with tarfile.open(folder / STL10.file_name, "w:gz") as tar:
        tar.add(unpacked, STL10.folder)
    return replace(STL10, url=(folder / STL10.file_name).as_uri(), md5=checksum(folder / STL10.file_name))


def test_downloaded_and_turned_upright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = published(tmp_path / "server")
    monkeypatch.setattr(module, "CHUNK", 2)
    train = stl(tmp_path, "train", download=True, archive=archive)
    assert (train.pixels.numpy() == images(5)).all()
    assert train.label.tolist() == [0, 1, 9, 0, 1]
    assert train.names[:2] == ("class0", "class1")
    assert stl(tmp_path, "test", archive=archive).label.tolist() == [2, 1, 0]


def test_unlabelled_limited_and_resized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = published(tmp_path)
    unlabelled = stl(tmp_path, "unlabeled", archive=archive)
    assert (len(unlabelled), unlabelled.label, unlabelled.names) == (4, None, ())
    small = stl(tmp_path, "unlabeled", size=32, limit=3, archive=archive)
    assert small.pixels.shape == (3, 3, 32, 32)
    assert small.pixels[0, 0, 0, 16] == pytest.approx(49, abs=1)
    monkeypatch.setattr(module, "_pixels", None)
    assert stl(tmp_path, "unlabeled", size=32, limit=3, archive=archive).digest == small.digest


def test_a_file_cut_short(tmp_path: Path) -> None:
    archive = published(tmp_path)
    (tmp_path / STL10.folder / "unlabeled_X.bin").write_bytes(b"123")
    with pytest.raises(ValueError, match="unlabeled_X.bin is cut short"):
        stl(tmp_path, "unlabeled", archive=archive)


def test_class_names_that_are_no_text(tmp_path: Path) -> None:
    archive = published(tmp_path)
    (tmp_path / STL10.folder / "class_names.txt").write_bytes(b"cat\xff")
    with pytest.raises(ValueError, match=r"class_names\.txt is damaged, because it is not text"):
        stl(tmp_path, "train", archive=archive)
