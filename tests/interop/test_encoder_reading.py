"""What a file of an encoder does not say is asked, configurations are read, and other sides resample as published."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.nn.functional import interpolate

from unshaken.interop.encoder_import import read_encoder
from unshaken.interop.encoder_words import locate
from unshaken.interop.import_checkpoint import import_checkpoint
from unshaken.interop.import_options import ImportOptions
from unshaken.layouts.encoder_facts import Facts
from unshaken.layouts.foreign import Container, ForeignCheckpoint
from unshaken.layouts.original_file import origin_of
from unshaken.nets.backbone import Backbone
from unshaken.nets.variants import variant_of
from unshaken.nets.vit import ViT, resample

pytestmark = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
SMALL = {"side": 32, "patch": 8, "width": 64, "depth": 1, "heads": 2, "hidden": 64}
OPENAI = ViT(**SMALL, out=16, pool="projection", pre_norm=True, patch_bias=False, activation="quick_gelu", eps=1e-5)


def foreign(*states: dict[str, torch.Tensor], keys: tuple[str, ...] = ("",)) -> ForeignCheckpoint:
    return ForeignCheckpoint(tuple(map(Container, keys, states)), "x.pt", "0" * 64)


def dino() -> dict[str, torch.Tensor]:
    return dict(Backbone("x", 32, variant=ViT(**SMALL)).build().backbone.state_dict())


def clip() -> dict[str, torch.Tensor]:
    shapes = {
        "class_embedding": (64,),
        "positional_embedding": (17, 64),
        "proj": (64, 16),
        "conv1.weight": (64, 3, 8, 8),
    }
    norms = ("ln_pre", "ln_post", "transformer.resblocks.0.ln_1", "transformer.resblocks.0.ln_2")
    shapes |= {f"{norm}.{part}": (64,) for norm in norms for part in ("weight", "bias")}
    linear = {"attn.in_proj_": (192, 64), "attn.out_proj.": (64, 64), "mlp.c_fc.": (64, 64), "mlp.c_proj.": (64, 64)}
    for name, shape in linear.items():
        shapes |= {f"transformer.resblocks.0.{name}weight": shape, f"transformer.resblocks.0.{name}bias": shape[:1]}
    return {name: torch.ones(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("state", "options", "words"),
    [
        (clip(), ImportOptions(heads=2), "--activation quick_gelu .* or --activation gelu"),
        (dino(), ImportOptions(heads=2), "several kinds.*--layout dino: .*--layout mae: .*--layout vit-timm"),
        (clip(), ImportOptions(heads=3, activation="gelu"), "3 heads do not divide the width of 64"),
        (clip(), ImportOptions(activation="gelu", pool="attention"), "weights are missing"),
        (clip() | {"extra": torch.ones(2)}, ImportOptions(activation="gelu"), "its weight extra is of no such network"),
        (clip() | {"ln_post.bias": torch.ones(3)}, ImportOptions(activation="gelu"), "ln_post.bias has another shape"),
        (
            {k: v for k, v in clip().items() if k != "proj"},
            ImportOptions(activation="gelu", pool="projection"),
            "this network has no projection: choose another --pool",
        ),
        ({k: v for k, v in clip().items() if k != "ln_post.bias"}, ImportOptions(activation="gelu"), "norm.bias"),
        (dino(), ImportOptions(heads=2, layout="vit-timm"), "--normalisation imagenet, or --mean and --std"),
        (dino(), ImportOptions(layout="clip"), "is no file of layout clip: it has no class_embedding, ln_pre.weight"),
        (clip(), ImportOptions(activation="gelu", padding=2), "--padding is for files with batch norms"),
    ],
)  # fmt: skip
def test_what_is_missing_or_wrong_is_one_line(state, options, words):
    with pytest.raises(ValueError, match=words) as caught:
        import_checkpoint(foreign(state), options)
    assert "\n" not in str(caught.value)


def test_the_teacher_of_dino_is_taken():
    student = {f"module.backbone.{name}": tensor for name, tensor in dino().items()}
    teacher = {f"backbone.{name}": tensor + 1 for name, tensor in dino().items()}
    head = {"head.mlp.0.weight": torch.ones(3, 64)}
    reading = read_encoder(foreign(student, teacher | head, keys=("student", "teacher")), Facts(heads=2), "dino")
    assert (reading.container.key, reading.prefix) == ("teacher", "backbone.")
    assert dict(reading.dropped) == {"weights beside the network": 1}


def test_another_embedding_leaves_the_projection_in_the_file():
    found = import_checkpoint(foreign(clip()), ImportOptions(activation="gelu", heads=2, pool="class"))
    assert found.encoder.features == 64
    assert "head.weight" in found.report["not used"]
    mean = import_checkpoint(foreign(clip()), ImportOptions(activation="gelu", heads=2, pool="mean"))
    assert mean.encoder(torch.rand(2, 3, 32, 32)).shape == (2, 64)


def test_a_record_is_found_through_trainings():
    record = {"layout": "clip", "reading": {}, "file": {"name": "x"}}
    assert origin_of({"pretrain": {"teacher": {"pretrain": record}}, "finetune": {"layout": "acl"}}) == record
    assert origin_of({"pretrain": {"layout": "acl", "reading": {}, "file": {}}}) is None


@pytest.mark.parametrize(
    ("files", "facts"),
    [
        (
            {"config.json": {"model_type": "clip", "vision_config": {"num_attention_heads": 4}}},
            Facts(heads=4, activation="quick_gelu", eps=1e-5, kind="clip"),
        ),
        (
            {
                "config.json": {"model_type": "dinov2", "hidden_act": "gelu", "layer_norm_eps": 1e-5},
                "preprocessor_config.json": {
                    "image_mean": [0.5], "image_std": [0.25], "resample": 3, "crop_size": {"height": 224, "width": 224},
                },
            },
            Facts(12, "gelu", 1e-5, None, 224, ((0.5,), (0.25,)), "bicubic", "dinov2"),
        ),
    ],
)  # fmt: skip
def test_what_transformers_writes_beside_the_weights(files, facts, tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert locate(str(tmp_path)).facts == facts


def test_what_open_clip_writes_beside_the_weights(tmp_path: Path):
    model = {"quick_gelu": True, "vision_cfg": {"width": 1280, "head_width": 80}}
    how = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": how}))
    assert locate(str(tmp_path)).facts == Facts(
        heads=16, activation="quick_gelu", normalisation=((0.5,) * 3, (0.5,) * 3), interpolation="bicubic"
    )


@pytest.mark.parametrize("word", ["hf/one", "open_clip/a/b/c"])
def test_a_repository_has_an_owner(word):
    with pytest.raises(ValueError, match="/OWNER/NAME names a repository"):
        locate(word)


def test_positions_for_another_side_are_those_of_each_family():
    """Against each library's own call on a grid of 4, and open_clip's and torchvision's functions in full."""
    grid = torch.rand(1, 16, 8, generator=torch.Generator().manual_seed(0))
    planes = grid.view(1, 4, 4, 8).permute(0, 3, 1, 2)
    published = {
        "antialias": interpolate(planes, size=(6, 6), mode="bicubic", antialias=True),
        "plain": interpolate(planes, size=(6, 6), mode="bicubic"),
        "offset": interpolate(planes, scale_factor=(6.1 / 4, 6.1 / 4), mode="bicubic"),
        "corners": interpolate(planes, size=(6, 6), mode="bicubic", align_corners=True),
    }
    found = {rule: resample(grid, (6, 6), rule) for rule in published}
    for rule, planes in published.items():
        assert torch.equal(found[rule], planes.permute(0, 2, 3, 1).reshape(1, 36, 8))
        assert sum(torch.equal(found[rule], other) for other in found.values()) == 1
        assert torch.equal(resample(grid, (4, 4), rule), grid)
    smaller = {rule: resample(grid, (2, 2), rule) for rule in published}
    assert not torch.allclose(smaller["plain"], smaller["antialias"], atol=1e-3)
    assert all(resample(torch.rand(1, 37 * 37, 4), (16, 16), rule).shape == (1, 256, 4) for rule in published)


@pytest.mark.parametrize("side", [8, 24, 64])
def test_any_side_of_whole_patches(side):
    encoder = Backbone("x", side, variant=OPENAI).build().eval()
    assert encoder(torch.rand(1, 3, side, side)).shape == (1, 16)
    assert encoder.backbone.pos_embed.shape == (1, 17, 64)  # the weight keeps its own grid, and so does a file of it
    with pytest.raises(ValueError, match="multiples of 8, not 30"):
        Backbone("x", 30, variant=OPENAI)


def test_gradients_reach_positions_through_the_resampling():
    encoder = Backbone("x", 64, variant=OPENAI).build()
    encoder(torch.rand(1, 3, 64, 64)).sum().backward()
    assert bool((encoder.backbone.pos_embed.grad != 0).any(-1).all())


@pytest.mark.parametrize("wrong", [{"type": "Vit"}, {"type": "ViT", "pool": "max"}, {"type": "ViT", "swiglu": 3}])
def test_a_header_of_no_network(wrong):
    with pytest.raises(ValueError, match="there is no network of type|is one of"):
        variant_of(wrong)
