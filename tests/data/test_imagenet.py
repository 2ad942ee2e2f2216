"""ImageNet from tiny archives made here, in each of its layouts; what is broken, foreign or malicious."""

import os
import pickle
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unshaken.data import imagenet as module
from unshaken.data.imagenet import RELEASES, Release, imagenet, imagenet32
from unshaken.data.source import DataSource
from unshaken.data.synsets import DEVKIT, SYNSETS

ROWS = 3
TINY = {"train": Release(("train_data_batch_1", "train_data_batch_2"), 2 * ROWS), "test": Release(("val_data",), ROWS)}


def batch(name: str) -> dict[str, object]:
    rng = np.random.default_rng(len(name) + ord(name[-1]))
    data, labels = rng.integers(0, 256, (ROWS, 3072), np.uint8), rng.integers(1, 1001, ROWS).tolist()
    return {"data": data, "labels": [1, *labels[1:]], "mean": data.mean(0)}


def pickled(name: str) -> bytes:
    return pickle.dumps(batch(name), protocol=3)  # as the originals


def arrays(name: str) -> bytes:
    file = BytesIO()
    np.savez(file, **batch(name))
    return file.getvalue()


def laid_out(root: Path, layout: str) -> None:
    """All files: loose, in folders, or zipped, with or without a folder inside."""
    write, suffix = (arrays, ".npz") if "npz" in layout else (pickled, "")
    for split, release in TINY.items():
        part = {"train": "train", "test": "val"}[split] + ("_npz" if suffix else "")
        contents = {f"{name}{suffix}": write(name) for name in release.files}
        if "zip" in layout:
            with zipfile.ZipFile(root / f"Imagenet32_{part}.zip", "w", zipfile.ZIP_DEFLATED) as packed:
                for name, content in contents.items():
                    packed.writestr(f"Imagenet32_{part}/{name}" if suffix else name, content)
            continue
        folder = root / "imagenet32" / f"Imagenet32_{part}" if "deep" in layout else root
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content)


@pytest.mark.parametrize("layout", ["pickles", "pickles deep", "pickles zip", "npz", "npz deep", "npz zip"])
def test_every_layout_gives_the_same(tmp_path: Path, layout: str) -> None:
    laid_out(tmp_path, layout)
    for split, release in TINY.items():
        for _ in range(2):  # decoded, then from the copy
            images = imagenet32(tmp_path, split, releases=TINY)
            stored = [batch(name) for name in release.files]
            assert (images.pixels.flatten(1).numpy() == np.concatenate([one["data"] for one in stored])).all()
            called = [images.names[label] for label in images.label.tolist()]
            assert called == [DEVKIT[label - 1] for one in stored for label in one["labels"]]
            assert (images.name, images.split, images.pixels.shape[1:]) == ("imagenet32", split, (3, 32, 32))


def test_classes_are_counted_by_name() -> None:
    """The kit's class 1 is the kit fox, 490 the sea snake: classes 278 and 65 for everybody else."""
    assert (len(set(DEVKIT)), SYNSETS[0], SYNSETS[-1]) == (1000, "n01440764", "n15075141")
    assert (SYNSETS.index(DEVKIT[0]), SYNSETS.index(DEVKIT[489])) == (278, 65)
    assert all(len(name) == 9 and name[1:].isdigit() for name in DEVKIT)
    assert len(RELEASES["train"].files) == 10


def test_size_and_limit(tmp_path: Path) -> None:
    laid_out(tmp_path, "pickles")
    whole = imagenet32(tmp_path, "train", releases=TINY)
    more = imagenet32(tmp_path, "train", limit=ROWS + 1, releases=TINY)
    assert (more.pixels == whole.pixels[: ROWS + 1]).all()
    assert more.label.tolist() == whole.label[: ROWS + 1].tolist()
    (tmp_path / "train_data_batch_2").write_bytes(b"never read")
    part = imagenet32(tmp_path, "train", limit=2, releases=TINY)
    assert (part.pixels == whole.pixels[:2]).all()
    assert part.label.tolist() == whole.label[:2].tolist()
    small = imagenet32(tmp_path, "train", size=16, limit=1, releases=TINY)
    image = Image.fromarray(whole.pixels[0].permute(1, 2, 0).numpy())
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert (small.pixels[0].numpy() == expected).all()


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_a_malicious_pickle_is_refused(tmp_path: Path) -> None:
    laid_out(tmp_path, "pickles")
    (tmp_path / "val_data").write_bytes(pickle.dumps({"data": Malicious(tmp_path / "owned"), "labels": []}))
    with pytest.raises(ValueError, match="mkdir is refused") as error:
        imagenet32(tmp_path, "test", releases=TINY)
    assert "\n" not in str(error.value)
    objects = {"data": np.array([Malicious(tmp_path / "owned")]), "labels": np.array([1])}
    np.savez(tmp_path / "objects.npz", **objects)
    (tmp_path / "objects.npz").rename(tmp_path / "val_data.npz")
    (tmp_path / "val_data").unlink()
    with pytest.raises(ValueError, match="val_data.npz cannot be read"):
        imagenet32(tmp_path, "test", releases=TINY)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x80\x03}q\x00", "val_data cannot be read"),
        (pickle.dumps([1, 2]), "has no entries 'data' and 'labels'"),
        (
            pickle.dumps({"data": np.zeros((2, 12288), np.uint8), "labels": [1, 2]}),
            r"does not hold images of 32 pixels",
        ),
        (pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [0]}), "with labels 1 to 1000"),
        (pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [7]}), "has 1 of 3 images: download the files"),
    ],
)
def test_broken_and_foreign_files_are_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "val_data").write_bytes(content)
    with pytest.raises(ValueError, match=words) as error:
        imagenet32(tmp_path, "test", releases=TINY)
    assert "\n" not in str(error.value)


