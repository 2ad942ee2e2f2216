"""Parquet in the layout of Hugging Face: names, splits, shards, the cache, mistakes."""

import json
import os
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from unshaken.data import prefetch as module
from unshaken.data.images import Images
from unshaken.data.source import DataSource

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

Load = Callable[..., Images]


def png(value: int, size: int = 8) -> bytes:
    file = BytesIO()
    Image.new("RGB", (size, size), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write(
    path: Path, values: list[int], labels: list[object] | None, names: list[str] | None = None, plain: bool = False
) -> None:
    """Images whose red is their value."""
    path.parent.mkdir(exist_ok=True)
    images = [png(value) if plain else {"bytes": png(value), "path": None} for value in values]
    columns = {"image": images} if labels is None else {"image": images, "label": labels}
    table = pa.table(columns)
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)


def reds(images: Images) -> list[int]:
    return images.pixels[:, 0, 0, 0].tolist()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "set"


@pytest.fixture
def load(tmp_path: Path, place: Path) -> Load:
    def load(split: str = "train", name: Path = place, **fields: object) -> Images:
        return DataSource(str(name), str(tmp_path / "root"), **fields).load(split)

    return load


def test_parts_shards_and_names(place: Path, load: Load) -> None:
    for k in range(3):
        write(place / f"train-{k:05}-of-00003.parquet", [10 * k, 10 * k + 1], [k % 2, 0], ["cat", "dog", "cow"])
    write(place / "validation-00000-of-00001.parquet", [99], [2], ["cat", "dog", "cow"])
    train, test = load("train"), load("test")
    assert reds(train) == [0, 1, 10, 11, 20, 21]
    assert train.label.tolist() == [0, 0, 1, 0, 0, 0]
    assert train.names == test.names == ("cat", "dog", "cow")
    assert (reds(test), test.label.tolist()) == ([99], [2])
    write(place / "test.parquet", [77], [1], ["cat", "dog", "cow"])
    assert reds(load("test")) == [77]


@pytest.mark.parametrize("plain", [True, False])
def test_a_file_by_itself_is_split_by_content(place: Path, load: Load, plain: bool) -> None:
    file = place / "train.parquet"
    write(file, list(range(100)), [0, 1] * 50, plain=plain)
    for name in (file, place):
        train, test = load("train", name), load("test", name)
        assert sorted(reds(train) + reds(test)) == list(range(100))
        assert 10 <= len(test) <= 30
        assert [red % 2 for red in reds(test)] == test.label.tolist()
        assert train.names == ("0", "1")
    assert int(test.image_digests[0]) == int(Images.of(test.pixels[:1]).image_digests)


def test_undeclared_labels_are_their_own_names(place: Path, load: Load) -> None:
    write(place / "train-0.parquet", [0, 1, 2], [7, 3, 7])
    write(place / "test-0.parquet", [3], [9])
    assert (load().names, load().label.tolist(), load("test").label.tolist()) == (("3", "7", "9"), [1, 0, 1], [2])
    write(place / "train-0.parquet", [0, 1], ["dog", "cat"])
    write(place / "test-0.parquet", [3], ["dog"])
    assert (load().names, load().label.tolist(), load("test").label.tolist()) == (("cat", "dog"), [1, 0], [1])


@pytest.mark.parametrize("labels", [None, [-1] * 6])
def test_unlabelled(place: Path, load: Load, labels: list[object] | None) -> None:
    write(place / "a.parquet", list(range(6)), labels)
    assert (len(load()), load().label, load().names) == (6, None, ())
    with pytest.raises(ValueError, match="no labels and no test split"):
        load("test")


def test_a_limit_decodes_no_more_than_it_needs(place: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place / "a.parquet", list(range(100)), [k % 2 for k in range(100)])
    decoded = []
    old = module.picture
    monkeypatch.setattr(module, "picture", lambda *given: decoded.append(1) or old(*given))
    few = load(limit=9)
    assert len(few) == 9
    assert 9 <= len(decoded) <= 18
    count = len(decoded)
    assert load(limit=9).digest == few.digest
    assert len(decoded) == count
    test = load("test", limit=9)
    assert reds(few) == reds(load())[:9] == [red for red in range(100) if red not in reds(test)][:9]


def test_decoded_again_when_the_file_changes(place: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place / "a.parquet", [1, 2], None)
    assert reds(load()) == [1, 2]
    write(place / "a.parquet", [3, 4], None)
    os.utime(place / "a.parquet", ns=(1, 1))
    assert reds(load()) == [3, 4]
    monkeypatch.setattr(module, "picture", None)
    assert reds(load()) == [3, 4]


