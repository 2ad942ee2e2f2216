"""Every layout's network, written from its own names, gives the same features after import, route by route."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from published import (
    CIFAR,
    IMAGENET,
    Style,
    Weights,
    acl_head,
    adv_suffix,
    advcl_heads,
    bn_list,
    moduled,
    resnet,
    solo_wrn,
    wrn,
)
from safetensors.torch import save_file
from torch import Tensor

import unshaken
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.data.source import DataSource
from unshaken.evaluation.protocol import Evaluation
from unshaken.interop import named_import as importing
from unshaken.interop.fingerprint import verify_fingerprint
from unshaken.interop.import_checkpoint import ImportOptions, import_checkpoint
from unshaken.interop.imported_files import import_file, import_timm
from unshaken.layouts.foreign import Container, ForeignCheckpoint
from unshaken.layouts.published import LAYOUTS
from unshaken.nets.backbone import timm_encoder
from unshaken.nets.checkpoint import load_classifier, load_encoder
from unshaken.nets.dual_bn import routes_of, set_route
from unshaken.report.table import markdown, rows
from unshaken.runs.evaluate import evaluate
from variants import variants

DUAL = Style(norm=bn_list, shortcut=("downsample.conv", "downsample.bn"), normalize=IMAGENET, stored=True)
PLAIN = Style()
OF_18 = {"blocks": (2, 2, 2, 2), "width": 64}
OF_50 = {"blocks": (3, 4, 6, 3), "width": 64, "bottleneck": True}


def pixels(side: int = 32) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))


@dataclass(frozen=True)
class Row:
    """A published file: its network, what else is in it, and what has to come out.

    branches  ours by the number of theirs
    """

    layout: str
    style: Style
    branches: dict[str, int] = field(default_factory=lambda: {"": 0})
    net: Callable[..., Tensor] = resnet
    prefix: str = ""
    heads: Callable[[Weights], None] = lambda w: None
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda state: state
    container: Callable[[dict[str, Tensor]], Any] = lambda state: {"epoch": 3, "state_dict": state}
    known: ImportOptions = ImportOptions()
    side: int = 32
    name: str = "resnet-small"
    padding: int = 1
    dropped: tuple[str, ...] = ()
    method: str = "unknown"

    def made(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The file's weights, and their network's features of `pixels` by our route."""
        w = Weights(self.prefix)
        features = {
            route: self.net(w, pixels(self.side), self.style, branch) for route, branch in self.branches.items()
        }
        self.heads(w)
        return self.change(w.state), features


ACL = {"clean": 0, "adv": 1}
TWO = Row("acl", DUAL, ACL, heads=lambda w: acl_head(w, 64, 2), dropped=("projection head",))


def with_other_encoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """encoder_q: as encoder_k, but for the numbers."""
    return state | {name.replace("_k.", "_q."): tensor + 1 for name, tensor in state.items()}


def with_teacher(state: dict[str, Tensor]) -> dict[str, Tensor]:
    teacher = {f"momentum_{name}": tensor + 1 for name, tensor in state.items()}
    heads = {f"classifier{suffix}.{part}": torch.ones(10, 64) for suffix in ("", "_adv") for part in ("weight", "bias")}
    return state | teacher | heads


def with_lora(state: dict[str, Tensor]) -> dict[str, Tensor]:
    sites = [name.removesuffix("conv.weight") for name in state if name.endswith(".conv.weight")]
    return state | {f"{site}lora_{part}_nat": torch.ones(8, 8) for site in sites for part in "AB"}


def lora_conv(name: str) -> str:
    return name if name == "conv1" else f"{name}.conv"


def with_clean_branch(w: Weights, x: Tensor, style: Style, branch: int) -> Tensor:
    """The adversarial branch, of a file that has the clean one too."""
    resnet(w, x, style, 0)
    return resnet(w, x, style, branch)


