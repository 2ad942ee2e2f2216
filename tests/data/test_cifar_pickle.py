"""Pickles of image sets: arrays come back as they were, and nothing that a file asks for reaches NumPy or Python."""

from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from unshaken.base.pickles import MOST_STEPS, Reader
from unshaken.data.cifar_pickle import read_pickle


def read(content: bytes) -> Any:
    return read_pickle(io.BytesIO(content), "data_batch_1")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_numbers_text_and_arrays_come_back(protocol: int):
    arrays = {
        "rows": np.arange(12.0).reshape(3, 4),
        "columns": np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3)),
        "view": np.arange(12)[::3],
        "big-endian": np.arange(3, dtype=">i4"),
        "empty": np.zeros((0, 3)),
        "words": np.array(["frog", "truck"]),
        "scalar": np.float64(0.5),
        "flags": np.array([True, False]),
    }
    plain = {"list": [1, -2, 3.5, None, True, "é", b"\xff", b""], "nested": ((1, 2), {"a": [()]}), "huge": 1 << 300,
             "set": {1, 2}, "ordered": OrderedDict(a=1)}  # fmt: skip
    found = read(pickle.dumps(arrays | plain | {"again": arrays["rows"]}, protocol=protocol))
    for name, array in arrays.items():
        assert np.array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert found["again"] is found["rows"]
    assert {name: found[name] for name in plain} == plain | {"set": [1, 2]}


def test_a_pickle_of_an_old_python_is_read():
    """The archives are of Python 2: its text is bytes, and an array's bytes are text of latin-1."""
    old = b"\x80\x02}q\x00(U\x04dataU\x03\x00\x80\xffU\x06labelsq\x01]q\x02(K\x01K\x02eu."
    assert read(old) == {"data": "\x00\x80\xff", "labels": [1, 2]}


class Call:
    """A pickle that asks for a call, and gives the result a state."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts


RECONSTRUCT = np.empty(0).__reduce__()[0]
EMPTY = (np.ndarray, (0,), b"b")
F8 = np.dtype("f8")


@pytest.mark.parametrize(
    "call",
    [
        (os.mkdir, ("it-ran",)),
        (getattr, (np.ndarray, "tofile")),
        (np.fromfile, ("/etc/hostname",)),
        (RECONSTRUCT, EMPTY, (1, (1 << 40,), F8, False, b"12345678")),
        (RECONSTRUCT, EMPTY, (1, (-1,), F8, False, b"12345678")),
        (RECONSTRUCT, EMPTY, (1, (1,), np.dtype("O"), False, [b"12345678"])),
        (RECONSTRUCT, EMPTY, (1, (1,), np.dtype("O"), False, b"12345678")),
        (RECONSTRUCT, EMPTY, (1, (1,), np.dtype([("a", "f8")]), False, b"12345678")),
        (RECONSTRUCT, EMPTY, (1, (1,) * 99, F8, False, b"12345678")),
        (RECONSTRUCT, EMPTY, "no state"),
        (RECONSTRUCT, EMPTY, (1, (1,), "f8", False, b"12345678")),
        (np.dtype, ("f8", False, True), (3, "<", None, ("a",), {"a": (F8, 1 << 40)}, 8, 1, 0)),
        (np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 63)),
        (np.dtype, ("V8", False, True), (3, "|", (F8, (1 << 30,)), None, None, 8, 1, 0)),
        (bytes, (1 << 50,)),
    ],
    ids=str,
)
def test_a_hostile_state_reaches_nothing(call: tuple[Any, ...], tmp_path, monkeypatch):
    """Calls and states that once ended in a crash at an address of the file's choice are one sentence, or nothing."""
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps({"data": Call(*call)}, protocol=2)
    if call[0] is np.dtype:  # whose state is left aside, but for the order of its bytes
        with suppress(ValueError):
            assert read(content)["data"] == F8
    else:
        with pytest.raises(ValueError, match="data_batch_1 cannot be read") as caught:
            read(content)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x80\x02})" + b"\x85" * 30_000 + b"K\x01s.", None),
        (b"\x80\x02})" + b"2\x86" * 90 + b"K\x01s.", None),
        (b"\x80\x02" + b"(" * 100_000 + b".", "not a valid pickle"),
        (b"\x80\x02]" + b"h\x00", "not a valid pickle|cut short|exhausted"),
        (b"\x80\x02K\x01K\x02s.", "not a valid pickle"),
        (b"", "exhausted|cut short"),
        (b"cos\nsystem\n.", "os.system is refused"),
        (b"\x80\x02C\x05ab", "cannot be read"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x00.", "cannot be read"),
        (b"c\x1b[31m\nx\n.", r"\?\[31m.x is refused"),
    ],
    ids=range(10),
)
def test_depth_and_sizes_are_bounded(content: bytes, words: str | None):
    if words is None:
        read(content)
        return
    with pytest.raises(ValueError, match=words) as caught:
        read(content)
    assert str(caught.value).isprintable()


def test_a_pickle_of_too_many_steps_is_refused(monkeypatch):
    monkeypatch.setattr("unshaken.base.pickles.MOST_STEPS", 100)
    with pytest.raises(ValueError, match="more than 100 instructions"):
        read(pickle.dumps(list(range(200))))
    assert MOST_STEPS > 1_300_000
    assert Reader({}).read(io.BytesIO(pickle.dumps([1, 2]))) == [1, 2]
