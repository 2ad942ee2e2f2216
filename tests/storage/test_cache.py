"""Decoded copies on disk."""

from pathlib import Path

import numpy as np
import pytest

from unshaken.storage.cache import Decoded, cached, stamp

PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)


def fresh() -> Decoded:
    return PIXELS, {"label": [0, 1]}


def never() -> Decoded:
    raise AssertionError("decoded again")


def test_a_copy_is_used_and_equal(tmp_path: Path) -> None:
    cached(tmp_path / "cache", "key", fresh)
    pixels, about = cached(tmp_path / "cache", "key", never)
    assert (pixels == PIXELS).all()
    assert about == {"label": [0, 1]}
    assert sorted(file.suffix for file in (tmp_path / "cache").iterdir()) == [".json", ".npy"]
    with pytest.raises(AssertionError, match="again"):
        cached(tmp_path / "cache", "another key", never)


@pytest.mark.parametrize("suffix", [".npy", ".json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "altered", "gone"])
def test_a_broken_copy_is_rebuilt(tmp_path: Path, suffix: str, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    cached(tmp_path, "key", fresh)
    file = next(tmp_path.glob(f"*{suffix}"))
    content = file.read_bytes()
    broken = {"cut": content[:-3], "empty": b"", "altered": content[:-3] + b"777"}
    file.unlink() if damage == "gone" else file.write_bytes(broken[damage])
    with pytest.raises(AssertionError, match="again"):
        cached(tmp_path, "key", never)
    said = capsys.readouterr().err
    assert said.startswith("the images are decoded again, because ") if damage != "gone" else said == ""
    assert said.count("\n") == (damage != "gone")
    assert (cached(tmp_path, "key", fresh)[0] == PIXELS).all()
    assert (cached(tmp_path, "key", never)[0] == PIXELS).all()


@pytest.mark.parametrize(
    ("suffix", "old", "new"),
    [
        (".json", b'"label": [', b'"labe1": ['),
        (".json", b"   0,\n   1", b"   1,\n   1"),
        (".npy", b"(2, 3, 2, 2)", b"(3, 2, 2, 2)"),
        (".npy", b"'|u1'", b"'|i1'"),
    ],
)
def test_damage_to_labels_shapes_and_types_is_detected(tmp_path: Path, suffix: str, old: bytes, new: bytes) -> None:
    cached(tmp_path, "key", fresh)
    file = next(tmp_path.glob(f"*{suffix}"))
    assert old in file.read_bytes()
    file.write_bytes(file.read_bytes().replace(old, new))
    with pytest.raises(AssertionError, match="again"):
        cached(tmp_path, "key", never)


def test_a_failed_decoding_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        cached(tmp_path, "key", never)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cache").write_text("a file where the folder would be")
    assert (cached(tmp_path / "cache", "key", fresh)[0] == PIXELS).all()
    assert capsys.readouterr().err.startswith(f"decoded images cannot be written to {tmp_path / 'cache'} (")


def test_stamp_follows_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a"
    missing = stamp([file])
    file.write_text("1")
    one = stamp([file])
    file.write_text("22")
    assert len({missing, one, stamp([file])}) == 3
