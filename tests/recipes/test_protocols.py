"""Which protocol a fine-tuning takes: a paper's on known sets, and on own images the same for every encoder."""

from dataclasses import replace

import pytest

import unshaken
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.serialize import to_json
from unshaken.methods.supervised import ALF, SLF
from unshaken.nets.backbone import Backbone
from unshaken.recipes.finetune import Finetune, Protocol, named
from unshaken.recipes.finetune_presets import FALLBACK, PRESETS, TRANSFER, preset
from unshaken.runs.encoder import PretrainedEncoder
from unshaken.runs.finetune import note_eps
from unshaken.transforms.views import CropFlip, ResizedCrop

MODES = ("slf", "alf", "aff")
PHOTOS = unshaken.DataSource("/somewhere/photos")


def encoder(method: str, data: str, image_size: int = 32) -> PretrainedEncoder:
    about = {"pretrain": {"recipe": {"name": method, "data": {"type": "DataSource", "name": data}}}}
    return PretrainedEncoder(None, Backbone("resnet18", image_size), about)


def row_of(given: PretrainedEncoder, source: unshaken.DataSource, like: str | None = None) -> Protocol:
    recipe = given.metadata["pretrain"]["recipe"]
    origin = unshaken.DataSource(recipe["data"]["name"])
    return Protocol.of(recipe["name"], origin, source, given.backbone.image_size, like)


@pytest.mark.parametrize("image_size", [32, 96, 224])
def test_on_own_images_every_encoder_takes_the_same(image_size):
    """Teacher and student: one named after ImageNet, one after its folder; and any other method."""
    rows = [
        row_of(encoder(method, data, image_size), PHOTOS)
        for method, data in (
            ("sat", "imagenet"),
            ("deacl", "/somewhere/photos"),
            ("simclr", "cifar10"),
            ("x", "imagenet32"),
        )
    ]
    for mode in MODES:
        assert {row.preset(mode) for row in rows} == {FALLBACK}
    assert {row.views for row in rows} == {ResizedCrop() if image_size == 224 else CropFlip()}
    assert not any(row.one_route for row in rows)
    assert {row.words for row in rows} == {rows[0].words}
    assert "the same for every encoder" in rows[0].words


def test_a_paper_s_protocol_by_its_name_for_any_encoder():
    rows = [row_of(encoder(method, "imagenet"), PHOTOS, "deacl/cifar10") for method in ("sat", "acl")]
    assert rows[0] == rows[1]
    assert rows[0].preset("slf") == PRESETS["deacl"]["slf"][""]
    assert rows[0].one_route
    assert rows[0].words == "that of deacl on /somewhere/photos"
    for wrong in ("mine", "acl", "acl/photos", "acl/"):
        with pytest.raises(ValueError, match="--protocol is clean, leaked, or METHOD/SET"):
            named(wrong)


@pytest.mark.parametrize("method", ["acl", "dynacl-air", "deacl", "simclr"])
@pytest.mark.parametrize("target", ["cifar10", "cifar100", "stl10", "digits"])
def test_known_sets_take_what_the_papers_have(method, target):
    row = row_of(encoder(method, "cifar10", 96 if target == "stl10" else 32), unshaken.DataSource(target))
    for mode in MODES:
        assert row.preset(mode) == preset(method, mode, target, origin="cifar10")
    assert row.one_route == (method == "deacl")


def test_from_imagenet_to_a_known_set_it_is_the_coreset_papers():
    row = row_of(encoder("sat", "imagenet", 224), unshaken.DataSource("cifar10"))
    assert row.preset("slf") == TRANSFER["imagenet"][""]["slf"]
    assert (row.views, row.words) == (ResizedCrop(), "that of sat, from imagenet on cifar10")
    small = row_of(encoder("acl", "cifar10", 32), replace(unshaken.DataSource("stl10"), size=None))
    assert small.target == "stl10@32"


def test_another_eps_than_in_pre_training_is_said(capsys):
    pretrained = to_json(replace(unshaken.recipe("acl-air/cifar10"), epochs=20))
    ball = pretrained["method"]["acl"]["attack"]["ball"]
    alf = Finetune(ALF(PGD(Linf(8 / 255))), unshaken.DataSource("cifar10"))
    note_eps(pretrained, alf, quiet=False)
    assert capsys.readouterr().err == ""
    ball["eps"] = 4 / 255
    note_eps(pretrained, alf, quiet=False)
    assert "note: pre-trained at ε = 4/255 (l∞), and fine-tuned at ε = 8/255 (l∞)" in capsys.readouterr().err
    note_eps(pretrained, replace(alf, method=ALF(PGD(Linf(2 / 255)))), quiet=False)  # chosen, not the set's default
    note_eps(pretrained, replace(alf, method=SLF()), quiet=False)  # which attacks nothing
    note_eps({"name": "imported"}, alf, quiet=False)
    assert capsys.readouterr().err == ""
