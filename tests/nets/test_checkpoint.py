"""Files of encoders and classifiers: there and back bit for bit, and what is said of a file that is not one."""

import json
import os
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unshaken.base.rng import Key
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import (
    add_checksum,
    checksum_in,
    digest,
    load_classifier,
    load_encoder,
    read_tensors,
    save_classifier,
    save_encoder,
    write_tensors,
)
from unshaken.nets.dual_bn import routes_of, set_route, with_routes
from unshaken.nets.heads import zero_classifier
from unshaken.nets.network import Encoder, Network, seeded

GREY = Backbone("resnet-small", 8, 1, (0.5,), (0.25,))
ROUTES = ("clean", "adv")
NAMES = ("cat", "dog", "é")


def images(seed: int = 0) -> Tensor:
    return torch.rand(4, 1, 8, 8, generator=Key(seed).on("cpu"))


def trained(net: nn.Module) -> nn.Module:
    """Away from the initial values, in parameters and statistics, differently in each route."""
    for route in routes_of(net) or ("",):
        set_route(net.train(), route)
        net(images())
    rng = Key("w").on("cpu")
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, generator=rng), alpha=0.1)
    return net.eval()


def encoder(routes: tuple[str, ...]) -> Encoder:
    net = seeded(GREY.build, Key(0))
    return trained(with_routes(net, routes) if routes else net)


def classifier() -> Network:
    net = encoder(())
    head = zero_classifier(64, 3)
    nn.init.uniform_(head.weight, generator=Key(1).on("cpu"))
    return Network(net, head).eval()


def equal(a: nn.Module, b: nn.Module) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.safetensors"


def test_the_folder_of_a_run_is_as_good_as_its_file(tmp_path: Path):
    save_encoder(tmp_path / "encoder.safetensors", encoder(ROUTES), GREY, {})
    assert equal(load_encoder(tmp_path)[0], load_encoder(tmp_path / "encoder.safetensors")[0])
    with pytest.raises(ValueError, match="is a folder: a file is needed"):
        load_classifier(tmp_path)


@pytest.mark.parametrize("routes", [(), ROUTES, ("adv",)])
def test_an_encoder_comes_back_bit_for_bit(routes, path: Path):
    net = encoder(routes)
    save_encoder(path, net, GREY, {"from": "a test", "seed": 3})
    again, backbone, about = load_encoder(path)
    assert backbone == GREY
    assert (about["from"], about["seed"]) == ("a test", 3)
    assert routes_of(again) == routes
    assert equal(net, again)
    for route in routes or ("",):
        set_route(net, route)
        set_route(again.eval(), route)
        assert torch.equal(net(images(1)), again(images(1)))


@pytest.mark.parametrize("routes", [(), ROUTES, ("shared",), ("clean", "adv", "adv_ce")])
def test_an_encoder_is_ready_for_use(routes, path: Path):
    """One call gives eval mode and the robust route; what is trained further asks for train mode."""
    net = encoder(routes)
    with torch.no_grad():
        for k, parameter in enumerate(net.parameters()):
            parameter.add_(0.01 * k)  # so that routes differ
    save_encoder(path, net.train(), GREY, {})
    ready, *_ = load_encoder(path)
    if routes:
        set_route(net, "adv" if "adv" in routes else routes[0])
    assert not any(module.training for module in ready.modules())
    assert torch.equal(ready(images(3)), net.eval()(images(3)))
    assert all(module.training for module in load_encoder(path, training=True)[0].modules())
    if routes == ROUTES:
        set_route(net, "clean")
        assert torch.equal(load_encoder(path, route="clean")[0](images(3)), net(images(3)))
        assert not torch.equal(ready(images(3)), net(images(3)))


def test_a_digest_sees_extra_states():
    class Extra(nn.Module):
        def __init__(self, state: object) -> None:
            super().__init__()
            self.state = state

        def get_extra_state(self) -> object:
            return self.state

    assert digest(Extra({"scale": 1})) == digest(Extra({"scale": 1}))
    assert digest(Extra({"scale": 1})) != digest(Extra({"scale": 2}))
    assert digest(Extra(lambda: 1)) != digest(Extra(lambda: 1))  # cannot be written out: equal to nothing


def test_a_classifier_comes_back_bit_for_bit(path: Path):
    net = classifier()
    save_classifier(path, net, GREY, NAMES, {"from": "a test"})
    again, about = load_classifier(path)
    assert tuple(about["names"]) == NAMES
    assert about["from"] == "a test"
    assert equal(net, again)
    assert torch.equal(net(images(1), "adv"), again.eval()(images(1), "adv"))


