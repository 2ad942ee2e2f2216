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

from unshaken.commands.interop import import_
from unshaken.layouts.foreign import read
from unshaken.nets.checkpoint import write_tensors
from unshaken.nets.torch_files import real

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
def test_code_beside_the_weights_is_skipped_and_not_run(inside, zipped: bool):
    found = read(saved({"state_dict": weights(), "extra": inside()}, zipped))
    assert not RAN.exists()
    assert [container.key for container in found.containers] == ["state_dict"]
    assert all(torch.equal(found.containers[0].tensors[name], tensor) for name, tensor in weights().items())
    assert any(name.endswith(".mkdir") for name in found.skipped)
    torch.load("x.pt", weights_only=False)
    assert RAN.exists(), "the bomb is real"


def test_a_pickle_of_python_itself_is_not_run():
    Path("x.pt").write_bytes(pickle.dumps({"a": Bomb()}, protocol=2))
    assert "which was not run" in refused(Path("x.pt"), "mkdir")
    assert not RAN.exists()


@BOTH_FORMATS
@pytest.mark.parametrize(
    ("value", "named"),
    [
        (argparse.Namespace(lr=1), "argparse.Namespace"),
        (torch.Generator(), "torch._C.Generator"),
        (Path("x"), "PosixPath"),
        (print, "print"),
        (torch.eye(2).to_sparse(), "torch._utils._rebuild_sparse_tensor"),
    ],
)
def test_tensors_beside_other_classes_are_read(value: Any, named: str, zipped: bool):
    found = read(saved({"args": value, "state_dict": weights()}, zipped))
    assert any(name.endswith(named) for name in found.skipped)
    assert found.containers[0].tensors.keys() == weights().keys()
    assert "args" in found.entries


@BOTH_FORMATS
def test_a_network_that_was_saved_whole(zipped: bool):
    """torch.save(net): its class is not built, and its parameters and buffers have the names that its state has."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.Linear(4, 2)))
    found = read(saved({"model": net, "best": 1.0}, zipped)).containers
    assert [container.key for container in found] == ["model"]
    assert found[0].tensors.keys() == net.state_dict().keys()
    assert all(torch.equal(found[0].tensors[name], tensor) for name, tensor in net.state_dict().items())


@BOTH_FORMATS
def test_every_kind_of_tensor_comes_back_as_it_is(zipped: bool):
    t = torch.arange(12.0).reshape(3, 4)
    kinds = {"t": t.t(), "row": t[1:], "half": t.half(), "bf": t.bfloat16(), "long": torch.tensor(7), "none": t[:0],
             "bool": t > 3, "parameter": nn.Parameter(t), "double": t.double(),
             "float8": t.to(torch.float8_e4m3fn)}  # fmt: skip
    found = read(saved(kinds, zipped)).containers[0].tensors
    assert found.keys() == kinds.keys()
    for name, tensor in kinds.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name].float(), tensor.float())


def test_a_pickle_of_tensors_and_arrays():
    Path("x.pkl").write_bytes(pickle.dumps({"model": {"a": torch.ones(2), "b": np.ones(2)}}))
    (found,) = read(Path("x.pkl")).containers
    assert found.tensors["a"].tolist() == found.tensors["b"].tolist() == [1, 1]


def test_zeros_in_the_middle_of_a_file_are_found_by_its_checksums():
    whole = bytearray(saved({"state_dict": weights(), "more": torch.rand(1 << 19)}).read_bytes())
    assert read(Path("x.pt"))
    middle = len(whole) // 2
    whole[middle : middle + 1000] = bytes(1000)
    Path("x.pt").write_bytes(whole)
    refused(Path("x.pt"), "the checksum of x/data/.* does not fit its content")


class Made:
    """A pickle of chosen calls: what a hostile file may ask for."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


STORAGE = torch.ones(4).untyped_storage()
REBUILD = torch._utils._rebuild_tensor_v2


@pytest.mark.parametrize(
    "call",
    [
        (REBUILD, (STORAGE, *view, False, {}))
        for view in (
            (14, (4,), (1,)),
            (0, (1 << 40,), (0,)),
            (0, (2, 2), (1 << 62, 1)),
            (-1, (2,), (1,)),
            (0, (2,), (-1,)),
            (0, ("x",), (1,)),
            (0, (2,) * 40, (0,) * 40),
        )
    ],
)
def test_a_tensor_that_reaches_out_of_its_numbers_is_skipped(call: tuple[Any, ...]):
    """It is left out like anything else that cannot be made: a network that needs it misses it."""
    torch.save({"state_dict": weights(), "wide": Made(*call)}, "x.pt")
    found = read(Path("x.pt"))
    assert found.containers[0].key == "state_dict"
    assert len(found.containers) == 1


