"""Data sets of other libraries become the same images: torch's, torchvision's, Hugging Face's, Pillow's, files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from unshaken.data.decode import decode
from unshaken.data.images import Images
from unshaken.nets.torchvision_ops import declare_operators

COLOUR = np.random.default_rng(1).integers(0, 256, (5, 12, 12, 3), np.uint8)
LABEL = np.array([2, 0, 1, 0, 2])
PLAIN = Images.of(COLOUR, LABEL)


class Items(Dataset):
    """A set of any items."""

    def __init__(self, items: list) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        return self.items[index]


def pillow() -> list[Image.Image]:
    return [Image.fromarray(each) for each in COLOUR]


def test_items_of_any_kind_are_the_same_images() -> None:
    tensors = torch.from_numpy(COLOUR).permute(0, 3, 1, 2)
    kinds = [
        TensorDataset(tensors, torch.from_numpy(LABEL)),
        TensorDataset(tensors.float() / 255, torch.from_numpy(LABEL)),
        Items(list(zip(pillow(), LABEL.tolist(), strict=True))),
        Items(list(zip(COLOUR, LABEL, strict=True))),
        Items([{"img": image, "label": int(k)} for image, k in zip(pillow(), LABEL, strict=True)]),
    ]
    for kind in kinds:
        assert Images.of(kind).digest == PLAIN.digest
    assert Images.of(pillow()).label is None
    assert Images.of(pillow(), LABEL).digest == PLAIN.digest
    assert torch.equal(Images.of(Items(pillow())).pixels, PLAIN.pixels)
    grey = Images.of([image.convert("L") for image in pillow()])
    assert grey.pixels.shape == (5, 1, 12, 12)
    assert Images.of([pillow()[0], pillow()[1].convert("L")]).pixels.shape == (2, 3, 12, 12)


def test_torchvision_knows_its_classes(tmp_path: Path) -> None:
    declare_operators()
    from torchvision.datasets import FakeData, ImageFolder
    from torchvision.transforms import RandomCrop

    for k, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        Image.fromarray(COLOUR[k]).save(tmp_path / name / "1.png")
    found = Images.of(ImageFolder(tmp_path))
    assert (found.names, found.label.tolist()) == (("cat", "dog"), [0, 1])
    assert torch.equal(found.pixels, PLAIN.pixels[:2])
    assert Images.of(FakeData(3, (3, 8, 8), 4)).pixels.shape == (3, 3, 8, 8)
    with pytest.raises(ValueError, match="leave random transforms out"):
        Images.of(ImageFolder(tmp_path, RandomCrop(4)))


def test_hugging_face_sets_are_read() -> None:
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    rows = datasets.Dataset.from_dict({"image": pillow(), "label": LABEL.tolist()}, features)
    found = Images.of(rows)
    assert torch.equal(found.pixels, PLAIN.pixels)
    assert (found.names, found.label.tolist()) == (("a", "b", "c"), LABEL.tolist())
    with pytest.raises(ValueError, match=r"several sets \(train\): choose one"):
        Images.of(datasets.DatasetDict(train=rows))


def test_files_are_decoded_as_in_a_folder(tmp_path: Path) -> None:
    files = [tmp_path / f"{k}.png" for k in range(3)]
    for k, file in enumerate(files):
        Image.fromarray(COLOUR[k][: 12 - k]).save(file)
    with pytest.raises(ValueError, match="not squares of one size: .* size=32"):
        Images.of(files)
    found = Images.of(files, [0, 1, 1], size=8)
    assert np.array_equal(found.pixels, np.stack([decode(file, 8) for file in files]))
    assert found.files == ("0.png", "1.png", "2.png")
    pictures = [Image.fromarray(COLOUR[k][: 12 - k]) for k in range(3)]
    assert torch.equal(Images.of(pictures, size=8).pixels, found.pixels)
    with pytest.raises(ValueError, match=r"there is no file none\.png \(1 of 2 are missing\)"):
        Images.of([files[0], "none.png"])
    files[1].write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1\.png cannot be read as an image"):
        Images.of(files, size=8)


def test_resizing_keeps_the_digests_of_the_originals() -> None:
    small = Images.of(COLOUR, LABEL, size=6)
    assert small.pixels.shape[2:] == (6, 6)
    assert torch.equal(small.image_digests, PLAIN.image_digests)
    assert small.digest != PLAIN.digest


def test_what_does_not_fit_is_said_in_one_line() -> None:
    class Endless(IterableDataset):
        def __iter__(self):
            return iter([])

    cases = {
        "give its .dataset": DataLoader(TensorDataset(PLAIN.pixels)),
        "has no length": Endless(),
        "has text, and no image": Items([{"text": "a"}]),
        "begins with a str": Items(["a", "b"]),
        "has no images": Items([]),
        "the images have 2 sizes": Items([COLOUR[0], COLOUR[1][:6]]),
    }
    for words, case in cases.items():
        with pytest.raises(ValueError, match=words):
            Images.of(case)
