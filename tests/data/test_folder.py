"""A folder of one's own images: classes, splits, the cache, unreadable images, mistakes."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from unshaken.data import prefetch as module
from unshaken.data.folder import folder
from unshaken.data.images import Images
from unshaken.data.source import DataSource

Load = Callable[..., Images]


def save(path: Path, value: int = 0, size: tuple[int, int] = (8, 8)) -> None:
    """An image whose red says which one it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)


def fill(folder: Path, **counts: int) -> None:
    for k, (name, count) in enumerate(counts.items()):
        for i in range(count):
            save(folder / name / f"{i:02}.png", 100 * k + i)


def reds(images: Images) -> list[int]:
    return images.pixels[:, 0, 0, 0].tolist()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return tmp_path / "photos"


@pytest.fixture
def load(tmp_path: Path, photos: Path) -> Load:
    def load(split: str = "train", **fields: object) -> Images:
        return DataSource(str(photos), str(tmp_path / "root"), **fields).load(split)

    return load


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(module, "picture", None)


def test_about_one_in_five_of_each_class_is_for_testing(photos: Path, load: Load) -> None:
    fill(photos, cat=100, dog=100)
    train, test = load("train"), load("test")
    assert (train.names, train.name, train.split) == (("cat", "dog"), "photos", "train")
    assert sorted(reds(train) + reds(test)) == [*range(100), *range(100, 200)]
    assert [red >= 100 for red in reds(train)] == [label == 1 for label in train.label]
    assert [red >= 100 for red in reds(test)] == [label == 1 for label in test.label]
    assert all(10 <= count <= 30 for count in test.label.bincount())
    assert train.pixels.shape[1:] == (3, 8, 8)


def test_a_limit_takes_from_all_classes_and_leaves_the_test_split(photos: Path, load: Load) -> None:
    fill(photos, cat=11, dog=7)
    few = load(limit=5)
    assert reds(few) == reds(load())[:5]
    assert few.label.unique().tolist() == [0, 1]
    assert torch.equal(few.image_digests, load().image_digests[:5])
    assert reds(load("test", limit=1)) == reds(load("test"))
    assert reds(load(limit=1000)) == reds(load())


def test_the_side_of_an_image_depends_on_it_alone(photos: Path, load: Load) -> None:
    """Whatever comes or goes, is renamed, moved to another class, copied, rewritten or read at another size."""
    fill(photos, cat=20, dog=20)
    test = set(reds(load("test")))
    fill(photos, Ant=40)  # before the others by name, and with copies of the cats
    (photos / "cat" / "00.png").unlink()
    (photos / "cat" / "07.png").rename(photos / "dog" / "zz.png")
    for k in range(1, 7):
        Image.open(photos / "cat" / f"{k:02}.png").save(photos / "cat" / f"copy{k}.bmp")
    for size in (8, 5, 16):
        now = [round(red) for red in reds(load("test", size=size))]
        assert set(now) & {*range(1, 20), *range(100, 120)} == test & {*range(1, 20), *range(100, 120)}
        assert not set(now) & set(reds(load("train", size=size)))


def test_a_broken_image_moves_no_other(photos: Path, load: Load) -> None:
    fill(photos, cat=20, dog=20)
    test = reds(load("test"))
    (photos / "cat" / "0.png").write_text("not an image")
    assert reds(load("test", unreadable="skip")) == test
    (photos / "cat" / "0.png").unlink()
    assert reds(load("test")) == test


def test_all_images_on_demand(photos: Path, load: Load) -> None:
    fill(photos, cat=6, dog=6)
    assert len(load("all")) == 12
    (photos / "train").mkdir()
    (photos / "cat").rename(photos / "train" / "cat")
    (photos / "dog").rename(photos / "test")
    with pytest.raises(ValueError, match="comes with splits of its own"):
        load("all")


def test_parts_are_used_as_they_come(photos: Path, load: Load) -> None:
    fill(photos / "train", cat=3, dog=2)
    save(photos / "val" / "dog" / "new.png", 7)
    assert reds(load("train")) == [0, 100, 1, 101, 2]
    test = load("test")
    assert (reds(test), test.label.tolist(), test.names) == ([7], [1], ("cat", "dog"))
    save(photos / "val" / "cow" / "new.png")
    assert reds(load("train")) == [0, 100, 1, 101, 2]  # what is wrong with the test part is no matter of this one
    with pytest.raises(ValueError, match="has the class 'cow', which the train split lacks; that has cat, dog"):
        load("test")


def test_a_part_by_itself_is_no_class(photos: Path, load: Load) -> None:
    fill(photos / "train", cat=5, dog=5)
    assert load().names == ("cat", "dog")
    assert sorted(reds(load("test")) + reds(load("train"))) == [*range(5), *range(100, 105)]
    (photos / "train").rename(photos / "test")
    assert len(load("test")) == 10
    with pytest.raises(ValueError, match="only a test split"):
        load("train")


def test_a_flat_folder_is_unlabelled(photos: Path, load: Load) -> None:
    for name in ("b.PNG", "a.png", ".hidden.png"):
        save(photos / name, ord(name[0]))
    (photos / "notes.txt").write_text("no image")
    (photos / "empty").mkdir()
    images = load()
    assert (reds(images), images.label, images.names) == ([97, 98], None, ())
    with pytest.raises(ValueError, match="no labels and no test split, so all of it is for training"):
        load("test")


