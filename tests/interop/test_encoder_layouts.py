"""Every layout of encoders: as the original library computes it, back bit for bit, and a trained one loads there."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from unshaken.base.rng import Key
from unshaken.interop.encoder_words import locate
from unshaken.interop.export import ExportOptions, export
from unshaken.interop.import_checkpoint import import_checkpoint
from unshaken.interop.import_options import ImportOptions
from unshaken.layouts.encoder_facts import Facts, clip_convnext_of, rope_vit_of
from unshaken.layouts.foreign import read
from unshaken.nets.checkpoint import load_encoder, save_encoder
from unshaken.nets.timm_nets import timm_package

needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
pytestmark = needs_timm
SIDE, PATCH, WIDTH, DEPTH, HEADS = 32, 8, 64, 2, 2
HF = {
    "hidden_size": WIDTH,
    "intermediate_size": 96,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "image_size": SIDE,
    "patch_size": PATCH,
}


@dataclass(frozen=True)
class Original:
    """An original network: what its users call, a file or folder of it, and how a file comes back into it."""

    net: nn.Module
    embed: Callable[[Tensor], Tensor]
    save: Callable[[Path], Path]
    load: Callable[[Path], None]


def shaken(net: nn.Module) -> nn.Module:
    """Change every weight, so that no two names can be exchanged unseen."""
    rng = Key("shaken").on("cpu")
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=rng) * 0.1)
    return net.eval().requires_grad_(False)


def plain(net: nn.Module, embed: Callable, wrap: Callable = lambda state: state, unwrap: Callable = lambda v: v):
    """An original whose file is a state dict by torch.save; `wrap` puts it among what else is in the file."""

    def save(folder: Path) -> Path:
        torch.save(wrap(net.state_dict()), folder / "weights.pt")
        return folder / "weights.pt"

    return Original(net, embed, save, lambda file: _load(net, unwrap(torch.load(file, weights_only=True))))


def _load(net: nn.Module, state: dict[str, Tensor]) -> None:
    net.load_state_dict(state, strict=True)


def huggingface(net: Any, embed: Callable, **how: Any) -> Original:
    """An original that transformers saves in a folder."""

    def save(folder: Path) -> Path:
        net.save_pretrained(folder)
        return folder

    def load(file: Path) -> None:
        (file.parent / "again").mkdir(exist_ok=True)
        net.config.save_pretrained(file.parent / "again")
        (file.parent / "again/model.safetensors").write_bytes(file.read_bytes())
        found, said = type(net).from_pretrained(file.parent / "again", output_loading_info=True, **how)
        assert not any(said[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        net.load_state_dict(found.state_dict())

    return Original(net, embed, save, load)


def open_clip_vit(beside: bool) -> Original:
    from open_clip.transformer import QuickGELU, VisionTransformer

    net = shaken(VisionTransformer(SIDE, PATCH, WIDTH, DEPTH, HEADS, mlp_ratio=1.5, output_dim=48, act_layer=QuickGELU))
    if not beside:
        return plain(net, net)
    text = {"logit_scale": torch.tensor(4.6), "positional_embedding": torch.ones(7, 16).half()}

    def wrap(state: dict[str, Tensor]) -> dict[str, Tensor]:
        halved = {name: t.half() if "ln_" not in name else t for name, t in state.items()}
        return text | {f"visual.{name}": t for name, t in halved.items()}

    def unwrap(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name.removeprefix("visual."): t.float() for name, t in state.items() if name not in text}

    net.load_state_dict(unwrap(wrap(net.state_dict())))  # as rounded as the file
    return plain(net, net, wrap, unwrap)


def open_clip_resnet() -> Original:
    from open_clip.modified_resnet import ModifiedResNet

    net = shaken(ModifiedResNet([1, 2, 1, 1], output_dim=24, heads=4, image_size=64, width=8))
    return plain(
        net,
        net,
        lambda state: {f"visual.{name}": tensor for name, tensor in state.items()},
        lambda state: {name.removeprefix("visual."): tensor for name, tensor in state.items()},
    )


def transformers_clip() -> Original:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    net = shaken(CLIPVisionModelWithProjection(CLIPVisionConfig(**HF, projection_dim=48)))
    return huggingface(net, lambda x: net(x).image_embeds)


def transformers_siglip() -> Original:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    net = shaken(SiglipVisionModel(SiglipVisionConfig(**HF)))
    return huggingface(net, lambda x: net(x).pooler_output)


def transformers_vit() -> Original:
    from transformers import ViTConfig, ViTModel

    net = shaken(ViTModel(ViTConfig(**HF), add_pooling_layer=False))
    return huggingface(net, lambda x: net(x).last_hidden_state[:, 0], add_pooling_layer=False)


def transformers_mae() -> Original:
    from transformers import ViTMAEConfig, ViTMAEModel

    net = shaken(ViTMAEModel(ViTMAEConfig(**HF, mask_ratio=0.0)))
    order = torch.arange((SIDE // PATCH) ** 2).float()  # the order of the patches: their mean does not depend on it
    return huggingface(net, lambda x: net(x, noise=order.expand(len(x), -1)).last_hidden_state[:, 1:].mean(1))


def transformers_dinov2(registers: bool) -> Original:
    from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    how = {name: value for name, value in HF.items() if name != "intermediate_size"}
    if registers:
        net = shaken(Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**how, num_register_tokens=3)))
    else:
        net = shaken(Dinov2Model(Dinov2Config(**how)))
    return huggingface(net, lambda x: net(x).pooler_output)


def transformers_dinov3() -> Original:
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    net = shaken(DINOv3ViTModel(DINOv3ViTConfig(**HF, num_register_tokens=3)))
    return huggingface(net, lambda x: net(x).pooler_output)


def meta_dinov3() -> Original:
    """The names of Meta's files on timm's network: one bias for all, that of the keys masked."""
    from timm.models.eva import Eva

    net = shaken(
        Eva(
            SIDE, PATCH, num_classes=0, global_pool="token", embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS,
            init_values=1.0, rope_type="dinov3", rope_temperature=100, rope_rotate_half=True, use_rot_pos_emb=True,
            use_abs_pos_emb=False, num_reg_tokens=3, use_fc_norm=False, dynamic_img_size=True,
            norm_layer=lambda *a, **k: nn.LayerNorm(*a, **k, eps=1e-5),
        )
    )  # fmt: skip
    names = {"reg_token": "storage_tokens"}
    names |= {f"blocks.{i}.gamma_{k}": f"blocks.{i}.ls{k}.gamma" for i in range(DEPTH) for k in (1, 2)}
    keys = torch.full((WIDTH,), 7.0)

    def wrap(state: dict[str, Tensor]) -> dict[str, Tensor]:
        found = {names.get(name, name): tensor for name, tensor in state.items()} | MASK
        for i in range(DEPTH):
            q, v = (found.pop(f"blocks.{i}.attn.{part}_bias") for part in "qv")
            found[f"blocks.{i}.attn.qkv.bias"] = torch.cat([q, keys, v])
            found[f"blocks.{i}.attn.qkv.bias_mask"] = torch.full((3 * WIDTH,), float("nan"))
        return found | {"rope_embed.periods": torch.ones(8)}

    def unwrap(state: dict[str, Tensor]) -> dict[str, Tensor]:
        back = {theirs: ours for ours, theirs in names.items()}
        found = {back.get(name, name): tensor for name, tensor in state.items() if name not in MASK}
        del found["rope_embed.periods"]
        for i in range(DEPTH):
            del found[f"blocks.{i}.attn.qkv.bias_mask"]
            q, k, v = found.pop(f"blocks.{i}.attn.qkv.bias").chunk(3)
            assert torch.equal(k, keys)
            found |= {f"blocks.{i}.attn.q_bias": q, f"blocks.{i}.attn.v_bias": v}
        return found

    return plain(net, net, wrap, unwrap)


def meta_gated_dinov3() -> Original:
    """The names of Meta's files on timm's network: gated MLPs as in H+ and 7B, no bias of queries and values."""
    from timm.models.eva import Eva

    net = shaken(
        Eva(
            SIDE, PATCH, num_classes=0, global_pool="token", embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS,
            qkv_bias=False, init_values=1.0, rope_type="dinov3", rope_temperature=100, rope_rotate_half=True,
            use_rot_pos_emb=True, use_abs_pos_emb=False, num_reg_tokens=3, use_fc_norm=False, dynamic_img_size=True,
            mlp_ratio=2, swiglu_mlp=True, swiglu_align_to=8, norm_layer=lambda *a, **k: nn.LayerNorm(*a, **k, eps=1e-5),
        )
    )  # fmt: skip
    words = (("reg_token", "storage_tokens"), ("gamma_1", "ls1.gamma"), ("gamma_2", "ls2.gamma"))
    words += (("fc1_g", "w1"), ("fc1_x", "w2"), ("fc2", "w3"))
    beside = MASK | {"local_cls_norm.weight": torch.ones(WIDTH), "rope_embed.periods": torch.ones(8)}

    def renamed(state: dict[str, Tensor], pairs: list[tuple[str, str]]) -> dict[str, Tensor]:
        found = {}
        for name, tensor in state.items():
            for before, after in pairs:
                name = name.replace(before, after)
            found[name] = tensor
        return found

    def wrap(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return renamed(state, list(words)) | beside

    def unwrap(state: dict[str, Tensor]) -> dict[str, Tensor]:
        own = {name: tensor for name, tensor in state.items() if name not in beside}
        return renamed(own, [(theirs, ours) for ours, theirs in words])

    return plain(net, net, wrap, unwrap)


def transformers_gated_dinov3() -> Original:
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    config = DINOv3ViTConfig(**HF, num_register_tokens=3, use_gated_mlp=True, hidden_act="silu", query_bias=False,
                             value_bias=False)  # fmt: skip
    net = shaken(DINOv3ViTModel(config))
    return huggingface(net, lambda x: net(x).pooler_output)


class Tower(nn.Module):
    """open_clip's tower around a network of timm: the names in its files, and what it computes."""

    def __init__(self, trunk: nn.Module, **head: nn.Module) -> None:
        super().__init__()
        self.trunk, self.head = trunk, nn.Sequential()
        for name, module in head.items():
            self.head.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


