"""A folder of one's own images: classes, splits, the cache, unreadable images, mistakes."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from unshaken.data import gather as module
from unshaken.data.folder import folder
from unshaken.data.images import Images
from unshaken.data.source import Source

Load = Callable[..., Images]


def save(path: Path, value: int = 0, size: tuple[int, int] = (8, 8)) -> None:
    """An image whose red says which one it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)


def fill(place: Path, **counts: int) -> None:
    for k, (name, count) in enumerate(counts.items()):
        for i in range(count):
            save(place / name / f"{i:02}.png", 100 * k + i)


def reds(images: Images) -> list[int]:
    return images.pixels[:, 0, 0, 0].tolist()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return tmp_path / "photos"


@pytest.fixture
def load(tmp_path: Path, photos: Path) -> Load:
    def load(split: str = "train", **fields: object) -> Images:
        return Source(str(photos), str(tmp_path / "root"), **fields).load(split)

    return load


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(module, "decode", None)


def test_every_fifth_of_each_class_is_for_testing(photos: Path, load: Load) -> None:
    fill(photos, cat=11, dog=7)
    train, test = load("train"), load("test")
    assert (train.names, train.name, train.split) == (("cat", "dog"), "photos", "train")
    assert sorted(reds(test)) == [4, 9, 104]
    assert sorted(reds(train) + reds(test)) == [*range(11), *range(100, 107)]
    assert [red >= 100 for red in reds(train)] == [label == 1 for label in train.label]
    assert train.pixels.shape[1:] == (3, 8, 8)


def test_a_limit_takes_from_all_classes_and_leaves_the_test_split(photos: Path, load: Load) -> None:
    fill(photos, cat=11, dog=7)
    assert reds(load(limit=5)) == reds(load())[:5] == [0, 100, 1, 101, 2]
    assert len(load("test", limit=1)) == 3
    assert len(load(limit=1000)) == 15


def test_parts_are_used_as_they_come(photos: Path, load: Load) -> None:
    fill(photos / "train", cat=3, dog=2)
    save(photos / "val" / "dog" / "new.png", 7)
    assert reds(load("train")) == [0, 100, 1, 101, 2]
    test = load("test")
    assert (reds(test), test.label.tolist(), test.names) == ([7], [1], ("cat", "dog"))
    save(photos / "val" / "cow" / "new.png")
    with pytest.raises(ValueError, match="a class that the train part lacks: 'cow'; it has cat, dog"):
        load("train")


def test_a_part_by_itself_is_no_class(photos: Path, load: Load) -> None:
    fill(photos / "train", cat=5, dog=5)
    assert load().names == ("cat", "dog")
    assert sorted(reds(load("test"))) == [4, 104]
    (photos / "train").rename(photos / "test")
    assert len(load("test")) == 10
    with pytest.raises(ValueError, match="only a test part"):
        load("train")


def test_a_flat_folder_is_unlabelled(photos: Path, load: Load) -> None:
    for name in ("b.PNG", "a.png", ".hidden.png"):
        save(photos / name, ord(name[0]))
    (photos / "notes.txt").write_text("no image")
    (photos / "empty").mkdir()
    images = load()
    assert (reds(images), images.label, images.names) == ([97, 98], None, ())
    with pytest.raises(ValueError, match="no labels and no test part, so all of it is for training"):
        load("test")


def test_folders_within_a_class_belong_to_it(photos: Path, load: Load) -> None:
    save(photos / "cat" / "b.png", 1)
    save(photos / "cat" / "a" / "deep" / "c.png", 2)
    save(photos / "dog" / "d.png", 3)
    for i in range(5):
        save(photos / "dog" / f"{i}.png", 10)
    assert set(folder(photos)["train"].files) >= {"cat/b.png", "cat/a/deep/c.png"}
    assert load().names == ("cat", "dog")


def test_links_in_a_circle_end(photos: Path) -> None:
    fill(photos, cat=6, dog=6)
    (photos / "cat" / "up").symlink_to(photos)
    (photos / "cat" / "root").symlink_to("/")
    (photos / "cat" / "self").symlink_to("self")
    (photos / "cat" / "here").symlink_to(".")
    (photos / "loop").symlink_to(photos)
    (photos / "pets").symlink_to(photos / "dog")  # a class may well be a link
    listing = folder(photos)
    assert listing["train"].names == ("cat", "dog", "pets")
    assert (len(listing["train"]), len(listing["test"])) == (15, 3)


def test_size_rule(photos: Path, load: Load) -> None:
    save(photos / "a.png", 1, (40, 40))
    assert load().pixels.shape == (1, 3, 40, 40)
    assert load(size=16).pixels.shape == (1, 3, 16, 16)
    save(photos / "b.png", 1, (80, 50))
    assert load().pixels.shape == (2, 3, 32, 32)
    assert load(limit=1).pixels.shape == (1, 3, 32, 32)


def test_decoded_once(photos: Path, load: Load, no_decoder: Callable[[], None]) -> None:
    fill(photos, cat=6)
    digests = [load(split).digest for split in ("train", "test")]
    no_decoder()
    assert [load(split).digest for split in ("train", "test")] == digests
    with pytest.raises(ValueError, match="none of 5 images can be read"):  # another size is another copy
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
            ValueError, match=r"3 of 10 images cannot be read \(first: cat/01.png: .+\); remove"
        ) as error:
            load()
        assert str(error.value).endswith("or pass --data.unreadable skip")
        assert "\n" not in str(error.value)
    assert len(load("test")) == 2


def test_unreadable_images_are_skipped_aloud(
    damaged: Path, load: Load, no_decoder: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    first = load(unreadable="skip")
    assert sorted(reds(first)) == [0, 2, 3, 5, 100, 101, 105]
    assert [red >= 100 for red in reds(first)] == first.label.bool().tolist()
    said = capsys.readouterr().err
    assert f"{damaged}: 3 of 10 images cannot be read and are skipped: cat/01.png: " in said
    assert "dog/02.png: not an image of a known format, dog/03.png: No such file or directory" in said
    no_decoder()
    assert load(unreadable="skip").digest == first.digest
    assert capsys.readouterr().err == said


def test_mistakes(photos: Path, load: Load) -> None:
    photos.mkdir()
    with pytest.raises(ValueError, match=r"has no images \(looked for .png, .jpg"):
        load()
    fill(photos, cat=3)
    with pytest.raises(ValueError, match="at most 3 images in a class; 5 are needed"):
        load()
    save(photos / "loose.png")
    with pytest.raises(ValueError, match=r"both loose images \(loose.png, ...\) and folders of images \(cat/, ...\)"):
        load()
    (photos / "train").mkdir()
    (photos / "test").mkdir()
    with pytest.raises(ValueError, match="train has no images"):
        load()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every folder")
def test_a_closed_folder(photos: Path, load: Load) -> None:
    fill(photos, cat=5)
    (photos / "cat").chmod(0)
    with pytest.raises(ValueError, match="cannot be listed: Permission denied"):
        load()
    (photos / "cat").chmod(0o700)
