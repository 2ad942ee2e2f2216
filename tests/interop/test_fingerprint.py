"""A fingerprint holds for the file that it was taken of, and finds a swapped route and any changed weight."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from unshaken.base.rng import Key
from unshaken.commands.interop import verify
from unshaken.interop.fingerprint import (
    TOLERANCE,
    VERSION,
    answers,
    compare,
    deviation,
    digest,
    images,
    verify_fingerprint,
    write_fingerprint,
)
from unshaken.interop.load import LoadedModel, load_model
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import read_tensors, save_classifier, save_encoder, write_tensors
from unshaken.nets.dual_bn import merge_route, with_routes
from unshaken.nets.heads import zero_classifier
from unshaken.nets.network import Network, seeded

SMALL = Backbone("resnet-small", 32)


def encoder(routes: tuple[str, ...] = ("clean", "adv"), backbone: Backbone = SMALL):
    """With batch norms that differ between routes as after training: a little."""
    net = seeded(backbone.build, Key(0))
    if routes:
        with_routes(net, routes)
    rng = Key("w").on("cpu")
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.add_(0.05 * torch.rand(tensor.shape, generator=rng))
    return net.eval()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_encoder(tmp_path / "encoder.safetensors", encoder(), SMALL, {"pretrain": {}})
    write_fingerprint(tmp_path)
    return tmp_path / "encoder.safetensors"


def test_the_images_are_these():
    """By loops over whole numbers; they lie in [0, 1], and no two are alike."""
    x = images(3, 5)
    for n, c, i, j in torch.cartesian_prod(*map(torch.arange, (4, 3, 5, 5))).tolist():
        assert (
            x[n, c, i, j]
            == torch.tensor((7 * n * (n + 1) * i + (3 + 11 * n) * j + n * i * j + 61 * c + 40 * n) % 256) / 255
        )
    assert (x.min() >= 0) & (x.max() <= 1)
    assert len({tuple(image.flatten().tolist()) for image in x}) == 4
    assert images(1, 224).shape == (4, 1, 224, 224)


def test_answers_are_those_of_each_route():
    net = encoder()
    found = answers(net, 3, 32)
    assert list(found) == ["clean", "adv"]
    assert deviation(found["adv"], found["clean"]) > 10 * TOLERANCE
    for route, z in found.items():
        assert torch.equal(z, merge_route(net, route)(images(3, 32)).detach())


def test_it_holds_for_the_file_that_it_was_taken_of(file: Path, capsys):
    proof = verify_fingerprint(file)
    assert proof.holds
    assert proof.weights
    assert proof.routes == {"clean": 0.0, "adv": 0.0}
    verify([str(file.parent), str(file)])
    said = capsys.readouterr().out
    assert said.count("agrees, by at most 0.0e+00 of the largest answer (tolerance 0.0001)") == 4
    assert digest(load_model(file).net) in said


def changed(file: Path, change) -> None:
    """The weights alone: the fingerprint stays as it was."""
    tensors, about = read_tensors(file)
    change(tensors)
    write_tensors(file, tensors, about)


def swap(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if ".routes.clean." in name]:
        other = name.replace(".clean.", ".adv.")
        tensors[name], tensors[other] = tensors[other], tensors[name]


def test_a_swapped_route_is_found(file: Path, capsys):
    changed(file, swap)
    proof = verify_fingerprint(file)
    assert not proof.weights
    assert all(deviation > 10 * TOLERANCE for deviation in proof.routes.values())
    with pytest.raises(ValueError, match="differ from its fingerprint"):
        verify([str(file)])
    assert capsys.readouterr().out.count("DIFFERS") == 3


@pytest.mark.parametrize(
    "name",
    ["backbone.conv1.weight", "backbone.layer2.0.bn2.routes.adv.running_var", "normalize.mean",
     "backbone.bn1.routes.clean.num_batches_tracked"],
)  # fmt: skip
def test_any_changed_weight_is_found(file: Path, name: str):
    """Also one that no answer depends on, by the digest."""
    changed(file, lambda tensors: tensors[name].view(-1)[:1].add_(1))
    assert not verify_fingerprint(file).holds


def test_other_arithmetic_agrees_and_lower_precision_does_not():
    """Float64, and the layout in memory that GPUs like, move answers far less than the tolerance; bfloat16 more."""
    backbone = Backbone("resnet18", 32)
    net = encoder((), backbone).requires_grad_(False)
    now = answers(net, 3, 32)["only"]
    other = {
        "double": net.double()(images(3, 32).double()),
        "channels last": net.float().to(memory_format=torch.channels_last)(images(3, 32)),
        "bfloat16": net.bfloat16()(images(3, 32).bfloat16()),
    }
    off = {kind: deviation(z.float(), now) for kind, z in other.items()}
    assert max(off["double"], off["channels last"]) < TOLERANCE / 10
    assert off["bfloat16"] > TOLERANCE


def test_answers_that_are_no_numbers_differ():
    z = torch.ones(4, 2)
    proof = deviation(torch.full((4, 2), float("nan")), z)
    assert not proof <= TOLERANCE
    assert deviation(z, None) is None
    assert deviation(z[:, :1], z) is None


def test_a_network_that_answers_with_no_numbers_has_no_fingerprint(tmp_path: Path):
    net = encoder()
    with torch.no_grad():
        net.backbone.conv1.weight.fill_(3e38)
    save_encoder(tmp_path / "encoder.safetensors", net, SMALL, {})
    with pytest.raises(ValueError, match="not finite numbers"):
        write_fingerprint(tmp_path)


def test_a_route_too_many_or_too_few_differs(file: Path):
    stored = load_model(file).metadata["fingerprint"]
    proof = compare(LoadedModel(encoder(("clean",)), SMALL, {}), stored)
    assert proof.routes["adv"] is None
    assert not proof.holds
    with pytest.raises(ValueError, match=f"version 2, and this program reads only version {VERSION}"):
        compare(load_model(file), stored | {"version": 2})


def test_a_file_without_one_says_so_and_can_be_given_one(tmp_path: Path, capsys):
    net = encoder(())
    head = zero_classifier(64, 3)
    torch.nn.init.ones_(head.bias)
    file = tmp_path / "classifier.safetensors"
    save_classifier(file, Network(net, head), SMALL, ("a", "b", "c"), {"note": 1})
    assert verify_fingerprint(file) is None
    with pytest.raises(ValueError, match="has no fingerprint, so nothing was compared"):
        verify([str(tmp_path)])
    before, about = read_tensors(file)
    verify([str(file), "--write"])
    after, stamped_about = read_tensors(file)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {**stamped_about, "fingerprint": None} == {**about, "fingerprint": None}
    assert verify_fingerprint(file).holds


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "needs one or more"),
        (["nowhere"], "no file nowhere"),
        (["--wirte"], "--write"),
        (["."], "none of model.safetensors"),
    ],
)
def test_mistakes(args: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=words):
        verify(args)