def test_keys_of_nested_tuples_are_left_out():
    """Their hash would take a nested call a level, or as long as a file likes."""
    deep = b"\x80\x02}(X\x01\x00\x00\x00aK\x01)" + b"\x85" * 30_000 + b"K\x02u."
    Path("x.pt").write_bytes(deep)
    refused(Path("x.pt"), "without named tensors")
    bomb = b"\x80\x02})" + b"2\x86" * 100 + b"K\x02s."
    Path("x.pt").write_bytes(bomb)
    refused(Path("x.pt"), "without named tensors")


def test_a_file_that_contains_itself_ends():
    """A list in itself, and a dictionary in itself, are looked at once."""
    itself: dict[str, Any] = {"state_dict": weights()}
    itself["self"], itself["list"] = itself, [itself]
    assert len(read(saved(itself)).containers) == 1


def test_a_file_that_swells_is_not_unpacked():
    with zipfile.ZipFile("x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", pickle.dumps({}))
        archive.writestr("x/data/0", bytes(1 << 24))
    refused(Path("x.pt"), "says that it unpacks to 16,")


@BOTH_FORMATS
def test_values_of_numpy_are_let_in(zipped: bool):
    """Best accuracies and states of generators lie beside the weights of many files."""
    beside = {"acc": np.float64(0.5), "n": np.int64(3), "loss": np.arange(3.0)}
    beside["rng"] = np.random.RandomState(0).get_state()  # noqa: NPY002
    found = read(saved({**beside, "state_dict": OrderedDict(weights())}, zipped))
    by_key = {container.key: container for container in found.containers}
    assert by_key["state_dict"].tensors.keys() == weights().keys()
    assert by_key[""].tensors["loss"].tolist() == [0, 1, 2]
    arrays = {name: tensor.numpy() for name, tensor in weights().items()}
    again = read(saved(arrays, zipped)).containers[0].tensors
    assert torch.equal(real(again["conv1.weight"], "", ""), weights()["conv1.weight"])


@BOTH_FORMATS
@pytest.mark.parametrize("part", [0.0001, 0.01, 0.5, 0.999])
def test_a_file_that_is_cut_short(part: float, zipped: bool):
    whole = saved({"state_dict": weights()}, zipped).read_bytes()
    Path("x.pt").write_bytes(whole[: int(part * len(whole))])
    refused(Path("x.pt"), "is cut short|cannot be read as weights")


def test_a_cut_safetensors_file():
    save_file(weights(), "x.safetensors")
    Path("x.safetensors").write_bytes(Path("x.safetensors").read_bytes()[:-9])
    refused(Path("x.safetensors"), "not a complete safetensors file")


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
    with pytest.raises(ValueError, match="is a folder: name the checkpoint file in it"):
        read(Path("folder"))
    with pytest.raises(ValueError, match="folder has none of model.safetensors, .* name a file, or a folder"):
        import_(["folder", "--out", "out"])  # the verb takes folders that transformers and open_clip write
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
    saved({"state_dict": bad})
    with pytest.raises(ValueError, match="layer1.0.conv2.weight holds 9 values that are not finite"):
        import_(["x.pt", "--out", "out", "--normalisation", "none"])
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1, 2], "holds a list without named tensors"),
        ({"epoch": 3, "best": 0.5}, "its entries are epoch, best"),
        ({0: {("a", 1): torch.ones(2)}}, "without named tensors"),
    ],
)
def test_files_without_weights(value: Any, words: str):
    refused(saved(value), words)


def test_half_precision_becomes_float32():
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights().items()}
    found = read(saved(half)).containers[0].tensors
    assert {real(tensor, name, "").dtype for name, tensor in found.items()} == {torch.float32, torch.int64}


def test_a_file_of_ours_needs_no_import():
    write_tensors(Path("x.safetensors"), weights(), {"kind": "encoder"})
    refused(Path("x.safetensors"), "was written by unshaken")


def test_what_is_no_plain_number_is_refused():
    with pytest.raises(ValueError, match="sparse, complex or quantised"):
        real(torch.ones(2, dtype=torch.complex64), "a", "x.pt")
    with pytest.raises(ValueError, match="'a' is a float, not a tensor"):
        real(0.5, "a", "x.pt")


def test_a_zip_whose_list_of_members_is_no_text_is_damaged():
    """The name of a member says that it is UTF-8, and is not."""
    content = bytearray(saved({"state_dict": weights()}).read_bytes())
    at = content.rindex(b"PK\x01\x02")
    content[at + 9] |= 8
    content[at + 46] = 0xFF
    Path("y.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"y\.pt is damaged .*: download or copy it again"):
        read(Path("y.pt"))