def test_unreadable_rows(place: Path, load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    images = [{"bytes": png(1), "path": None}, {"bytes": b"nonsense", "path": None}, {"bytes": None, "path": "a.png"}]
    place.mkdir()
    pq.write_table(pa.table({"image": [*images, None]}), place / "a.parquet")
    with pytest.raises(ValueError, match=r"3 of 4 images cannot be read \(first: row 1 of a.parquet: not an image"):
        load()
    assert reds(load(unreadable="skip")) == [1]
    assert "row 2 of a.parquet: no image data" in capsys.readouterr().err


def test_a_missing_shard(place: Path, load: Load) -> None:
    write(place / "train-00001-of-00002.parquet", [1], [0])
    with pytest.raises(ValueError, match="lacks train-00000-of-00002.parquet, one of 2 shards"):
        load()


def test_labels_that_cannot_be(place: Path, load: Load) -> None:
    write(place / "a.parquet", [1, 2], [0, None])
    with pytest.raises(ValueError, match="1 rows have no label"):
        load()
    write(place / "a.parquet", [1, 2], [0, -1])
    with pytest.raises(ValueError, match="1 rows have label -1"):
        load()
    write(place / "a.parquet", [1, 2], [0.5, 1.0])
    with pytest.raises(ValueError, match="labels must be whole numbers or texts, and these are double"):
        load()
    write(place / "a.parquet", [1] * 5, [2] * 5, ["cat", "dog"])
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.1"):
        load()


def test_not_a_set_of_images(place: Path, load: Load) -> None:
    place.mkdir()
    (place / "a.parquet").write_text("text")
    with pytest.raises(ValueError, match="a.parquet cannot be read as Parquet: "):
        load()
    pq.write_table(pa.table({"x": [1], "label": [1]}), place / "a.parquet")
    with pytest.raises(ValueError, match="has no column 'image' of encoded images .* it has x, label"):
        load()
    pq.write_table(pa.table({"image": [1]}), place / "a.parquet")
    with pytest.raises(ValueError, match="has no column 'image' of encoded images"):
        load()


def test_without_pyarrow(place: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place / "a.parquet", [1], None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install 'unshaken\[data\]'"):
        load()


@pytest.mark.skipif("UNSHAKEN_DATA" not in os.environ, reason="UNSHAKEN_DATA names no folder with CIFAR in Parquet")
@pytest.mark.parametrize(
    ("name", "names"), [("cifar10", ("airplane", "automobile")), ("cifar100", ("apple", "aquarium_fish"))]
)
def test_real_cifar(tmp_path: Path, name: str, names: tuple[str, str]) -> None:
    folder = Path(os.environ["UNSHAKEN_DATA"], name)
    images = DataSource(str(folder), str(tmp_path), limit=500).load("train")
    assert images.pixels.shape == (500, 3, 32, 32)
    assert images.names[:2] == names
    classes = len(images.names)
    counts = images.label.bincount(minlength=classes).float()
    assert classes == int(name[5:])
    assert counts.max() < 500 / classes + 6 * (500 / classes) ** 0.5  # the order is a shuffled one
    row = next(pq.ParquetFile(folder / "train-00000-of-00003.parquet").iter_batches(8)).to_pylist()[7]
    image = Image.open(BytesIO(row["image"]["bytes"]))
    assert [images.pixels[7, :, y, x].tolist() for y in (0, 31) for x in (3, 17)] == [
        list(image.getpixel((x, y))) for y in (0, 31) for x in (3, 17)
    ]
    assert images.label[7] == row["label"]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train-0.parquet", "valid-0.parquet"),
        ("cifar10-train.parquet", "cifar10-test.parquet"),
        ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
        ("default/train/0000.parquet", "default/validation/0000.parquet"),
        ("train/0.parquet", "test/0.parquet"),
        ("Train.PARQUET", "Dev.Parquet"),
        ("train_000.parquet", "dev_000.parquet"),
    ],
)
def test_names_of_parts(place: Path, load: Load, train: str, test: str) -> None:
    for name, values in ((train, [1, 2]), (test, [3])):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        write(place / name, values, [0] * len(values))
        (place / name).with_name(f"._{Path(name).name}").write_bytes(b"of a Mac")
    (place / "README.md").write_text("")
    assert (reds(load()), reds(load("test"))) == ([1, 2], [3])