def with_probe(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state | {"classifier.weight": torch.ones(10, 64), "classifier.bias": torch.ones(10)}


def with_wide_heads(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state | {f"classifier{suffix}.weight": torch.ones(10, 2048) for suffix in ("", "_adv")}


def classifier(w: Weights) -> None:
    w.linear("fc", 64, 10)


WRN = Style(norm=bn_list)
TABLE = {
    "acl": TWO,
    "acl, two-layer head": replace(TWO, heads=lambda w: acl_head(w, 64, 2, three=False)),
    "acl without buffers": replace(TWO, style=replace(DUAL, stored=False)),
    "acl of the future: other statistics": replace(TWO, style=replace(DUAL, normalize=CIFAR)),
    "acl, bare": replace(TWO, container=lambda state: state),
    "acl, P_state": replace(TWO, container=lambda state: {"P_state": state}),
    "acl, dual first": replace(TWO, container=lambda s: {"state_dict": {"x": s["conv1.weight"]}, "state_dict_dual": s}),
    "acl, stl": replace(TWO, style=replace(DUAL, wide=True), side=96),
    "acl, resnet50": replace(TWO, style=replace(DUAL, **OF_50), name="resnet50", change=moduled),
    "cl": replace(TWO, branches={"clean": 0}, heads=lambda w: acl_head(w, 64, 1)),
    "dynacl": Row("dynacl", DUAL, ACL, prefix="encoder_k.", heads=lambda w: acl_head(w, 64, 2),
                  change=with_other_encoder, dropped=("encoder_q", "projection head")),
    "dynacl++, dual": replace(TWO, heads=classifier, dropped=()),
    "finetuned": Row("finetuned", Style(normalize=IMAGENET, stored=True), heads=classifier, method="acl",
                     known=ImportOptions(method="acl")),
    "finetuned, other statistics": Row("finetuned", Style(normalize=CIFAR, stored=True), heads=classifier),
    "advcl": Row("advcl", replace(DUAL, normalize=None), {"clean": 0, "adv": 1, "adv_ce": 2},
                 heads=lambda w: advcl_heads(w, 64), change=moduled, dropped=("heads",),
                 container=lambda state: {"model": state, "epoch": 1, "rng_state": torch.get_rng_state()}),
    "rocl": Row("rocl", Style(shortcut=("shortcut.0", "shortcut.1")), change=moduled,
                known=ImportOptions(normalisation="none"),
                container=lambda state: {"epoch": 1, "acc": 1.5, "model": state, "optimizer_state": {"state": {}}}),
    "deacl": Row("deacl", Style(normalize=CIFAR, stored=True, padding=2), prefix="backbone.", padding=2,
                 change=with_teacher, dropped=("teacher", "heads"), method="deacl"),
    "deacl without buffers": Row("deacl", Style(normalize=CIFAR, padding=2), prefix="backbone.", padding=2,
                                 change=with_teacher, dropped=("teacher", "heads"), method="deacl"),
    "deacl, resnet50": Row("deacl", Style(padding=2, **OF_50), prefix="backbone.", padding=2, change=with_wide_heads,
                           dropped=("heads",), method="deacl", name="resnet50"),
    "deacl, padding 1 said": Row("deacl", Style(normalize=CIFAR, stored=True), prefix="backbone.", change=with_teacher,
                                 dropped=("teacher", "heads"), known=ImportOptions(padding=1), method="deacl"),
    "deacl, wide": Row("deacl-wrn", Style(normalize=CIFAR, stored=True), net=solo_wrn, prefix="backbone.",
                       change=with_teacher, dropped=("teacher", "heads"), name="wide_resnet10w1"),
    "lightning, other statistics": Row("finetuned", Style(normalize=IMAGENET, stored=True), prefix="backbone.",
                                       known=ImportOptions(method="simclr"), method="simclr"),
    "solo-learn": Row("solo-learn", Style(padding=2), prefix="backbone.", padding=2,
                      known=ImportOptions(normalisation="none"),
                      container=lambda s: {"state_dict": s, "hyper_parameters": {"num_large_crops": 2}}),
    "lightning, an online classifier": Row("lightning", Style(), prefix="backbone.", change=with_probe,
                                           known=ImportOptions(normalisation="none", padding=1)),
    "acl on imagenet-32": Row("acl-wrn", WRN, {"adv": 0, "clean": 1}, net=wrn, change=moduled, name="wrn-10-1",
                              heads=lambda w: acl_head(w, 64, 2, three=False, at="linear"),
                              dropped=("projection head",)),
    "sat on imagenet-32": Row("sat-wrn", PLAIN, net=wrn, name="wrn-10-1", change=moduled,
                              known=ImportOptions(normalisation="none"), heads=lambda w: w.linear("linear", 64, 1000)),
    "sat on imagenet-32, older": Row("sat-wrn", PLAIN, net=wrn, name="wrn-10-1", change=moduled,
                                     known=ImportOptions(normalisation="none"),
                                     heads=lambda w: w.linear("fc", 64, 1000)),
    "sat on imagenet": Row("sat", replace(PLAIN, wide=True), side=224, heads=lambda w: w.linear("fc", 64, 1000),
                           container=lambda state: {"state_dict": state, "test_pgd10_acc": 1.0, "test_natloss_list": [],
                                                    "test_natacc_list": []}),
    "autolora": Row("autolora", Style(normalize=IMAGENET, stored=True, conv=lora_conv), heads=classifier,
                    change=with_lora, dropped=("LoRA",), known=ImportOptions(method="acl"), method="acl"),
    "autolora, both branches": Row("autolora-dual", replace(DUAL, conv=lora_conv), {"": 1}, heads=classifier,
                                   net=with_clean_branch, change=with_lora, dropped=("other branches", "LoRA")),
    "acl before its release": Row("acl-old", Style(norm=adv_suffix, shortcut=("downsample.conv", "downsample.bn"),
                                                   normalize=IMAGENET), ACL, method="acl",
                                  heads=lambda w: [w.linear("fc.fc1", 64, 64), w.norm1d("fc.bn1", 64),
                                                   w.norm1d("fc.bn1_adv", 64)], dropped=("projection head",)),
    "torchvision or timm": Row("torchvision", Style(normalize=IMAGENET, wide=True, **OF_18), name="resnet18", side=224,
                               container=lambda state: state, known=ImportOptions(normalisation="imagenet")),
    "torchvision, 3x3 stem with padding 2": Row("torchvision", Style(normalize=CIFAR, padding=2), padding=2,
                                                known=ImportOptions(mean=CIFAR[0], std=CIFAR[1], padding=2)),
    "net": Row("torchvision", Style(), container=lambda state: {"net": state},
               known=ImportOptions(normalisation="none")),
}  # fmt: skip


@pytest.mark.parametrize("name", variants(TABLE, [name for name in TABLE if "resnet50" not in name]))
def test_features_are_those_of_the_published_network(name: str, tmp_path: Path):
    row = TABLE[name]
    state, expected = row.made()
    torch.save(row.container(state), tmp_path / "theirs.pt")
    written = import_file(tmp_path / "theirs.pt", replace(row.known, out=tmp_path / "ours"))
    encoder, backbone, about = load_encoder(written.encoder)
    order = LAYOUTS[row.layout].routes
    assert routes_of(encoder) == (tuple(sorted(row.branches, key=order.index)) if order else ())
    for route, z in expected.items():
        set_route(encoder.eval(), route)
        found = encoder(pixels(row.side))
        assert (found - z).abs().max() < 1e-5 * z.abs().max()
    assert (backbone.name, backbone.padding, backbone.image_size) == (row.name, row.padding, row.side)
    origin = about["pretrain"]
    assert (origin["layout"], origin["recipe"]["name"]) == (row.layout, row.method)
    assert set(origin["dropped"]) == set(row.dropped)
    assert verify_fingerprint(written.encoder).holds
    assert (tmp_path / "ours" / "encoder.safetensors").samefile(written.encoder)


def test_every_layout_is_tried():
    assert {row.layout for row in TABLE.values()} | {"timm"} == set(LAYOUTS)


def test_the_references_branches_and_choices_matter():
    """Else the table would prove nothing: each wrong reading is far outside the tolerance."""
    w = Weights()
    right = resnet(w, pixels(), DUAL, 1)
    for wrong in (resnet(w, pixels(), DUAL, 0), resnet(w, pixels(), replace(DUAL, normalize=None, stored=False), 1),
                  resnet(w, pixels(), replace(DUAL, padding=2), 1)):  # fmt: skip
        assert (wrong - right).abs().max() > 1e-2 * right.abs().max()


def test_safetensors_of_somebody_else(tmp_path: Path):
    state, expected = TWO.made()
    save_file(state, tmp_path / "theirs.safetensors", {"format": "pt"})
    written = import_file(tmp_path / "theirs.safetensors", ImportOptions(out=tmp_path / "mine.safetensors"))
    encoder, _, _ = load_encoder(tmp_path / "mine.safetensors")
    set_route(encoder.eval(), "adv")
    assert torch.allclose(encoder(pixels()), expected["adv"], atol=1e-4)
    assert written.encoder == tmp_path / "mine.safetensors"


def foreign(row: Row = TWO, change: Callable[[dict[str, Tensor]], Any] = lambda state: None) -> ForeignCheckpoint:
    state = row.made()[0]
    change(state)
    beside = tuple(key for key in row.container({}) if key != "state_dict") if row.layout == "sat" else ()
    return ForeignCheckpoint((Container("state_dict", state),), "theirs.pt", "0" * 64, beside)


def test_what_was_recognised_is_said_and_kept():
    what = import_checkpoint(foreign(), ImportOptions(method="acl-air", data="cifar100"))
    assert what.report["layout"].startswith("acl: ")
    assert what.report["routes"] == "clean is branch 0, adv is branch 1"
    assert what.report["normalisation"].endswith("(from the file)")
    assert what.report["padding"].startswith("1 (assumed")
    assert what.report["dropped"].startswith("projection head (")
    origin = what.metadata["pretrain"]
    assert origin["said"] == what.report
    data = {"type": "DataSource", "name": "cifar100"}
    assert origin["recipe"] == {"type": "Imported", "name": "acl-air", "data": data, "seed": "unknown"}
    json.dumps(what.metadata, allow_nan=False)


def test_the_branches_of_the_wide_resnet_are_the_other_way_round():
    assert (
        import_checkpoint(foreign(TABLE["acl on imagenet-32"])).report["routes"] == "adv is branch 0, clean is branch 1"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("layer1.0.bn1.bn_list.1.weight"), "1 missing, the first is layer1.0.bn1.routes.adv.weight"),
        (lambda s: s.pop("layer2.0.downsample.conv.weight"), "1 missing, the first is layer2.0.downsample.0.weight"),
        (lambda s: s.update({"layer1.0.se.weight": torch.zeros(1)}), "1 unexpected, the first is layer1.0.se.weight"),
        (lambda s: s.update({"stem.weight": torch.zeros(3, 3, 1, 1)}), "--drop stem leaves that out"),
        (lambda s: s.update({"bn1.bn_list.7.bias": torch.zeros(1)}), "1 unexpected, the first is bn1.bn_list.7.bias"),
        (lambda s: s.update({"bn1.bn_list.0.bias": torch.zeros(1)}), "1 of another shape"),
        (lambda s: s.pop("conv1.weight"), "no conv1.weight"),
        (lambda s: [s.pop(name) for name in list(s) if ".bn_list.1.running" in name], "12 missing, the first is bn1."),
        (lambda s: s.update({"fc.weight": torch.zeros(10, 3)}), "does not fit 64 features"),
        (lambda s: s.update({"layer3.0.conv1.weight": torch.zeros(1)}), "none of resnet18"),
    ],
)
def test_a_partial_load_is_refused(change, words: str):
    with pytest.raises(ValueError, match="theirs.pt|file|conv1|ResNet") as caught:
        import_checkpoint(foreign(TWO, change))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_counters_of_batches_may_be_absent():
    """Files of the first years have none; nothing that is computed in eval mode depends on them."""
    what = import_checkpoint(foreign(TWO, lambda s: [s.pop(name) for name in list(s) if "num_batches" in name]))
    assert "counters of batches set to 0" in what.report["weights"]
    set_route(what.encoder, "adv")
    assert torch.allclose(what.encoder(pixels()), TWO.made()[1]["adv"], atol=1e-4)