def open_clip_convnext(layers: int) -> Original:
    timm_package()
    from timm.layers import Mlp
    from timm.models.convnext import ConvNeXt

    trunk = ConvNeXt(num_classes=0, depths=(1, 2, 1, 1), dims=(8, 16, 24, 32))
    head = {"proj": nn.Linear(32, 12, bias=False)} if layers == 1 else {"mlp": Mlp(32, 24, 12, bias=(True, False))}
    return tower(shaken(Tower(trunk, **head)))


def open_clip_eva02() -> Original:
    timm_package()
    from timm.models.eva import Eva

    trunk = Eva(
        SIDE, PATCH, num_classes=48, global_pool="token", embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS,
        qkv_fused=False, mlp_ratio=4 * 2 / 3, swiglu_mlp=True, scale_mlp=True, scale_attn_inner=True,
        use_rot_pos_emb=True, ref_feat_shape=(16, 16),
    )  # fmt: skip
    return tower(shaken(Tower(trunk)))


def open_clip_eva(width: int, post_norm: bool) -> Original:
    """One block of the published width and heads, since the width says which of the two networks it is."""
    timm_package()
    from timm.models.eva import Eva

    trunk = Eva(SIDE, PATCH, num_classes=24, global_pool="token", embed_dim=width, depth=1, num_heads=16,
                mlp_ratio=(32 + 0.5) / width, use_post_norm=post_norm)  # fmt: skip
    net = shaken(Tower(trunk))
    weight = trunk.blocks[0].attn.qkv.weight  # with positive weights all heads attend alike, however many there are
    weight.copy_(torch.randn(weight.shape, generator=Key("heads").on("cpu")) / width**0.5)
    return tower(net)


