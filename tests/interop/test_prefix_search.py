"""The same network under every prefix and in every container that people's files have: one row a layout."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from published import CIFAR, IMAGENET, Style, Weights, moduled, resnet, wrn
from torch import Tensor, nn

from unshaken.citations.cite import cited
from unshaken.interop.import_checkpoint import ImportOptions, import_checkpoint
from unshaken.interop.imported_files import import_file
from unshaken.layouts.foreign import read
from unshaken.layouts.published import NONE
from unshaken.nets.checkpoint import load_classifier, load_encoder

State = dict[str, Tensor]
WITHOUT = ImportOptions(normalisation="none")
OF_CIFAR = {"mean": torch.tensor(CIFAR[0]), "std": torch.tensor(CIFAR[1])}


def under(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def beside(**others: Tensor) -> Callable[[State], State]:
    return lambda state: state | {name.replace("__", "."): tensor for name, tensor in others.items()}


def in_turn(*changes: Callable[[State], State]) -> Callable[[State], State]:
    def change(state: State) -> State:
        for each in changes:
            state = each(state)
        return state

    return change


def numbered(at: str, **parts: int) -> Callable[[State], State]:
    """In a Sequential of a network's parts: each part is called by its number there."""

    def change(state: State) -> State:
        split = [(name.partition("."), tensor) for name, tensor in state.items()]
        return {f"{at}{parts[first]}.{rest}": tensor for (first, _, rest), tensor in split}

    return change


def pair(one: str, other: str, same: bool = False) -> Callable[[State], State]:
    """Two copies of the network, the second of other weights."""
    return lambda state: under(one)(state) | {f"{other}{n}": t if same else t + 1 for n, t in state.items()}


class Whole(nn.Module):
    """A network that is saved with its class."""

    def __init__(self, state: State) -> None:
        super().__init__()
        for name, tensor in state.items():
            *path, leaf = name.split(".")
            module: nn.Module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module._modules[part]
            module.register_buffer(leaf, tensor)


@dataclass(frozen=True)
class Row:
    """A file, what has to be said of it, and what is read.

    style, net  of the network
    mean        what the network does to pixels
    key, prefix, dropped  where it is found, and what is left out
    """

    change: Callable[[State], State] = lambda state: state
    container: Callable[[State], Any] = lambda state: state
    known: ImportOptions = WITHOUT
    style: Style = Style()
    net: Callable[..., Tensor] = resnet
    key: str = ""
    prefix: str = ""
    dropped: set[str] = field(default_factory=set)


