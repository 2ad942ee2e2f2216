"""Files that are not what they should be: one sentence each, and nothing in them is run."""

from __future__ import annotations

import argparse
import gzip
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published import Style, Weights, bn_list, resnet
from safetensors.torch import save_file
from torch import nn

from unshaken.commands.exchange import import_
from unshaken.exchange.reading import read
from unshaken.nets.saved import write_tensors

RAN = Path("it-ran")


class Bomb:
    """What a pickle can do when it is read: here it would leave a file behind."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(RAN),)


def weights() -> dict[str, torch.Tensor]:
    w = Weights()
    for branch in (0, 1):
        resnet(w, torch.zeros(1, 3, 8, 8), Style(norm=bn_list, shortcut=("downsample.conv", "downsample.bn")), branch)
    return w.state


def refused(path: Path, words: str) -> str:
    """By the function and by the verb, in the same single line."""
    with pytest.raises(ValueError, match=words) as caught:
        read(path)
    with pytest.raises(ValueError, match=words) as again:
        import_([str(path), "--out", "out"])
    assert str(again.value) == str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert not Path("out").exists()
    return str(caught.value)


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


BOTH_FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def saved(value: Any, zipped: bool = True) -> Path:
    torch.save(value, "x.pt", _use_new_zipfile_serialization=zipped)
    return Path("x.pt")


@BOTH_FORMATS
@pytest.mark.parametrize("inside", [lambda: Bomb(), lambda: [1, {"deep": Bomb()}]], ids=["plain", "deep"])
def test_code_in_a_pickle_is_not_run(inside, zipped: bool):
    said = refused(saved({"state_dict": weights(), "extra": inside()}, zipped), r"asks for \w+.mkdir.*nothing was run")
    assert not RAN.exists()
    assert "weights_only=False)['state_dict']" in said
    torch.load("x.pt", weights_only=False)
    assert RAN.exists(), "the bomb is real"


def test_a_pickle_of_python_itself_is_not_run():
    Path("x.pt").write_bytes(pickle.dumps({"a": Bomb()}, protocol=2))
    refused(Path("x.pt"), "mkdir|not one of weights")
    assert not RAN.exists()


@BOTH_FORMATS
@pytest.mark.parametrize(
    ("value", "named"),
    [
        (argparse.Namespace(lr=1), "argparse.Namespace"),
        (torch.Generator(), "torch._C.Generator"),
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (Path("x"), r"pathlib\.[\w.]*PosixPath"),
        (print, "print"),
    ],
)
def test_what_asks_for_other_classes_is_named(value: Any, named: str, zipped: bool):
    refused(saved({"state_dict": weights(), "args": value}, zipped), f"asks for {named}, which is no tensor")


@BOTH_FORMATS
def test_values_of_numpy_are_let_in(zipped: bool):
    """Best accuracies and states of generators lie beside the weights of many files."""
    beside = {"acc": np.float64(0.5), "n": np.int64(3), "loss": np.arange(3.0)}
    beside["rng"] = np.random.RandomState(0).get_state()  # noqa: NPY002
    found = read(saved({**beside, "state_dict": OrderedDict(weights())}, zipped))
    assert found.tensors.keys() == weights().keys()
    assert found.beside == tuple(beside)
    arrays = {name: tensor.numpy() for name, tensor in weights().items()}
    assert torch.equal(read(saved(arrays, zipped)).tensors["conv1.weight"], weights()["conv1.weight"])


@BOTH_FORMATS
@pytest.mark.parametrize("part", [0.0001, 0.01, 0.5, 0.999])
def test_a_file_that_is_cut_short(part: float, zipped: bool):
    whole = saved({"state_dict": weights()}, zipped).read_bytes()
    Path("x.pt").write_bytes(whole[: int(part * len(whole))])
    refused(Path("x.pt"), "is cut short|not one of weights")


def test_a_cut_safetensors_file():
    save_file(weights(), "x.safetensors")
    Path("x.safetensors").write_bytes(Path("x.safetensors").read_bytes()[:-9])
    refused(Path("x.safetensors"), "not a whole safetensors file")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title>", "is a web page"),
        (b"\xef\xbb\xbf\r\n <html>", "is a web page"),
        (b"https://drive.google.com/uc?id=1\n", "is a text file, not weights: it begins with 'https://drive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (gzip.compress(b"weights", mtime=0), "is compressed"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 99, "HDF5"),
        (b"\x00\x01\x02\x03" * 99, "neither a PyTorch nor a safetensors file: it begins with 00 01 02 03"),
    ],
)
def test_files_of_other_kinds(content: bytes, words: str):
    Path("x.pt").write_bytes(content)
    refused(Path("x.pt"), words)


def test_no_file_a_folder_and_archives():
    refused(Path("nowhere.pt"), "there is no file nowhere.pt")
    Path("folder").mkdir()
    refused(Path("folder"), "is a folder: name the checkpoint file in it")
    with zipfile.ZipFile("x.zip", "w") as archive:
        archive.writestr("readme.txt", "weights elsewhere")
    refused(Path("x.zip"), "zip archive without weights")
    with tarfile.open("x.tar", "w") as archive:
        archive.add("x.zip")
    refused(Path("x.tar"), "tar archive")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_program_is_not_run():
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), "x.pt")
    refused(Path("x.pt"), r"is a program \(TorchScript\)")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_named(value: float):
    bad = weights()
    bad["layer1.0.conv2.weight"][0, 0] = value
    refused(saved({"state_dict": bad}), "layer1.0.conv2.weight holds 9 values that are no finite numbers")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1, 2], "holds a list, not weights by name"),
        ({"epoch": 3, "best": 0.5}, "its entries are epoch, best"),
        ({"state_dict": {"a.weight": torch.zeros(1), "lr": 0.1}}, "'lr' is a float, not a tensor"),
    ],
)
def test_files_without_weights(value: Any, words: str):
    refused(saved(value), words)


def test_half_precision_is_read_as_float32():
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights().items()}
    found = read(saved(half)).tensors
    assert {tensor.dtype for tensor in found.values()} == {torch.float32, torch.int64}


def test_a_file_of_ours_needs_no_import():
    write_tensors(Path("x.safetensors"), weights(), {"kind": "encoder"})
    refused(Path("x.safetensors"), "is a file of unshaken already")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({0: torch.ones(2)}, "weights under none of"),
        ({"state_dict": {("a", 1): torch.ones(2)}}, "weights under none of"),
        ({"a": torch.eye(2).to_sparse()}, "sparse, complex or quantised"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "sparse, complex or quantised"),
    ],
)
def test_what_is_no_plain_named_number_is_refused(state, words, tmp_path):
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=words):
        read(tmp_path / "odd.pt")