def test_broken_zip_files_are_named(tmp_path: Path) -> None:
    packed = tmp_path / "Imagenet32_val.zip"
    packed.write_bytes(b"half of it")
    with pytest.raises(ValueError, match="Imagenet32_val.zip is cut short or altered"):
        imagenet32(tmp_path, "test", releases=TINY)
    with zipfile.ZipFile(packed, "w") as empty:
        empty.writestr("notes.txt", "nothing here")
    with pytest.raises(ValueError, match="has no file val_data in it"):
        imagenet32(tmp_path, "test", releases=TINY)


@pytest.mark.parametrize(("name", "words"), [("imagenet32", "train_data_batch_1"), ("imagenet", "imagenet/train")])
def test_where_files_are_expected_is_said_in_one_line(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(
        ValueError, match=f"has (no|neither) {words}.*image-net.org asks for an account.*--data.root"
    ) as error:
        DataSource(name, str(tmp_path), download=True).load()
    assert "\n" not in str(error.value)


FEW = ("n01440764", "n01443537", "n15075141")


@pytest.fixture
def ilsvrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two images of each of three classes to train on, one to test on; the first is a photograph of 30 x 20."""
    monkeypatch.setattr(module, "SYNSETS", FEW)
    for k, name in enumerate(FEW):
        for part, count in (("train", 2), ("val", 1)):
            folder = tmp_path / "imagenet" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                colour = (20 * (2 * k + i), 0, 200)
                Image.new("RGB", (30, 20), colour).save(folder / f"{part}_{i}.JPEG", quality=100)
    return tmp_path


Load = Callable[..., object]


def test_image_files_in_class_folders(ilsvrc: Path) -> None:
    source = DataSource("imagenet", str(ilsvrc))
    train, test = source.load(), source.load("test")
    assert train.pixels.shape == (6, 3, 224, 224)
    assert train.label.tolist() == [0, 1, 2, 0, 1, 2]
    assert (train.names, train.name, train.split, len(test), test.split) == (FEW, "imagenet", "train", 3, "test")
    reds = train.pixels[:, 0].float().mean((1, 2))
    assert (reds - 20.0 * (2 * train.label + train.pixels.new_tensor([0, 0, 0, 1, 1, 1]))).abs().max() < 3
    assert len(DataSource("imagenet", str(ilsvrc), limit=4, size=16).load()) == 4
    inside = imagenet(ilsvrc / "imagenet", "train", size=8)
    assert (len(inside), inside.name) == (6, "imagenet")


def test_heaps_and_missing_classes_are_told(ilsvrc: Path) -> None:
    val = ilsvrc / "imagenet" / "val"
    (val / FEW[2] / "val_0.JPEG").unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of 3 classes and has 0 others \(n15075141, ...\)"):
        imagenet(ilsvrc, "test")
    for name in FEW[:2]:
        (val / name / "val_0.JPEG").rename(val / f"{name}.JPEG")
    with pytest.raises(ValueError, match="has no class folders: move each image into the folder of its class"):
        imagenet(ilsvrc, "test")
    assert len(imagenet(ilsvrc, "train", size=8)) == 6


def test_unreadable_images_are_named(ilsvrc: Path) -> None:
    (ilsvrc / "imagenet" / "train" / FEW[1] / "train_0.JPEG").write_text("not an image")
    with pytest.raises(ValueError, match=r"1 of 6 images cannot be read \(first: train/n01443537/train_0.JPEG: "):
        DataSource("imagenet", str(ilsvrc), size=8).load()
    assert DataSource("imagenet", str(ilsvrc), size=8, unreadable="skip").load().label.tolist() == [0, 2, 0, 1, 2]
