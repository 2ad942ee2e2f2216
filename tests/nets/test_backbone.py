"""Backbones: every name builds, what does not go together is refused in one line, files bring them back."""

from pathlib import Path

import pytest
import torch
import tyro
from torch import Tensor

from unshaken.base.rng import Key
from unshaken.base.serialize import to_json
from unshaken.nets import timm_nets
from unshaken.nets.backbone import Backbone, timm_encoder
from unshaken.nets.checkpoint import backbone_of, load_encoder, read_tensors, save_encoder, write_tensors
from unshaken.nets.dual_bn import routes_of, set_route, with_routes
from unshaken.nets.network import Encoder, seeded

GREY = {"channels": 1, "mean": (0.5,), "std": (0.25,)}
ROUTES = ("clean", "adv")


def images(backbone: Backbone, count: int = 4) -> Tensor:
    return torch.rand(count, backbone.channels, backbone.image_size, backbone.image_size, generator=Key(1).on("cpu"))


@pytest.mark.parametrize(
    ("backbone", "features"),
    [
        (Backbone("resnet34", 224), 512),
        (Backbone("resnet18", 64), 512),
        (Backbone("resnet18", 65), 512),
        (Backbone("vit-small", 256), 384),
        (Backbone("resnet18", padding=2), 512),
        (Backbone("wrn-28-10"), 640),
        (Backbone("wrn-34-10"), 640),
        (Backbone("wrn-10-1", 8, **GREY), 64),
        (Backbone("vit-small"), 384),
        (Backbone("vit-small", 96, **GREY), 384),
        (Backbone("vit-small", 224), 384),
        (Backbone("timm/resnet18"), 512),
        (Backbone("timm/resnet18.a1_in1k", 96, **GREY), 512),
        (Backbone("timm/vit_tiny_patch16_224", 224), 192),
        (Backbone("timm/mobilenetv3_small_100", 224), 1024),  # timm's num_features is 576, before a layer that follows
    ],
    ids=lambda value: f"{value.name}-{value.image_size}" if isinstance(value, Backbone) else "",
)
def test_every_name_builds(backbone, features):
    with torch.device("meta"):
        encoder = backbone.build().eval()
        assert isinstance(encoder, Encoder)
        assert encoder.features == features
        assert encoder(images(backbone, 2).to("meta")).shape == (2, features)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"name": "resnet81"},
            r"no network 'resnet81': choose one of resnet18, .*timm/NAME, .*; did you mean resnet18\?",
        ),
        ({"name": "wrn2810"}, r"no network 'wrn2810'.*did you mean wrn-28-10\?"),
        ({"name": "vit_small"}, r"no network 'vit_small'.*did you mean vit-small\?"),
        ({"name": "timm/"}, "no network 'timm/'"),
        ({"name": ""}, "no network ''"),
        ({"name": "wrn-27-10"}, r"depth of 6n \+ 4"),
        ({"name": "wrn-28-10", "image_size": 96}, "wrn-28-10 reads images of up to 64 pixels, not 96"),
        (
            {"name": "vit-small", "image_size": 36},
            "vit-small reads images of 8 to 4,096 pixels in multiples of 8",
        ),
        ({"image_size": 5000}, "resnet18 reads images of up to 4,096 pixels, not 5000"),
        ({"image_size": 96, "padding": 2}, "a padding of 2 is not possible"),
        ({"name": "wrn-28-10", "padding": 2}, "a padding of 2 is not possible"),
        ({"name": "timm/resnet18", "padding": 0}, "a padding of 0 is not possible"),
        ({"padding": -1}, "padding is a whole number ≥ 0, not -1"),
    ],
    ids=str,
)
def test_what_does_not_go_together(wrong, message):
    with pytest.raises(ValueError, match=message) as caught:
        Backbone(**wrong)
    assert "\n" not in str(caught.value)


def test_the_command_line_reads_it():
    args = ["--name", "wrn-28-10", "--image-size", "32"]
    assert tyro.cli(Backbone, args=args) == Backbone("wrn-28-10")
    assert tyro.cli(Backbone, args=["--padding", "2"]) == Backbone(padding=2)
    assert tyro.cli(Backbone, args=["--name", "timm/convnext_atto"]).name == "timm/convnext_atto"