def test_equal_contents_are_equal_files(path: Path):
    """Though the library writes the metadata of a header in an order of chance."""
    written = set()
    for _ in range(6):
        write_tensors(path, {"b": torch.ones(2), "a": torch.zeros(3)}, {"kind": "some", "ε": "8/255"})
        written.add(path.read_bytes())
    assert len(written) == 1
    assert read_tensors(path, {"kind": str})[1]["ε"] == "8/255"


def test_saving_is_atomic_and_leaves_no_part(path: Path):
    save_encoder(path, encoder(()), GREY, {})
    save_encoder(path, encoder(ROUTES), GREY, {})
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert routes_of(load_encoder(path)[0]) == ROUTES


def test_a_crash_leaves_the_old_file_whole(path: Path, monkeypatch: pytest.MonkeyPatch):
    save_encoder(path, encoder(ROUTES), GREY, {})

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        save_encoder(path, encoder(()), GREY, {})
    assert routes_of(load_encoder(path)[0]) == ROUTES


def test_tensors_of_any_layout(path: Path):
    w = torch.arange(6.0).view(2, 3)
    stored = {"t": w.T, "slice": w[:, 1], "grad": w.clone().requires_grad_(), "int": torch.tensor(3)}
    write_tensors(path, stored, {"kind": "x"})
    tensors, about = read_tensors(path)
    assert about == {"kind": "x"}
    assert all(torch.equal(tensors[name], stored[name].detach()) for name in stored)


def test_nan_is_refused_in_what_is_noted(path: Path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_encoder(path, encoder(()), GREY, {"loss": float("nan")})
    assert not path.exists()


def refused(load, path: Path, match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


each_load = pytest.mark.parametrize("load", [load_encoder, load_classifier])


@each_load
@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file(load, part, path: Path):
    save_encoder(path, encoder(ROUTES), GREY, {})
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    refused(load, path, "is not a complete safetensors file")


@each_load
def test_a_file_of_something_else(load, path: Path):
    torch.save({"state_dict": encoder(()).state_dict()}, path)
    refused(load, path, "is not a complete safetensors file")


@each_load
@pytest.mark.parametrize("header", [None, {"format": "pt"}, {"format": "pt", "about": "{}"}])
def test_somebody_else_s_safetensors(load, header, path: Path):
    save_file(encoder(()).state_dict(), path, header)
    refused(load, path, "was not written by unshaken: its format is")


@each_load
def test_no_file(load, path: Path):
    refused(load, path, "there is no file")
    refused(load, path.parent, "is a folder")


def test_the_wrong_kind(path: Path):
    save_encoder(path, encoder(()), GREY, {})
    refused(load_classifier, path, "kind 'encoder'.*kind 'classifier'")
    save_classifier(path, classifier(), GREY, NAMES, {})
    refused(load_encoder, path, "kind 'classifier'.*kind 'encoder'")
    write_tensors(path, {}, {"epoch": 3})
    refused(load_encoder, path, "kind None.*kind 'encoder'")


def rewritten(path: Path, change) -> None:
    tensors, about = read_tensors(path)
    change(tensors, about)
    write_tensors(path, tensors, about)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, about: tensors.pop("backbone.conv1.weight"),
        lambda tensors, about: tensors.update(extra=torch.zeros(1)),
        lambda tensors, about: tensors.update({"backbone.bn1.routes.adv.weight": torch.zeros(2)}),
        lambda tensors, about: about.update(routes=[]),
        lambda tensors, about: about.update(routes=["clean"]),
        lambda tensors, about: about["backbone"].update(name="resnet18"),
    ],
    ids=["missing", "extra", "shape", "no routes", "other routes", "other network"],
)
def test_tensors_that_do_not_fit(change, path: Path):
    save_encoder(path, encoder(ROUTES), GREY, {})
    rewritten(path, change)
    refused(load_encoder, path, "does not fit the network it names")


def test_what_is_noted_is_json_in_the_header(path: Path):
    save_encoder(path, encoder(ROUTES), GREY, {"from": "a test"})
    header = json.loads(path.read_bytes()[8:].split(b"}}", 1)[0] + b"}}")
    about = json.loads(header["__metadata__"]["about"])
    assert about["kind"] == "encoder"
    assert about["routes"] == list(ROUTES)
    assert about["backbone"]["name"] == "resnet-small"


@pytest.mark.parametrize("lost", ["routes", "backbone"])
def test_a_header_of_another_version_is_named(lost, tmp_path):
    """A field too few or too many is one line that names the file."""
    backbone = Backbone("resnet-small", 8, 1, (0.5,), (0.5,))
    save_encoder(tmp_path / "e.safetensors", seeded(backbone.build, Key(0)), backbone, {})
    tensors, about = read_tensors(tmp_path / "e.safetensors")
    del about[lost]
    write_tensors(tmp_path / "less.safetensors", tensors, about)
    with pytest.raises(ValueError, match="less.safetensors has a header that this version cannot read"):
        load_encoder(tmp_path / "less.safetensors")
    about = read_tensors(tmp_path / "e.safetensors")[1]
    about["backbone"]["colour"] = 3
    write_tensors(tmp_path / "more.safetensors", tensors, about)
    with pytest.raises(ValueError, match="more.safetensors has a header that this version cannot read"):
        load_encoder(tmp_path / "more.safetensors")