def test_folders_within_a_class_belong_to_it(photos: Path, load: Load) -> None:
    save(photos / "cat" / "b.png", 1)
    save(photos / "cat" / "a" / "deep" / "c.png", 2)
    save(photos / "dog" / "d.png", 3)
    for i in range(5):
        save(photos / "dog" / f"{i}.png", 10)
    assert set(folder(photos).splits["all"].files) >= {"cat/b.png", "cat/a/deep/c.png"}
    assert load().names == ("cat", "dog")


def test_links_in_a_circle_end(photos: Path) -> None:
    fill(photos, cat=6, dog=6)
    (photos / "cat" / "up").symlink_to(photos)
    (photos / "cat" / "root").symlink_to("/")
    (photos / "cat" / "self").symlink_to("self")
    (photos / "cat" / "here").symlink_to(".")
    (photos / "loop").symlink_to(photos)
    (photos / "pets").symlink_to(photos / "dog")  # a class may well be a link
    found = folder(photos)
    assert found.splits["all"].names == ("cat", "dog", "pets")
    assert len(found.splits["all"]) == 18
    assert "repeated links to folders (cat/here/, " in str(found.left)


def test_size_rule(photos: Path, load: Load) -> None:
    save(photos / "a.png", 1, (40, 40))
    assert load().pixels.shape == (1, 3, 40, 40)
    assert load(size=16).pixels.shape == (1, 3, 16, 16)
    save(photos / "b.png", 1, (80, 50))
    assert load().pixels.shape == (2, 3, 32, 32)
    assert load(limit=1).pixels.shape == (1, 3, 32, 32)


def test_decoded_once(photos: Path, load: Load, no_decoder: Callable[[], None]) -> None:
    fill(photos, cat=16)
    digests = [load(split).digest for split in ("train", "test")]
    no_decoder()
    assert [load(split).digest for split in ("train", "test")] == digests
    with pytest.raises(ValueError, match=r"14 of 16 images cannot be read"):  # another size is another copy
        load(size=4)


def test_decoded_again_when_a_file_changes(photos: Path, load: Load) -> None:
    for name in ("a.png", "b.png"):
        save(photos / name, 1)
    assert reds(load()) == [1, 1]
    save(photos / "a.png", 2)
    os.utime(photos / "a.png", ns=(1, 1))
    assert reds(load()) == [2, 1]
    save(photos / "c.png", 3)
    assert reds(load()) == [2, 1, 3]
    (photos / "a.png").unlink()
    assert reds(load()) == [1, 3]


def test_an_altered_copy_is_rebuilt(tmp_path: Path, photos: Path, load: Load) -> None:
    save(photos / "a.png", 5)
    load()
    copy = next((tmp_path / "root" / "cache").glob("*.npy"))
    copy.write_bytes(copy.read_bytes()[:-10])
    assert reds(load()) == [5]


@pytest.fixture
def damaged(photos: Path) -> Path:
    fill(photos, cat=6, dog=6)
    whole = (photos / "cat" / "00.png").read_bytes()
    (photos / "cat" / "01.png").write_bytes(whole[:-30])
    (photos / "dog" / "02.png").write_text("not an image")
    (photos / "dog" / "03.png").unlink()
    (photos / "dog" / "03.png").symlink_to("nowhere.png")
    return photos


def test_unreadable_images_stop(damaged: Path, load: Load) -> None:
    for _ in range(2):  # also when they come from the cache
        with pytest.raises(
            ValueError, match=r"3 of 12 images cannot be read \(first: cat/01.png: .+\); remove"
        ) as error:
            load()
        assert str(error.value).endswith("or pass --data.unreadable skip")
        assert "\n" not in str(error.value)


def test_unreadable_images_are_skipped_aloud(
    damaged: Path, load: Load, no_decoder: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    first, test = load(unreadable="skip"), load("test", unreadable="skip")
    assert sorted(reds(first) + reds(test)) == [0, 2, 3, 4, 5, 100, 101, 104, 105]
    assert [red >= 100 for red in reds(first)] == first.label.bool().tolist()
    said = capsys.readouterr().err
    assert f"{damaged}: 3 of 12 images cannot be read and are skipped: cat/01.png: " in said
    assert "dog/02.png: not an image in a format that is read, dog/03.png: No such file or directory" in said
    no_decoder()
    assert load(unreadable="skip").digest == first.digest
    assert capsys.readouterr().err in said


def test_mistakes(photos: Path, load: Load) -> None:
    photos.mkdir()
    with pytest.raises(ValueError, match=r"has no images \(looked for .png, .jpg"):
        load()
    (photos / "IMG_1.HEIC").write_text("")
    with pytest.raises(ValueError, match=r"left out: 1 picture in a format that is not read \(.HEIC\)"):
        load()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every folder")
def test_a_closed_folder(photos: Path, load: Load) -> None:
    fill(photos, cat=5)
    (photos / "cat").chmod(0)
    with pytest.raises(ValueError, match="cannot be listed: Permission denied"):
        load()
    (photos / "cat").chmod(0o700)
