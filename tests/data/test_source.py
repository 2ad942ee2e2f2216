"""Source: which set a name means, and what it says to mistakes."""

from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image

from unshaken.data import source as module
from unshaken.data.images import Images
from unshaken.data.source import DataSource


def test_digits_by_default(tmp_path: Path) -> None:
    source = DataSource(root=str(tmp_path / "none"))
    assert source.load().digest == source.load("train").digest
    assert len(source.load("test")) == 445
    assert not (tmp_path / "none").exists()
    assert len(DataSource(limit=10).load()) == 10
    assert len(DataSource(limit=10).load("test")) == 445
    assert DataSource(size=8).load("test").pixels.shape[2:] == (8, 8)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10"])
def test_known_sets_get_what_the_source_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    empty = DataSource(limit=2).load()

    def recorded(*arguments: object, **named: object) -> Images:
        asked.append((*arguments, named))
        return empty

    for function in ("cifar", "stl"):
        monkeypatch.setattr(module, function, recorded)
    source = DataSource(name, str(tmp_path), size=16, limit=7, download=True)
    source.load("train")
    source.load("test")
    first = () if name == "stl10" else (int(name[5:]),)
    assert asked == [
        (*first, tmp_path, "train", True, {"size": 16, "limit": 7}),
        (*first, tmp_path, "test", True, {"size": 16, "limit": None}),
    ]


def test_mistakes_in_fields() -> None:
    with pytest.raises(ValueError, match="limit is a whole number ≥ 1, not 0"):
        DataSource(limit=0)
    with pytest.raises(ValueError, match="size is a whole number ≥ 1, not -4"):
        DataSource(size=-4)
    with pytest.raises(ValueError, match="--data.unreadable must be stop or skip, not 'ignore'"):
        DataSource(unreadable="ignore")
    with pytest.raises(ValueError, match="digits have 8 x 8 pixels"):
        DataSource(size=32).load()


def test_mistakes_in_names(tmp_path: Path) -> None:
    for name in ("CIFAR-10", "cifar_10", "cifer10"):
        with pytest.raises(ValueError, match=rf"no image set '{name}': .* path .*; did you mean cifar10\?"):
            DataSource(name).load()
    with pytest.raises(ValueError, match=r"no image set '/nowhere/photos': .* nor an existing path$"):
        DataSource("/nowhere/photos").load()
    with pytest.raises(ValueError, match="no image set ''"):
        DataSource("").load()
    (tmp_path / "photos.zip").write_text("")
    with pytest.raises(ValueError, match="photos.zip is an archive: `unshaken pack"):
        DataSource(str(tmp_path / "photos.zip")).load()


def test_mistakes_in_splits() -> None:
    with pytest.raises(ValueError, match="digits has no split 'unlabeled'; it has train, test"):
        DataSource().load("unlabeled")
    with pytest.raises(ValueError, match="stl10 has no split 'valid'; it has train, test, unlabeled"):
        DataSource("stl10").load("valid")


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "photos").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "photos" / "a.png")
    assert len(DataSource("~/photos", "~/root").load()) == 1
    assert (tmp_path / "root" / "cache").is_dir()


def test_one_class_alone_is_remarked(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ones = DataSource().load()
    monkeypatch.setattr(module, "digits", lambda _: ones[ones.label == 1])
    DataSource(limit=9).load()
    assert capsys.readouterr().err == "digits: all 9 train images are of the same class\n"


def test_fields_make_flags() -> None:
    types = {field.name: field.type for field in fields(DataSource)}
    assert types["root"] == "str"
    hash(DataSource())  # a recipe that holds one is a value