AS_CIFAR = Style(normalize=CIFAR)
PARTS = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5}
ROWS = {
    "as it is": Row(),
    "compiled": Row(under("_orig_mod."), prefix="_orig_mod."),
    "compiled in parallel": Row(under("_orig_mod.module."), prefix="_orig_mod.module."),
    "parallel twice": Row(under("module.module."), prefix="module.module."),
    "in a model": Row(under("model."), prefix="model."),
    "in a net": Row(under("net."), prefix="net."),
    "an encoder, deeper": Row(under("module.encoder.net.0."), prefix="module.encoder.net.0."),
    "MoCo's": Row(in_turn(under("module.encoder_q."), beside(module__queue=torch.ones(8, 4))),
                  prefix="module.encoder_q.", dropped={"queue"}),
    "MoCo's, with a head": Row(in_turn(beside(fc__weight=torch.ones(128, 64)), under("module.encoder_q.")),
                               prefix="module.encoder_q.", dropped={"projection head"}),
    "a state dict by another name": Row(container=lambda s: {"model_state_dict": s, "epoch": 3},
                                        key="model_state_dict"),
    "a teacher": Row(container=lambda s: {"teacher": s, "args": argparse.Namespace(lr=1)}, key="teacher"),
    "nested": Row(container=lambda s: {"model": {"state_dict": s}, "optimizer": {"state": {0: {"m": torch.ones(1)}}}},
                  key="model.state_dict"),
    "in a list": Row(container=lambda s: [3, {"net": s}], key="1.net"),
    "saved whole": Row(container=Whole),
    "saved whole, in parallel": Row(container=lambda s: {"model": nn.DataParallel(Whole(s))}, prefix="module.",
                                    key="model"),
    "averaged": Row(in_turn(moduled, beside(n_averaged=torch.tensor(7))), prefix="module.",
                    dropped={"counters of tools"}),
    "counted": Row(beside(total_ops=torch.zeros(1), layer1__0__total_params=torch.zeros(1)),
                   dropped={"counters of tools"}),
    "an unused block": Row(beside(sub_block1__layer__0__conv1__weight=torch.ones(4, 4, 3, 3)), net=wrn,
                           dropped={"modules that the forward pass does not use"}),
    "a head and prototypes": Row(beside(projection_head__0__weight=torch.ones(8, 64),
                                        projection_head__1__running_mean=torch.ones(8),
                                        prototypes__weight=torch.ones(9, 8)),
                                 dropped={"projection_head", "prototypes"}),
    "lightly's, by number": Row(in_turn(numbered("backbone.", **PARTS),
                                        beside(projection_head__layers__0__weight=torch.ones(8, 64))),
                                prefix="backbone.", dropped={"projection_head"}),
    "SimCLR's, by number, without a pool": Row(numbered("f.", conv1=0, bn1=1, layer1=3, layer2=4), prefix="f."),
    "a normalisation first": Row(in_turn(under("1."), beside(**{f"0__{n}": t for n, t in OF_CIFAR.items()})),
                                 known=ImportOptions(), style=AS_CIFAR, prefix="1."),
    "a normalisation first, broadcast": Row(in_turn(under("1."), beside(**{f"0__{n}": t.view(1, 3, 1, 1)
                                                                           for n, t in OF_CIFAR.items()})),
                                            known=ImportOptions(), style=AS_CIFAR, prefix="1."),
    "a normaliser beside": Row(in_turn(under("module.model."),
                                       beside(module__normalizer__new_mean=OF_CIFAR["mean"].view(3, 1, 1),
                                              module__normalizer__new_std=OF_CIFAR["std"].view(3, 1, 1))),
                               known=ImportOptions(), style=AS_CIFAR, prefix="module.model."),
    "mu and sigma": Row(beside(mu=OF_CIFAR["mean"], sigma=OF_CIFAR["std"]), known=ImportOptions(), style=AS_CIFAR),
    "the same twice": Row(in_turn(pair("module.model.", "module.attacker.model.", same=True)), prefix="module.model.",
                          dropped={"attacker"}),
    "one of two, named": Row(pair("encoder_q.", "encoder_k."), prefix="encoder_q.", dropped={"encoder_k"},
                             known=replace(WITHOUT, prefix="encoder_q")),
    "the moving one, named": Row(pair("momentum_backbone.", "backbone."), prefix="momentum_backbone.",
                                 dropped={"backbone"}, known=replace(WITHOUT, prefix="momentum_backbone.")),
    "one of two entries, named": Row(container=lambda s: {"model": s, "model_ema": {n: t + 1 for n, t in s.items()}},
                                     key="model", known=replace(WITHOUT, key="model")),
    "something strange, dropped": Row(beside(adapter__weight=torch.ones(3, 3, 1, 1)), dropped={"adapter"},
                                      known=replace(WITHOUT, drop=("adapter",))),
    "something strange inside, dropped": Row(beside(layer1__0__gate=torch.ones(3)), dropped={"layer1"},
                                             known=replace(WITHOUT, drop=("*.gate",))),
    "half": Row(lambda s: {n: t.half().float() if t.is_floating_point() else t for n, t in s.items()}),
    "arrays": Row(container=lambda s: {"state_dict": {n: t.numpy() for n, t in s.items()}}, key="state_dict"),
}  # fmt: skip