@pytest.mark.parametrize("load", [load_encoder, read_tensors, checksum_in])
def test_a_flipped_bit_anywhere_is_seen(load, path: Path):
    """In the header's length, its words, the notes, the checksum, the weights, at both ends."""
    save_encoder(path, encoder(ROUTES), GREY, {"from": "a test"})
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    rng = random.Random(1)
    for at in [0, 7, 8, header - 1, header, len(content) - 1, *(rng.randrange(header) for _ in range(50)),
               *(rng.randrange(header, len(content)) for _ in range(15))]:  # fmt: skip
        changed = bytearray(content)
        changed[at] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        refused(load, path, "damaged or altered|not a complete safetensors file|was not written by|no checksum|JSON")
    path.write_bytes(content)
    load(path)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (
            {"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}},
            "the number of bytes of its tensor 'w' does not fit the shape",
        ),
        ({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, "tensors end at byte"),
        ({"w": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]}}, "does not begin where"),
        ({"w": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, "'w.dtype' is 'F99'"),
        ({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, r"'w.shape\[0\]' is -1"),
        ({"w": {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]}}, "'w.shape' is '1'"),
        ({"w": {"dtype": "F32", "shape": [1]}}, "it has no 'w.data_offsets'"),
        ({"w": [1]}, "'w' is a list of 1 items"),
        ({"__metadata__": {"about": 3}}, "'__metadata__.about' is 3"),
        ([], "is a list of 0 items"),
        ({"deep": "DEEP"}, "nested more than"),
    ],
)
def test_a_header_is_checked_before_it_is_trusted(header, said, path: Path):
    text = json.dumps(header).replace('"DEEP"', "[" * 5000 + "]" * 5000).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    refused(read_tensors, path, said)


def test_a_declared_length_is_bounded_by_the_file(path: Path):
    path.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    refused(read_tensors, path, "it has 10 bytes, but states a header of 4,611,686,018,427,387,904")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda about: about["backbone"].update(name="wrn-28-300"), "does not fit the network it names: that has"),
        (
            lambda about: about["backbone"].update(name="wide_resnet28w300"),
            "does not fit the network it names: that has",
        ),
        (lambda about: about["backbone"].update(name="wide_resnet60004w2"), "header that this version cannot read"),
        (lambda about: about["backbone"].update(name="wrn-60004-2"), "header that this version cannot read"),
        (lambda about: about["backbone"].update(name=3), "'backbone.name' is 3, but must be text"),
        (lambda about: about["backbone"].update(mean="x"), "'backbone.mean' is 'x', but must be a list"),
        (lambda about: about["backbone"].update(std=[]), "'backbone.std' is a list of 0 items"),
        (lambda about: about.update(backbone=None), "'backbone' is null, but must be an object"),
        (lambda about: about.update(routes={"a": 1}), "'routes' is an object"),
        (lambda about: about.update(kind=["encoder"]), "'kind' is a list"),
    ],
)
def test_a_header_whose_words_are_of_another_kind(change, said, path: Path):
    """Written by our writer, so that its checksum is right; and refused at once, before anything large is made."""
    save_encoder(path, encoder(()), GREY, {})
    rewritten(path, lambda _, about: change(about))
    refused(load_encoder, path, said)


def test_a_file_of_an_earlier_version_says_how_it_gets_a_checksum(path: Path):
    net = encoder(ROUTES)
    save_encoder(path, net, GREY, {"from": "a test"})
    tensors, about = read_tensors(path)
    save_file(tensors, path, {"format": "unshaken/1", "about": json.dumps(about)})
    refused(load_encoder, path, "has no checksum.*verify --write")
    add_checksum(path)
    assert equal(load_encoder(path)[0], net)
    before = path.read_bytes()
    add_checksum(path)
    assert path.read_bytes() == before
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    refused(add_checksum, path, "damaged or altered")


def test_any_reader_of_safetensors_reads_our_files(path: Path):
    net = encoder(())
    save_encoder(path, net, GREY, {})
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in load_file(path).items())


def test_empty_tensors_and_all_kinds_of_numbers(path: Path):
    kinds = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    kinds += (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    stored = {str(kind): torch.ones(3, dtype=kind) for kind in kinds} | {"empty": torch.empty(0, 4)}
    write_tensors(path, stored, {})
    found = read_tensors(path)[0]
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in stored.items()
    )