def test_what_a_file_cannot_tell_is_asked_for():
    bare = foreign(TABLE["net"])
    with pytest.raises(ValueError, match="--normalisation imagenet, cifar or none, or by --mean and --std.*--layout"):
        import_checkpoint(bare)
    assert import_checkpoint(bare, ImportOptions(layout="sat")).report["normalisation"].startswith("none")
    assert import_checkpoint(bare, ImportOptions(normalisation="cifar")).backbone.mean == CIFAR[0]
    assert import_checkpoint(bare, ImportOptions(mean=(0.5,) * 3, std=(0.2,) * 3)).backbone.std == (0.2,) * 3


def test_the_stem_is_asked_for_only_where_a_file_cannot_tell():
    wide = foreign(TABLE["acl, stl"])
    assert import_checkpoint(wide).backbone.image_size == 96
    assert import_checkpoint(wide, ImportOptions(image_size=224)).backbone.image_size == 224
    with pytest.raises(
        ValueError, match="a 7x7 first convolution is for images of more than 64 pixels, not for --image-size 32"
    ):
        import_checkpoint(wide, ImportOptions(image_size=32))
    assert import_checkpoint(foreign(), ImportOptions(image_size=8)).backbone.image_size == 8


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({"layout": "aclwrn"}, "did you mean 'acl-wrn'"),
        ({"mean": (0.5,) * 3}, "--mean and --std go together"),
        ({"out": Path("x.pt")}, "NAME.safetensors, not x.pt"),
        ({"mean": (0.5,) * 3, "std": (1.0,) * 3, "normalisation": "none"}, "give either --normalisation"),
    ],
)
def test_wrong_options(known: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        ImportOptions(**known)


def test_what_is_no_layout():
    with pytest.raises(ValueError, match="has no layout that can be read.*--layout"):
        import_checkpoint(ForeignCheckpoint((Container("", {"features.0.weight": torch.zeros(1)}),), "vgg.pt", ""))


def photos(folder: Path) -> str:
    """Two classes of a dozen pictures each, the one dark and the other bright."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for k, name in enumerate(("dark", "light")):
            (folder / part / name).mkdir(parents=True)
            for n in range(12):
                image = rng.integers(100 * k, 100 * k + 100, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(image).save(folder / part / name / f"{n:02}.png")
    return str(folder)


def test_an_imported_encoder_goes_on_like_one_of_ours(tmp_path: Path):
    """Its paper's presets, a fine-tuning run, an evaluation, and a table in which its seed is said to be unknown."""
    row = TABLE["advcl"]
    torch.save(row.container(row.made()[0]), tmp_path / "advcl.pt")
    written = import_file(tmp_path / "advcl.pt", ImportOptions(out=tmp_path / "run", method="advcl"))
    assert unshaken.finetune_recipe(tmp_path / "run", "aff").data.name == "unknown"
    source = DataSource(photos(tmp_path / "photos"), root=str(tmp_path / "data"))
    recipe = replace(unshaken.finetune_recipe(tmp_path / "run", "slf", source), epochs=1)
    run = unshaken.finetune(written.encoder, recipe, unshaken.Workspace(written.encoder.parent, quiet=True))
    result = evaluate(run, evaluation=Evaluation(PGD(Linf(1 / 255), steps=1)), workspace=unshaken.Workspace(quiet=True))
    assert (result["method"], result["mode"], result["standard"]["n"]) == ("advcl", "slf", 24)
    assert "unknown/1/1" in rows([result])[0]


def test_a_fine_tuned_file_goes_to_the_exam(tmp_path: Path):
    """What a reviewer has and wants: somebody's fine-tuned file, and its accuracy."""
    row = replace(TABLE["finetuned"], heads=lambda w: w.linear("fc", 64, 2))
    state = row.made()[0]
    torch.save({"state_dict": state}, tmp_path / "x.pt")
    known = ImportOptions(out=tmp_path / "run", classes="dark, light", mode="aff",
                          classifier_data=photos(tmp_path / "photos"),
                      method="acl")  # fmt: skip
    written = import_file(tmp_path / "x.pt", known)
    source = DataSource(str(tmp_path / "photos"), root=str(tmp_path / "data"))
    evaluation = Evaluation(PGD(Linf(1 / 255), steps=1))
    result = evaluate(written.classifier, source, evaluation, workspace=unshaken.Workspace(quiet=True))
    images = source.load("test")
    features = resnet(Weights(state=state), images.floats(slice(None)), row.style)
    right = (features @ state["fc.weight"].T + state["fc.bias"]).argmax(1) == images.label
    assert result["standard"]["correct"] == int(right.sum())
    assert (result["method"], result["mode"]) == ("acl", "aff")
    assert "unknown/unknown/1" in rows([result])[0]
    assert markdown([result])


def classified(tmp_path: Path, **known: Any):
    row = TABLE["finetuned"]
    state, features = row.made()
    torch.save({"state_dict": state}, tmp_path / "AFF_model_finetune.pt")
    known = {"method": "acl", "out": tmp_path / "run"} | known
    written = import_file(tmp_path / "AFF_model_finetune.pt", ImportOptions(**known))
    return written, features[""] @ state["fc.weight"].T + state["fc.bias"]


def test_a_classifier_in_the_file_is_ready_for_the_exam(tmp_path: Path):
    written, logits = classified(tmp_path, classes="cifar10", mode="aff", method="dynacl++")
    net, about = load_classifier(written.classifier / "classifier.safetensors")
    assert torch.allclose(net.eval()(pixels(), "adv"), logits, atol=1e-3)
    assert about["names"][0] == "airplane"
    assert about["finetune"]["recipe"]["method"]["type"] == "aff"
    assert about["pretrain"]["recipe"]["name"] == "dynacl++"
    assert json.loads((written.classifier / "recipe.json").read_text())["recipe"]["data"]["name"] == "cifar10"
    assert verify_fingerprint(written.classifier).holds
    assert verify_fingerprint(written.encoder).holds


def test_classes_are_not_guessed(tmp_path: Path):
    """After DynACL++'s pseudo-labels the ten outputs are clusters, not CIFAR-10's classes."""
    written, _ = classified(tmp_path)
    assert load_classifier(written.classifier / "classifier.safetensors")[1]["names"] == list("0123456789")
    assert "unnamed" in written.report["classifier"]
    with pytest.raises(ValueError, match="has 10 classes, but --classes gives 100 names"):
        classified(tmp_path, classes="cifar100")
    listed, _ = classified(tmp_path, classes="a, b,c,d,e,f,g,h,i,j")
    assert load_classifier(listed.classifier / "classifier.safetensors")[1]["names"] == list("abcdefghij")


def test_a_classifier_of_zeros_or_one_that_is_not_wanted_is_none(tmp_path: Path):
    assert classified(tmp_path, classifier=False)[0].classifier is None
    what = import_checkpoint(foreign(TABLE["finetuned"], lambda s: s["fc.weight"].zero_()), ImportOptions(method="acl"))
    assert what.head is None
    assert what.report["dropped"] == "classifier of zeros (2)"


def test_both_branches_and_a_classifier(tmp_path: Path):
    """The classifier is judged over the adversarial branch; the encoder keeps both."""
    row = TABLE["dynacl++, dual"]
    state, features = row.made()
    torch.save(row.container(state), tmp_path / "x.pt")
    written = import_file(tmp_path / "x.pt", ImportOptions(out=tmp_path / "run"))
    assert routes_of(load_encoder(written.encoder)[0]) == ("clean", "adv")
    net, _ = load_classifier(written.classifier / "classifier.safetensors")
    expected = features["adv"] @ state["fc.weight"].T + state["fc.bias"]
    assert torch.allclose(net.eval()(pixels(), "adv"), expected, atol=1e-3)


def test_what_is_there_is_not_written_over(tmp_path: Path):
    for seed, name in ((0, "a.pt"), (1, "b.pt")):
        state = TWO.made()[0]
        state["conv1.weight"] += seed
        torch.save(state, tmp_path / name)
    how = ImportOptions(out=tmp_path / "run")
    import_file(tmp_path / "a.pt", how)
    import_file(tmp_path / "a.pt", how)
    with pytest.raises(ValueError, match="exists already, and was imported from another file; choose another --out"):
        import_file(tmp_path / "b.pt", how)


def test_weights_of_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With initial weights in place of those that timm would download."""
    pytest.importorskip("timm", exc_type=RuntimeError)
    monkeypatch.setattr(importing, "timm_encoder", lambda name, stem: timm_encoder(name, stem, pretrained=False))
    written = import_timm("timm/resnet18", ImportOptions(out=tmp_path, image_size=32))
    assert load_encoder(written.encoder)[1].name == "timm/resnet18"
    assert verify_fingerprint(written.encoder).holds
    with pytest.raises(ValueError, match="--layout is for checkpoint files"):
        import_timm("timm/resnet18", ImportOptions(layout="acl"))