def pixels() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def network(style: Style, net: Callable[..., Tensor]) -> tuple[State, Tensor]:
    w = Weights()
    return w.state, net(w, pixels(), style)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_the_network_is_found(row: Row, tmp_path: Path):
    state, features = network(row.style, row.net)
    if row is ROWS["half"]:
        features = row.net(Weights(state=row.change(dict(state))), pixels(), row.style)
    torch.save(row.container(row.change(state)), tmp_path / "theirs.pt")
    written = import_file(tmp_path / "theirs.pt", replace(row.known, out=tmp_path / "ours"))
    encoder, backbone, about = load_encoder(written.encoder)
    assert (encoder.eval()(pixels()) - features).abs().max() < 1e-5 * features.abs().max()
    origin = about["pretrain"]
    drop = list(row.known.drop)
    assert origin["reading"] == {"key": row.key, "prefix": row.prefix, "drop": drop}
    assert set(origin["dropped"]) == row.dropped
    assert (origin["recipe"]["name"], origin["recipe"]["data"]["name"]) == ("unknown", "unknown")
    assert cited({"pretrain": origin}) == []


ASKED = {
    "two encoders": (pair("encoder_q.", "encoder_k."), ImportOptions(), "--prefix encoder_q. or --prefix encoder_k."),
    "a student and its teacher": (pair("backbone.", "momentum_backbone."), WITHOUT,
                                  "--prefix backbone. or --prefix momentum_backbone."),
    "pytorch-cifar's": (lambda s: {n.replace("downsample", "shortcut"): t for n, t in s.items()}, ImportOptions(),
                        "does not say how its network normalises pixels.*--normalisation"),
    "somebody's backbone": (under("backbone."), ImportOptions(), "does not say how its network normalises pixels"),
    "an online classifier": (in_turn(under("backbone."), beside(classifier__weight=torch.ones(10, 64))), WITHOUT,
                             "--padding 2 if it is solo-learn's, --padding 1 if it is not"),
    "the benchmark's fine-tuned file": (beside(normalize__mean=torch.tensor(IMAGENET[0]),
                                               normalize__std=torch.tensor(IMAGENET[1])), ImportOptions(),
                                        "may have been switched off.*--method"),
    "two normalisations": (beside(mu=OF_CIFAR["mean"], sigma=OF_CIFAR["std"], normalize__mean=torch.tensor(IMAGENET[0]),
                                  normalize__std=torch.tensor(IMAGENET[1])), ImportOptions(), "holds 2 normalisations"),
    "pixels up to 255": (beside(mean=torch.full((3,), 127.5), std=torch.full((3,), 51.0)), ImportOptions(),
                         "pixels from 0 to 255.*--mean 0.5 0.5 0.5 --std 0.2 0.2 0.2"),
    "a deviation of 0": (beside(mean=torch.zeros(3), std=torch.zeros(3)), ImportOptions(), "standard deviation of 0"),
    "something before the network": (in_turn(under("1."), beside(**{"0__weight": torch.ones(3, 3)})), WITHOUT,
                                     "1 unexpected, the first is 0.weight"),
    "something strange": (beside(adapter__weight=torch.ones(3, 3, 1, 1)), WITHOUT,
                          "1 unexpected, the first is adapter.weight.*--drop adapter"),
    "a part inside": (beside(layer1__0__se__weight=torch.ones(3)), WITHOUT, "the first is layer1.0.se.weight"),
    "a Sequential without a ReLU": (numbered("backbone.", conv1=0, bn1=1, layer1=2, layer2=3), WITHOUT,
                                    "a ReLU that a ResNet has between them cannot be there"),
    "no such prefix": (under("net."), replace(WITHOUT, prefix="model"), "has no conv1.weight"),
    "no such key": (under("net."), replace(WITHOUT, key="model"),
                    "no tensors under --key 'model'; it has tensors under"),
    "a weight missing": (lambda s: {n: t for n, t in s.items() if n != "layer2.0.conv2.weight"}, WITHOUT,
                         "1 missing, the first is layer2.0.conv2.weight.*Nothing was imported"),
    "a part of the network dropped": (lambda s: s, replace(WITHOUT, drop=("layer2.0.conv2",)), "1 missing"),
    "a vision transformer": (lambda s: {"patch_embed.proj.weight": torch.ones(8, 3, 4, 4)}, WITHOUT,
                             "looks like a Vision Transformer: --network timm/NAME"),
    "a network of a name that asks for the moon": (
        lambda s: {"conv1.weight": s["conv1.weight"][:16], "block1.layer.0.conv1.weight": torch.ones(4800, 1, 1, 1)}
        | {f"block1.layer.{k}.x": torch.ones(1) for k in range(40)}, WITHOUT, "more weights than the|missing"),
    "a channel too many": (lambda s: s | {"conv1.weight": torch.ones(32, 4, 3, 3)},
                           ImportOptions(normalisation="imagenet"),
                           "for images of 3 channels, and this network takes 4"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "known", "words"), ASKED.values(), ids=ASKED)