@pytest.mark.parametrize(
    "backbone",
    [
        Backbone("wrn-10-1", 8, **GREY),
        Backbone("resnet-small", 8, **GREY, padding=2),
        pytest.param(Backbone("vit-small", 32), marks=pytest.mark.extra),
        Backbone("timm/test_resnet", 32),
        Backbone("timm/test_efficientnet", 32, **GREY),
        Backbone("timm/test_vit", 96),
    ],
    ids=lambda backbone: backbone.name,
)
def test_an_encoder_comes_back_from_its_file(backbone, tmp_path: Path):
    encoder = with_routes(seeded(backbone.build, Key(0)), ROUTES).train()
    set_route(encoder, "adv")
    encoder(images(backbone))
    save_encoder(tmp_path / "net", encoder, backbone, {})
    again, known, _ = load_encoder(tmp_path / "net")
    assert known == backbone
    assert routes_of(again) == routes_of(encoder)
    for route in ROUTES:
        set_route(encoder.eval(), route)
        set_route(again.eval(), route)
        assert torch.equal(encoder(images(backbone)), again(images(backbone)))


def test_a_file_from_before_there_was_a_padding(tmp_path: Path):
    backbone = Backbone("resnet-small", 8, **GREY)
    encoder = seeded(backbone.build, Key(0))
    save_encoder(tmp_path / "net", encoder, backbone, {})
    tensors, about = read_tensors(tmp_path / "net")
    assert about["backbone"].pop("padding") == 1
    write_tensors(tmp_path / "net", tensors, about)
    again, known, _ = load_encoder(tmp_path / "net")
    assert known == backbone
    assert torch.equal(encoder.eval()(images(backbone)), again.eval()(images(backbone)))


def test_a_padding_is_built_and_kept():
    backbone = Backbone("resnet-small", padding=2)
    assert backbone.build().backbone.conv1.padding == (2, 2)
    assert backbone_of({"backbone": to_json(backbone)}) == backbone


@pytest.mark.parametrize(
    "backbone",
    [Backbone("wrn-10-1"), Backbone("timm/test_efficientnet"), Backbone("timm/test_vit", 96)],
    ids=lambda backbone: backbone.name,
)
def test_a_birth_depends_on_its_key_alone(backbone):
    def weights(key: Key, seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        made = list(seeded(backbone.build, key).parameters())
        assert torch.equal(torch.get_rng_state(), state)
        return made

    first = weights(Key(0), 1)
    assert all(torch.equal(a, b) for a, b in zip(first, weights(Key(0), 2), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, weights(Key(1), 1), strict=True))


@pytest.mark.parametrize(
    ("name", "stem", "side"),
    [("timm/test_vit", 96, 96), ("timm/resnet10t", 32, 32), ("timm/vit_tiny_patch16_224", None, 224)],
)
def test_a_network_of_timm_s_and_what_builds_it(name, stem, side):
    encoder, backbone = timm_encoder(name, stem, pretrained=False)
    assert (backbone.name, backbone.image_size, backbone.channels) == (name, side, 3)
    again = backbone.build()
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(encoder.eval()(images(backbone, 1)), again.eval()(images(backbone, 1)))


def test_its_normalisation_is_the_one_it_was_trained_with():
    encoder, backbone = timm_encoder("timm/vit_tiny_patch16_224", pretrained=False)
    assert backbone.mean == backbone.std == (0.5, 0.5, 0.5)  # of its weights, which are not normalised as ImageNet's
    assert encoder.normalize.mean.flatten().tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("pretrained", [True, False])
def test_weights_are_asked_for(pretrained, monkeypatch: pytest.MonkeyPatch):
    """Once, and not when the network is built again from what is noted of it."""
    asked = []
    monkeypatch.setattr(timm_nets, "_with_weights", lambda name, config: asked.append(name) or {})
    _, backbone = timm_encoder("timm/test_vit.r160_in1k", 96, **({} if pretrained else {"pretrained": False}))
    assert len(asked) == pretrained
    assert backbone == Backbone("timm/test_vit.r160_in1k", 96, mean=backbone.mean, std=backbone.std)
    backbone.build()
    assert len(asked) == pretrained


def test_a_network_without_weights():
    with pytest.raises(ValueError, match="timm has no weights for timm/coatnet_0_224"):
        timm_encoder("timm/coatnet_0_224")
    encoder, backbone = timm_encoder("timm/test_vit", pretrained=False)
    assert backbone.image_size == 160
    assert encoder.backbone.patch_embed.grid_size == (10, 10)
