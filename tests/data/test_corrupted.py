"""Published corruption files, from small ones made here: order of severities, labels, and files of something else."""

from pathlib import Path

import numpy as np
import pytest

from unshaken.data.corrupted import corrupted

COUNT = 4


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(np.array([3, 9, 0, 1], np.uint8), 5))
    np.save(folder / "fog.npy", np.random.default_rng(0).integers(0, 256, (5 * COUNT, 32, 32, 3), np.uint8))
    return folder


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_one_severity(root, severity):
    images = corrupted(root, "fog", severity)
    rows = np.load(root / "fog.npy")[(severity - 1) * COUNT : severity * COUNT]
    assert np.array_equal(images.pixels.numpy(), rows.transpose(0, 3, 1, 2))
    assert images.label.tolist() == [3, 9, 0, 1]
    assert (images.name, images.split, len(images.names)) == (f"CIFAR-10-C/fog/{severity}", "test", 10)
    assert images.pixels.is_contiguous()


def test_names_and_a_hundred_classes(root):
    assert corrupted(root, "fog", 1, tuple("abcdefghij")).names[3] == "d"
    np.save(root / "labels.npy", np.tile(np.array([3, 99, 0, 1]), 5))
    assert len(corrupted(root, "fog", 1).names) == 100


def refused(root: Path, message: str, name: str = "fog", severity: int = 1) -> None:
    with pytest.raises(ValueError, match=message) as error:
        corrupted(root, name, severity)
    assert "\n" not in str(error.value)


def test_unknown_and_missing(root):
    refused(root, "did you mean fog", "fogg")
    refused(root, "a severity is", severity=9)
    refused(root, r"has no snow.npy: it is not the unpacked folder", "snow")
    (root / "labels.npy").unlink()
    refused(root, r"has no labels.npy")


@pytest.mark.parametrize("shape", [(21, 32, 32, 3), (20, 3, 32, 32), (20, 32, 32)])
def test_wrong_shapes(root, shape):
    np.save(root / "fog.npy", np.zeros(shape, np.uint8))
    refused(root, r"not uint8 of \(5 n, 32, 32, 3\)")


def test_wrong_types_and_labels(root):
    np.save(root / "fog.npy", np.zeros((20, 32, 32, 3), np.float32))
    refused(root, "float32")
    np.save(root / "fog.npy", np.zeros((25, 32, 32, 3), np.uint8))
    refused(root, "both files must come from the same set")
    np.save(root / "fog.npy", np.zeros((20, 32, 32, 3), np.uint8))
    np.save(root / "labels.npy", np.arange(20, dtype=np.uint8) % 10)
    refused(root, "different labels at different severities")


def test_broken_and_pickled(root):
    (root / "fog.npy").write_bytes(b"half of it")
    refused(root, "cannot be read")
    np.save(root / "fog.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused(root, "cannot be read")
