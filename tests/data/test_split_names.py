"""Names of parts as people write them, folders that look like parts, and what is said to be left out."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from unshaken.data import folder_index as listing
from unshaken.data.images import Images
from unshaken.data.source import DataSource
from unshaken.data.split_names import assign_splits, split_meant

Load = Callable[..., Images]
NAMES = {
    "train": "train Train TRAIN training Training_Set trainset train_ -train- train. cifar10-train imgs_train "
    "TrainImages train2017 my.train.data trainval train_val traindata",
    "test": "test Test TESTING test-set testimages cifar10_test my-photos-test eval",
    "val": "val valid VALIDATION dev imgs_val validset val_256 holdout",
}


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, names in NAMES.items() for name in names.split()])
def test_names_of_parts(part: str, name: str) -> None:
    assert split_meant(name)[0] == part


NONE = "cat trains invalid latest contest tested untrained detest 0 valley devon"


@pytest.mark.parametrize("name", NONE.split())
def test_names_of_no_part(name: str) -> None:
    assert split_meant(name) is None


@pytest.mark.parametrize("train", NAMES["train"].split())
def test_any_two_parts(train: str) -> None:
    for test in [*NAMES["test"].split(), *NAMES["val"].split()]:
        if split_meant(train)[1] == split_meant(test)[1]:
            found = assign_splits([train, test], "photos", classes=True)
            assert sorted(found.values()) == sorted([train, test])
            assert found["train"] == train


@pytest.mark.parametrize(
    "classes", [["bus", "car", "train"], ["bullet_train", "steam_train"], ["test_tube", "beaker"], list("0123456789")]
)
def test_classes_stay_classes(classes: list[str]) -> None:
    assert assign_splits(classes, "photos", classes=True) == {}


@pytest.mark.parametrize(
    "names",
    [
        ["train", "secret"],
        ["cat", "dog", "test"],
        ["val", "extra"],
        ["train", "train2", "test"],
        ["test", "testing"],
        ["Trainingsdaten", "Testdaten"],
    ],
)
def test_what_looks_like_parts_but_is_not_clear_stops_in_one_line(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^photos has .*: .*call the splits train/ and test/ \(or val/\)") as error:
        assign_splits(names, "photos", classes=True)
    assert "\n" not in str(error.value)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return tmp_path / "photos"


@pytest.fixture
def load(photos: Path, tmp_path: Path) -> Load:
    listing.print_once.cache_clear()
    return lambda split="train": DataSource(str(photos), str(tmp_path / "root")).load(split)


def fill(photos: Path, *folders: str, count: int = 3) -> None:
    """Images whose colour is all their own."""
    for folder in folders:
        (photos / folder).mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            fill.made = getattr(fill, "made", 0) + 1
            Image.new("RGB", (8, 8), (fill.made % 256, fill.made // 256, 7)).save(photos / folder / f"{fill.made}.png")


def both(*parts: str) -> list[str]:
    return [f"{part}/{name}" for part in parts for name in ("cat", "dog")]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "valid"),
        ("Train", "Test"),
        ("train", "dev"),
        ("training_set", "test_set"),
        ("cifar10-train", "cifar10-test"),
        ("dataset/train", "dataset/val"),
        ("photos/imgs/train", "photos/imgs/test"),
        ("train_test_split/train", "train_test_split/test"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("train/images", "val/images"),
    ],
)
def test_parts_in_folders(photos: Path, load: Load, train: str, test: str) -> None:
    fill(photos, *both(train), count=4)
    fill(photos, *both(test))
    assert (len(load()), len(load("test")), load().names) == (8, 6, ("cat", "dog"))


def test_parts_within_classes(photos: Path, load: Load) -> None:
    fill(photos, "cat/train", "cat/test", "dog/train", "dog/test")
    assert (len(load()), len(load("test")), load().names) == (6, 6, ("cat", "dog"))
    assert load("test").label.tolist() == [0, 1, 0, 1, 0, 1]
    fill(photos, "cow")
    with pytest.raises(ValueError, match="has splits within cat/ .* not the same ones .*: call the splits"):
        load()


def test_what_was_understood_is_said_once(photos: Path, load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    fill(photos, *both("train", "test", "validation"), "train/@eaDir", "__MACOSX/train/cat", "unlabeled")
    for name in ("a.HEIC", "b.heic", "notes.txt", "train/cat/._x.png", "train/cat/.DS_Store", "test/cat/labels.csv"):
        (photos / name).write_text("")
    (photos / "train" / "cow").mkdir()
    fill(photos, ".", count=1)
    load()
    load("test")
    said = capsys.readouterr().err
    assert said.startswith(f"{photos}: 2 classes (cat, dog), 6 train, 6 test images; left out: ")
    for one in (
        "2 entries made by the operating system (__MACOSX, @eaDir)",
        "2 pictures in formats that are not read (.HEIC, .heic)",
        "2 files that are not images (.txt, .csv)",
        "2 hidden entries (",
        "1 folder without images (train/cow/)",
        "9 images in splits that are not used (",
        "1 image outside the splits' folders (",
    ):
        assert one in said
    assert said.count("\n") == 1


def test_the_counts_of_a_split_by_content_are_said(
    photos: Path, load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(photos, "cat", "dog", count=40)
    train, test = len(load()), len(load("test"))
    assert capsys.readouterr().err == (
        f"{photos}: 2 classes (cat, dog), {train} train, {test} test images, split by content\n"
    )


@pytest.mark.parametrize(
    "folders", ["2023-01 2023-02", "January February", "2022 2023", "2023/01 2023/02", "100CANON 101CANON", "DCIM/2021"]
)
def test_folders_that_are_dates_are_no_classes(
    photos: Path, load: Load, folders: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(photos, *folders.split(), count=10)
    images = load()
    assert (len(images), images.label) == (10 * len(folders.split()), None)
    with pytest.raises(ValueError, match=r"has no labels .*dates.* and no test split, so all of it is for training"):
        load("test")


def test_loose_images_beside_folders_take_the_classes_and_no_image(photos: Path, load: Load) -> None:
    fill(photos, "cat", "dog", count=30)
    test = load("test")
    fill(photos, ".", count=1)
    now = load("test")
    assert (now.label, test.label.unique().tolist()) == (None, [0, 1])
    assert set(test.image_digests.tolist()) <= set(now.image_digests.tolist())
    assert "lie beside the folders cat, dog" in now.reason


def test_tiny_imagenet_as_unpacked(photos: Path, load: Load) -> None:
    fill(photos, *(f"train/n{k}/images" for k in range(3)), "val/images", "test/images")
    (photos / "val" / "val_annotations.txt").write_text("")
    assert (len(load()), load().names) == (9, ("n0", "n1", "n2"))
    assert load("test").label is None


def test_an_empty_test_part_and_small_folders_are_no_matter_of_training(photos: Path, load: Load) -> None:
    fill(photos, *both("train"), count=4)
    (photos / "test").mkdir()
    assert 1 <= len(load()) <= 8
    assert load().names == ("cat", "dog")


def test_a_class_of_the_test_part_alone_is_no_matter_of_training(photos: Path, load: Load) -> None:
    fill(photos, *both("train", "test"), "test/owl")
    assert load().names == ("cat", "dog")
    with pytest.raises(ValueError, match="has the class 'owl', which the train split lacks"):
        load("test")


def test_the_part_with_labels_is_the_test(photos: Path, load: Load) -> None:
    fill(photos, *both("train", "val"), "test")
    assert load("test").label.tolist() == [0, 1] * 3


def test_many_links_end(photos: Path, load: Load) -> None:
    """Each of eight folders has links to all of them: as many paths as there are orders of them."""
    names = [f"c{k}" for k in range(8)]
    fill(photos, *names, count=2)
    for name in names:
        for other in names:
            (photos / name / f"to-{other}").symlink_to(photos / other)
    assert len(load().names) == 8


def test_a_set_written_otherwise_is_the_same() -> None:
    assert DataSource("photos/") == DataSource("photos") == DataSource("./photos") == DataSource("photos//.")
    assert DataSource("./cifar10") == DataSource("./cifar10/") != DataSource("cifar10")
