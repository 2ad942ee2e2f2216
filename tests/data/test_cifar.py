"""CIFAR from tiny archives made here: packed, unpacked, broken, malicious."""

import os
import pickle
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unshaken.data import cifar as module
from unshaken.data.cifar import RELEASES, Release, cifar
from unshaken.data.cifar_pickle import read_pickle
from unshaken.storage.download import checksum

ROWS = 4


def dump(path: Path, entry: object) -> None:
    path.write_bytes(pickle.dumps(entry, protocol=2))  # as the originals


def pixels_of(name: str) -> np.ndarray:
    return np.random.default_rng(len(name) + ord(name[-1])).integers(0, 256, (ROWS, 3072), np.uint8)


def published(folder: Path, classes: int) -> Release:
    """An archive with four images a file, served from `folder`."""
    real = RELEASES[classes]
    unpacked = folder / real.archive.folder
    unpacked.mkdir(parents=True)
    for name in (*real.train, *real.test):
        dump(unpacked / name, {"data": pixels_of(name), real.labels: [0, 1, 1, 0], "coarse_labels": [0] * ROWS})
    dump(unpacked / real.meta, {real.names: ["cat", "dog"]})
    with tarfile.open(folder / real.archive.file_name, "w:gz") as tar:
        tar.add(unpacked, real.archive.folder)
    url = (folder / real.archive.file_name).as_uri()
    return replace(real, archive=replace(real.archive, url=url, md5=checksum(folder / real.archive.file_name)))


@pytest.mark.parametrize("classes", [10, 100])
def test_downloaded(tmp_path: Path, classes: int) -> None:
    release = published(tmp_path / "server", classes)
    root = tmp_path / "data"
    train = cifar(classes, root, "train", download=True, release=release)
    expected = np.concatenate([pixels_of(name) for name in release.train]).reshape(-1, 3, 32, 32)
    assert (train.pixels.numpy() == expected).all()
    assert train.label.tolist() == [0, 1, 1, 0] * len(release.train)
    assert (train.names, train.name, train.split) == (("cat", "dog"), f"cifar{classes}", "train")
    test = cifar(classes, root, "test", release=release)
    assert (test.pixels.numpy() == pixels_of(release.test[0]).reshape(-1, 3, 32, 32)).all()


def test_found_wherever_it_lies(tmp_path: Path) -> None:
    release = published(tmp_path / "server", 10)
    folder, packed = tmp_path / "server" / release.archive.folder, tmp_path / "server" / release.archive.file_name
    for name, source in (("unpacked", folder), ("packed", packed), ("deep/er", folder), ("deep too/er", packed)):
        (tmp_path / name).mkdir(parents=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name / source.name)
    roots = [tmp_path / "unpacked", tmp_path / "packed", tmp_path / "deep", tmp_path / "deep too", folder]
    assert len({cifar(10, root, "train", release=release).digest for root in roots}) == 1


def test_absent(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"neither cifar-10-python.tar.gz nor cifar-10-batches-py/.*--data.download.*--data.root"
    ):
        cifar(10, tmp_path, "train")


def test_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = published(tmp_path, 10)
    first = cifar(10, tmp_path, "train", release=release)
    changed = tmp_path / release.archive.folder / release.train[0]
    monkeypatch.setattr(module, "read_pickle", None)
    assert cifar(10, tmp_path, "train", release=release).digest == first.digest
    monkeypatch.undo()
    dump(changed, {"data": pixels_of("other"), release.labels: [1] * ROWS})
    os.utime(changed, ns=(1, 1))
    assert cifar(10, tmp_path, "train", release=release).label.tolist()[:5] == [1, 1, 1, 1, 0]


def test_size_and_limit(tmp_path: Path) -> None:
    release = published(tmp_path, 10)
    small = cifar(10, tmp_path, "train", size=16, limit=2, release=release)
    assert small.pixels.shape == (2, 3, 16, 16)
    image = Image.fromarray(pixels_of(release.train[0])[1].reshape(3, 32, 32).transpose(1, 2, 0))
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert (small.pixels[1].numpy() == expected).all()
    assert len(cifar(10, tmp_path, "train", release=release)) == 5 * ROWS


def test_an_altered_archive_is_refused_and_left(tmp_path: Path) -> None:
    release = published(tmp_path / "server", 10)
    wrong = tmp_path / release.archive.file_name
    wrong.write_bytes(b"half of it")
    with pytest.raises(ValueError, match=f"has md5 .* instead of {release.archive.md5}.*remove it"):
        cifar(10, tmp_path, "train", release=release)
    assert wrong.exists()


def test_missing_broken_and_foreign_files(tmp_path: Path) -> None:
    release = published(tmp_path, 10)
    batch = tmp_path / release.archive.folder / "data_batch_3"
    batch.unlink()
    with pytest.raises(ValueError, match="lacks data_batch_3: remove it, and unpack"):
        cifar(10, tmp_path, "train", release=release)
    batch.write_bytes(b"\x80\x02}q\x00")
    with pytest.raises(ValueError, match="data_batch_3 cannot be read"):
        cifar(10, tmp_path, "train", release=release)
    dump(batch, {"data": pixels_of("a")})
    with pytest.raises(ValueError, match="data_batch_3 has no entry 'labels'"):
        cifar(10, tmp_path, "train", release=release)


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_a_malicious_pickle_is_refused(tmp_path: Path) -> None:
    release = published(tmp_path, 10)
    dump(tmp_path / release.archive.folder / "data_batch_1", {"data": Malicious(tmp_path / "owned")})
    with pytest.raises(ValueError, match="mkdir is refused") as error:
        cifar(10, tmp_path, "train", release=release)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "owned").exists()


def test_pickles_of_an_old_numpy_are_read(tmp_path: Path) -> None:
    """Python 2 wrote the originals: text and bytes are one, and dtype takes 0 and 1 for booleans."""
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    array = b"\x80\x02" + empty + b"(K\x01K\x03\x85" + dtype + b"\x89U\x03\x00\x80\xfftb."
    (tmp_path / "old").write_bytes(array)
    with (tmp_path / "old").open("rb") as file:
        assert read_pickle(file, "old").tolist() == [0, 128, 255]