def test_parts_that_are_not_clear(place: Path, load: Load) -> None:
    write(place / "train-0.parquet", [1], [0])
    write(place / "secret-0.parquet", [2], [0])
    with pytest.raises(
        ValueError, match="has train beside secret-0, which may be splits .*: if they are splits, call the splits train"
    ):
        load()
    (place / "secret-0.parquet").unlink()
    (place / "more").mkdir()
    write(place / "more" / "x.parquet", [2], [0])
    with pytest.raises(ValueError, match="has Parquet files, and folders with Parquet files"):
        load()
    (place / "train-0.parquet").rename(place / "other.png")
    Image.new("RGB", (4, 4)).save(place / "other.png")
    with pytest.raises(ValueError, match=r"has images \(other.png, ...\) and Parquet files \(more/x.parquet, ...\)"):
        load()


def test_other_columns(place: Path, load: Load) -> None:
    place.mkdir()
    images = [{"bytes": png(value), "path": None} for value in (5, 6)]
    pq.write_table(pa.table({"id": [7, 8], "Picture": images, "labels": [1, 0]}), place / "train.parquet")
    pq.write_table(pa.table({"thing": [png(9)], "Labels": [1.0]}), place / "test.parquet")
    assert (reds(load()), load().label.tolist()) == ([5, 6], [1, 0])
    assert (reds(load("test")), load("test").label.tolist()) == ([9], [1])


def test_words_in_one_part_and_numbers_in_the_other(place: Path, load: Load) -> None:
    write(place / "train.parquet", [1, 2], ["dog", "cat"])
    write(place / "test.parquet", [3], [1])
    assert load().names == ("cat", "dog")
    with pytest.raises(ValueError, match="has labels in words and .* in numbers, and no file says which number"):
        load("test")
    write(place / "test.parquet", [3], [0], ["dog", "cat"])  # which declares what its numbers mean
    assert (load("test").names, load("test").label.tolist()) == (("cat", "dog"), [1])
    write(place / "train.parquet", [1, 2], [1, 0], ["dog", "cat"])
    write(place / "test.parquet", [3], [1])
    assert (load("test").names, load("test").label.tolist()) == (("dog", "cat"), [1])
    write(place / "test.parquet", [3], ["dog"])
    assert load("test").label.tolist() == [0]
    write(place / "test.parquet", [3], [0], ["cat", "dog"])  # the same classes in another order
    assert load("test").label.tolist() == [1]
    write(place / "test.parquet", [3], ["cow"])
    with pytest.raises(ValueError, match="has the class 'cow', which the train split lacks; that has dog, cat"):
        load("test")
    assert len(load()) == 2


def test_a_shard_without_labels(place: Path, load: Load) -> None:
    write(place / "train-0.parquet", [1], [0])
    write(place / "train-1.parquet", [2], None)
    with pytest.raises(ValueError, match="train-1.parquet has no column of labels, but train-0.parquet has one"):
        load()
    write(place / "train-0.parquet", [1], [0], ["cat", "dog"])
    write(place / "train-1.parquet", [1], [0], ["dog", "cat"])
    with pytest.raises(ValueError, match="train-1.parquet declares other classes than train-0.parquet"):
        load()


@pytest.mark.parametrize(
    "header", ["[]", "7", "{", '{"info": 3}', '{"info": {"features": {"label": {"names": 7}}}}', "[" * 100_000]
)
def test_a_header_that_makes_no_sense(place: Path, load: Load, header: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(place / "train.parquet", [1, 2], [1, 0])
    table = pq.read_table(place / "train.parquet").replace_schema_metadata({"huggingface": header})
    pq.write_table(table, place / "train.parquet")
    write(place / "test.parquet", [3], [1])
    assert load().names == ("0", "1")
    assert "its Hugging Face header cannot be understood, so the labels serve as class names" in capsys.readouterr().err


def test_damaged_files_are_named(place: Path, load: Load) -> None:
    write(place / "a.parquet", list(range(50)), [k % 2 for k in range(50)])
    whole, said = (place / "a.parquet").read_bytes(), []
    for at in range(4, len(whole), len(whole) // 60):
        broken = bytearray(whole)
        broken[at] ^= 0x55
        (place / "a.parquet").write_bytes(broken)
        os.utime(place / "a.parquet", ns=(at, at))
        try:
            load(unreadable="skip")
        except ValueError as error:
            said.append(str(error))
    assert len(said) > 5
    assert all("\n" not in line and (str(place) in line or "labels must lie in" in line) for line in said)