def test_what_cannot_be_known_is_asked(
    change: Callable[[State], State], known: ImportOptions, words: str, tmp_path: Path
):
    """One sentence, with the option that answers; and nothing is written."""
    torch.save(change(network(Style(), resnet)[0]), tmp_path / "x.pt")
    with pytest.raises(ValueError, match=words) as caught:
        import_file(tmp_path / "x.pt", replace(known, out=tmp_path / "ours"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ours").exists()


def saved(value: Any, folder: Path) -> Path:
    torch.save(value, folder / "x.pt")
    return folder / "x.pt"


@pytest.mark.parametrize("method", ["advcl", "a-infonce"])
def test_the_method_decides_on_a_normalisation_that_may_be_switched_off(method: str, tmp_path: Path):
    state = network(Style(normalize=IMAGENET, stored=True), resnet)[0]
    file = saved({"state_dict": state | {"fc.weight": torch.ones(10, 64), "fc.bias": torch.ones(10)}}, tmp_path)
    assert import_checkpoint(read(file), ImportOptions(method=method)).backbone.mean == NONE[0]
    assert import_checkpoint(read(file), ImportOptions(method="dynacl")).backbone.mean == IMAGENET[0]
    assert import_checkpoint(read(file), ImportOptions(normalisation="imagenet")).backbone.mean == IMAGENET[0]


def test_a_classifier_without_a_bias(tmp_path: Path):
    state, features = network(Style(), resnet)
    state["fc.weight"] = torch.rand(5, 64)
    file = saved(state, tmp_path)
    assert import_file(file, replace(WITHOUT, classifier=False, out=tmp_path / "a")).classifier is None
    written = import_file(file, replace(WITHOUT, out=tmp_path / "b"))
    net, _ = load_classifier(written.classifier / "classifier.safetensors")
    assert torch.allclose(net.eval()(pixels(), "adv"), features @ state["fc.weight"].T, atol=1e-3)
    assert "without a bias" in written.report["classifier"]
    file = saved(state | {"fc.weight": torch.rand(5, 65)}, tmp_path)
    with pytest.raises(ValueError, match="does not fit 64 features: .*leave it out with --no-classifier"):
        import_file(file, replace(WITHOUT, out=tmp_path / "c"))
    assert import_file(file, replace(WITHOUT, classifier=False, out=tmp_path / "d")).classifier is None


@pytest.mark.parametrize("name", ["fc.", "", "linear."])
def test_a_classifier_in_an_entry_of_its_own(name: str, tmp_path: Path):
    """As AdvCL's and A-InfoNCE's code saves it: {model, classifier}."""
    state, features = network(Style(), resnet)
    head = {f"{name}weight": torch.rand(5, 64), f"{name}bias": torch.rand(5)}
    file = saved({"model": state, "classifier": head, "epoch": 25}, tmp_path)
    written = import_file(file, replace(WITHOUT, out=tmp_path / "ours"))
    net, _ = load_classifier(written.classifier / "classifier.safetensors")
    expected = features @ head[f"{name}weight"].T + head[f"{name}bias"]
    assert torch.allclose(net.eval()(pixels(), "adv"), expected, atol=1e-3)


def test_a_classifier_after_the_encoder(tmp_path: Path):
    """Sequential(encoder, Linear), and encoder beside fc."""
    for at, head in (("0.", "1"), ("encoder.", "fc")):
        state, features = network(Style(), resnet)
        linear = {f"{head}.weight": torch.rand(5, 64), f"{head}.bias": torch.rand(5)}
        written = import_file(saved(under(at)(state) | linear, tmp_path), replace(WITHOUT, out=tmp_path / head))
        net, _ = load_classifier(written.classifier / "classifier.safetensors")
        expected = features @ linear[f"{head}.weight"].T + linear[f"{head}.bias"]
        assert torch.allclose(net.eval()(pixels(), "adv"), expected, atol=1e-3)


def test_a_network_of_one_channel(tmp_path: Path):
    w = Weights()
    x = pixels()[:, :1]
    features = resnet(w, x, Style())
    backbone = import_checkpoint(read(saved(w.state, tmp_path)), WITHOUT).backbone
    encoder = import_checkpoint(read(saved(w.state, tmp_path)), WITHOUT).encoder
    assert (backbone.channels, backbone.mean, backbone.std) == (1, (0.0,), (1.0,))
    assert torch.allclose(encoder(x), features, atol=1e-4)
    with pytest.raises(ValueError, match="imagenet is for images of 3 channels, and this network takes 1"):
        import_checkpoint(read(tmp_path / "x.pt"), ImportOptions(normalisation="imagenet"))


def test_another_reading_does_not_take_the_place_of_the_first(tmp_path: Path):
    """What was fine-tuned beside it is of the first."""
    file = saved(network(Style(), resnet)[0], tmp_path)
    import_file(file, replace(WITHOUT, out=tmp_path / "ours"))
    import_file(file, replace(WITHOUT, out=tmp_path / "ours"))
    with pytest.raises(ValueError, match="was imported from the same file with other options"):
        import_file(file, ImportOptions(normalisation="cifar", out=tmp_path / "ours"))


def test_names_from_a_file_are_harmless_on_a_terminal(tmp_path: Path):
    state = network(Style(), resnet)[0] | {"layer1.0.\x1b[31mred": torch.ones(1)}
    with pytest.raises(ValueError, match="unexpected") as caught:
        import_file(saved({"\x1b]0;title\x07": state}, tmp_path), replace(WITHOUT, out=tmp_path / "ours"))
    assert str(caught.value).isprintable()


OF_TIMM = {"test_vit": 96, "test_resnet": 32, "test_efficientnet": 96, "test_convnext": 32}


@pytest.mark.parametrize("name", OF_TIMM)
def test_a_file_with_weights_of_timm_s(name: str, tmp_path: Path):
    """By the name of the network, under any prefix, with its classifier."""
    timm = pytest.importorskip("timm", exc_type=RuntimeError)
    side = OF_TIMM[name]
    made = timm.create_model(name, num_classes=7, **({"img_size": side} if "vit" in name else {})).eval()
    with torch.no_grad():
        for tensor in made.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.01)
    torch.save({"state_dict": under("module.net.")(made.state_dict()), "epoch": 1}, tmp_path / "x.pt")
    known = replace(WITHOUT, network=f"timm/{name}", image_size=side, out=tmp_path / "ours")
    written = import_file(tmp_path / "x.pt", known)
    x = torch.rand(2, 3, side, side)
    encoder, backbone, about = load_encoder(written.encoder)
    assert (backbone.name, backbone.image_size) == (f"timm/{name}", side)
    assert about["pretrain"]["reading"]["prefix"] == "module.net."
    net, _ = load_classifier(written.classifier / "classifier.safetensors")
    with torch.no_grad():
        assert torch.allclose(net.eval()(x, "adv"), made(x), atol=1e-4)
    del known
    with pytest.raises(ValueError, match="does not say how its network normalises pixels"):
        import_file(tmp_path / "x.pt", ImportOptions(network=f"timm/{name}", image_size=side, out=tmp_path / "more"))
    with pytest.raises(ValueError, match="does not fit a timm/test_byobnet|no conv1.weight"):
        import_file(tmp_path / "x.pt", replace(WITHOUT, network="timm/test_byobnet", out=tmp_path / "more"))


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({"layout": "timm"}, "--layout timm needs the network's name: --network timm/NAME"),
        ({"network": "resnet18"}, "--network must be timm/NAME, not resnet18"),
        ({"std": (0.0, 1.0, 1.0), "mean": (0.0,) * 3}, "each of std is a number > 0"),
    ],
)
def test_what_is_asked_has_to_make_sense(known: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        ImportOptions(**known)