def tower(net: nn.Module) -> Original:
    return plain(
        net,
        net,
        lambda state: {"logit_scale": torch.tensor(4.6)} | {f"visual.{name}": t for name, t in state.items()},
        lambda state: {name.removeprefix("visual."): t for name, t in state.items() if name != "logit_scale"},
    )


def torchvision_vit() -> Original:
    timm_package()
    from torchvision.models import VisionTransformer

    net = shaken(VisionTransformer(SIDE, PATCH, DEPTH, HEADS, WIDTH, 96, num_classes=5))

    def embed(x: Tensor) -> Tensor:
        x = torch.cat([net.class_token.expand(len(x), -1, -1), net._process_input(x)], 1)
        return net.encoder(x)[:, 0]

    return plain(net, embed)


def timm_vit(names: dict[str, str] | None = None, mean: bool = False, beside: dict[str, Tensor] | None = None, **how):
    """timm's network, in a file with the names that DINO, DINOv2 and MAE have: nearly timm's."""
    timm_package()
    from timm.models.vision_transformer import VisionTransformer

    net = shaken(VisionTransformer(SIDE, PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, num_classes=0, **how))
    names, beside = names or {}, beside or {}

    def wrap(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {names.get(name, name): tensor for name, tensor in state.items()} | beside

    def unwrap(state: dict[str, Tensor]) -> dict[str, Tensor]:
        back = {theirs: ours for ours, theirs in names.items()}
        assert all(torch.equal(state[name], tensor) for name, tensor in beside.items())
        return {back.get(name, name): tensor for name, tensor in state.items() if name not in beside}

    def embed(x: Tensor) -> Tensor:
        tokens = net.forward_features(x)
        return tokens[:, net.num_prefix_tokens :].mean(1) if mean else net.forward_head(tokens)

    return plain(net, embed, wrap, unwrap)


def meta_dinov2_with_registers() -> Original:
    """The names that Meta's files have; timm's own conversion of them is the original's code here."""
    from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

    how = {"num_classes": 0, "init_values": 1.0, "reg_tokens": 3, "no_embed_class": True}
    net = shaken(VisionTransformer(SIDE, PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, **how))
    state = net.state_dict() | MASK
    state["register_tokens"] = state.pop("reg_token")
    state["pos_embed"] = torch.cat([torch.rand(1, 1, WIDTH), state["pos_embed"]], 1)

    def load(file: Path) -> None:
        net.load_state_dict(checkpoint_filter_fn(dict(torch.load(file, weights_only=True)), net), strict=True)

    def save(folder: Path) -> Path:
        torch.save(state, folder / "weights.pt")
        load(folder / "weights.pt")
        return folder / "weights.pt"

    return Original(net, net, save, load)


MASK = {"mask_token": torch.ones(1, WIDTH)}
DECODER = {"mask_token": torch.ones(1, 1, 32), "decoder_embed.weight": torch.ones(32, WIDTH)}
QUICK = ImportOptions(heads=HEADS, activation="quick_gelu")
OF_2 = ImportOptions(heads=HEADS)


def of_2(layout: str, **more: Any) -> ImportOptions:
    return ImportOptions(heads=HEADS, layout=layout, **more)


ROWS: dict[str, tuple[str, str, Callable[[], Original], ImportOptions]] = {
    "FARE": ("clip", "open_clip", lambda: open_clip_vit(beside=False), QUICK),
    "OpenAI": ("clip", "open_clip", lambda: open_clip_vit(beside=True), QUICK),
    "ResNet of CLIP": ("clip-resnet", "open_clip", open_clip_resnet, ImportOptions()),
    "CLIP in transformers": ("clip-hf", "transformers", transformers_clip, ImportOptions()),
    "SigLIP in transformers": ("siglip-hf", "transformers", transformers_siglip, ImportOptions()),
    "DINO in transformers": (
        "vit-hf", "transformers", transformers_vit, ImportOptions(normalisation="imagenet"),
    ),
    "MAE in transformers": ("mae-hf", "transformers", transformers_mae, ImportOptions()),
    "DINOv2 in transformers": ("dinov2-hf", "transformers", lambda: transformers_dinov2(False), ImportOptions()),
    "DINOv2 with registers in transformers": (
        "dinov2-hf", "transformers", lambda: transformers_dinov2(True), ImportOptions(),
    ),
    "DINOv3 in transformers": ("dinov3-hf", "transformers", transformers_dinov3, ImportOptions()),
    "DINOv3": ("dinov3", "timm", meta_dinov3, ImportOptions(heads=HEADS, image_size=SIDE)),
    "gated DINOv3": ("dinov3", "timm", meta_gated_dinov3, ImportOptions(heads=HEADS, image_size=SIDE)),
    "gated DINOv3 in transformers": (
        "dinov3-hf-gated", "transformers", transformers_gated_dinov3, ImportOptions(),
    ),
    "ConvNeXt of open_clip": ("clip-convnext", "timm", lambda: open_clip_convnext(1), ImportOptions(image_size=64)),
    "ConvNeXt of open_clip, two layers": (
        "clip-convnext-mlp", "timm", lambda: open_clip_convnext(2), ImportOptions(image_size=64),
    ),
    "EVA-02 of open_clip": ("eva02", "timm", open_clip_eva02, ImportOptions(heads=HEADS)),
    "EVA g of open_clip": ("eva", "timm", lambda: open_clip_eva(1408, False), ImportOptions()),
    "EVA-02 E of open_clip": ("eva", "timm", lambda: open_clip_eva(1792, True), ImportOptions()),
    "torchvision": ("vit-torchvision", "torchvision", torchvision_vit, OF_2),
    "DINO": ("dino", "timm", timm_vit, of_2("dino")),
    "MAE": ("mae", "timm", lambda: timm_vit(beside=DECODER, mean=True), OF_2),
    "DINOv2": ("dinov2", "timm", lambda: timm_vit(init_values=1.0, beside=MASK), OF_2),
    "DINOv2 with registers": ("dinov2", "timm", meta_dinov2_with_registers, OF_2),
    "SigLIP in timm": (
        "siglip-timm", "timm", lambda: timm_vit(class_token=False, global_pool="map"),
        ImportOptions(heads=HEADS, activation="gelu"),
    ),
    "fine-tuned MAE": (
        "vit-timm", "timm", lambda: timm_vit(global_pool="avg"),
        of_2("vit-timm", pool="mean", normalisation="imagenet"),
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=ROWS)
def imported(request, tmp_path_factory) -> Iterator[tuple[Any, ...]]:
    layout, library, make, options = ROWS[request.param]
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    folder = tmp_path_factory.mktemp("original")
    timm_package()  # makes torchvision's import possible, which the others import too
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            theirs = make()
        file = theirs.save(folder)
        found = locate(str(file))
        ours = import_checkpoint(read(found.file), options, found.facts)
        yield layout, theirs, file, ours


def pixels(side: int = SIDE) -> Tensor:
    return torch.rand(2, 3, side, side, generator=Key("pixels").on("cpu"))


def near(ours: Tensor, theirs: Tensor) -> bool:
    return float((ours - theirs).norm() / theirs.norm()) < 1e-5


@torch.no_grad()
def test_it_is_recognised_and_computes_the_same(imported):
    layout, theirs, _, ours = imported
    assert ours.metadata["pretrain"]["layout"] == layout
    assert near(
        ours.encoder(pixels(ours.backbone.image_size)),
        theirs.embed(ours.encoder.normalize(pixels(ours.backbone.image_size))),
    )


def exported(ours: Any, file: Path, folder: Path) -> Path:
    save_encoder(folder / "encoder.safetensors", ours.encoder, ours.backbone, ours.metadata)
    encoder, backbone, about = load_encoder(folder / "encoder.safetensors")
    assert backbone == ours.backbone
    suffix = locate(str(file)).file.suffix
    how = ExportOptions("original", folder / f"out{suffix}", original=str(file))
    return export(folder / "encoder.safetensors", how)


def tensors(file: Path) -> dict[str, Tensor]:
    return load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)


def test_unchanged_it_comes_back_bit_for_bit(imported, tmp_path):
    _, _, file, ours = imported
    before, after = tensors(locate(str(file)).file), tensors(exported(ours, file, tmp_path))
    assert list(before) == list(after)
    assert all(before[name].dtype == after[name].dtype for name in before)
    assert all(before[name].numpy().tobytes() == after[name].numpy().tobytes() for name in before)


@torch.no_grad()
def test_trained_it_loads_into_the_original_library(imported, tmp_path, capsys):
    _, theirs, file, ours = imported
    state = {name: tensor.clone() for name, tensor in ours.encoder.state_dict().items()}
    kept = {name: tensor.clone() for name, tensor in theirs.net.state_dict().items()}
    rng, before = Key("step").on("cpu"), ours.encoder(pixels(ours.backbone.image_size))
    try:
        for parameter in ours.encoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng) * 0.02)
        out = exported(ours, file, tmp_path)
        theirs.load(out)
        halved = any(tensor.dtype == torch.float16 for tensor in tensors(out).values())
        a, b = (
            ours.encoder(pixels(ours.backbone.image_size)),
            theirs.embed(ours.encoder.normalize(pixels(ours.backbone.image_size))),
        )
        assert near(a, b) if not halved else (a - b).norm() < 1e-3 * b.norm()
        assert ("rounding" in capsys.readouterr().err) == halved
        assert not near(a, before)
    finally:
        ours.encoder.load_state_dict(state)
        theirs.net.load_state_dict(kept)


def test_heads_of_the_large_dinov3_are_not_64_wide_by_rule():
    """H+ has 20 heads and 7B has 32; `--heads` wins."""
    for width, heads in ((384, 6), (1280, 20), (4096, 32)):
        shapes = {"patch_embed.proj.weight": (width, 3, 16, 16), "blocks.0.mlp.fc2.weight": (width, 2 * width)}
        assert rope_vit_of("plain", shapes, Facts()).heads == heads
        assert rope_vit_of("plain", shapes, Facts(heads=2)).heads == 2


def test_norms_of_the_largest_convnext_have_their_own_epsilon():
    for width, eps in ((128, 1e-6), (384, 1e-5)):
        shapes = {f"stages.{k}.blocks.0.norm.weight": (width << k,) for k in range(4)} | {"head.fc.weight": (64, 8)}
        found = clip_convnext_of("plain", shapes, Facts())
        assert (found.eps, found.depths, found.out) == (eps, (1, 1, 1, 1), 64)
