"""Arrays in NumPy's files: as NumPy reads them, and one line for all that is no plain array."""

from pathlib import Path

import numpy as np
import pytest

from unshaken.storage.array_files import array_from, header_of, mapped_array


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        np.arange(6, dtype=np.float64),
        np.array(3, dtype=np.int64),
        np.zeros((0, 5), np.float32),
        np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
        np.array([True, False]),
    ],
)
def test_it_reads_what_numpy_writes(array: np.ndarray, tmp_path: Path):
    np.save(tmp_path / "a.npy", array)
    found = mapped_array(tmp_path / "a.npy")
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)
    assert found.shape == array.shape


def test_numpy_reads_what_it_writes(tmp_path: Path):
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "a.npy").write_bytes(header_of(pixels) + pixels.tobytes())
    assert np.array_equal(np.load(tmp_path / "a.npy"), pixels)


def npy(header: bytes, data: bytes = bytes(8), version: int = 1) -> bytes:
    width = 2 if version == 1 else 4
    return b"\x93NUMPY" + bytes([version, 0]) + len(header).to_bytes(width, "little") + header + data


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"\x93NUM", "does not begin like"),
        (b"PK\x03\x04" + bytes(40), "does not begin like"),
        (npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"), "not that of an array of numbers"),
        (
            npy(b"{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,), }\n"),
            "not that of an array of numbers",
        ),
        (npy(b"(" * 9000 + b")" * 900), "not that of an array of numbers"),
        (npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }\n", version=2)[:20], "not that of an array"),
        (
            npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }\n"),
            "needs 16 bytes, but 8 follow the header",
        ),
        (npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }\n"), "needs 799,999,999,992 bytes"),
        (npy(b"{'descr': '<f7', 'fortran_order': False, 'shape': (1,), }\n"), "NumPy has no type '<f7'"),
    ],
)
def test_any_other_file_is_refused_in_one_line(content: bytes, said: str, tmp_path: Path):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=said) as caught:
        mapped_array(tmp_path / "a.npy")
    assert "a.npy" in str(caught.value)
    assert "\n" not in str(caught.value)
    if content:
        with pytest.raises(ValueError, match=said):
            array_from(bytearray(content), "b.npy")
