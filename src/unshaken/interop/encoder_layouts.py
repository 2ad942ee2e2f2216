"""Layouts of published encoders: how CLIP, DINOv2, MAE and ViT files are recognised"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from unshaken.interop import encoder_names as names
from unshaken.interop.layouts import IMAGENET, Normalisation
from unshaken.interop.name_rules import Rule, Shapes, names_within
from unshaken.nets.variants import AnyVariant
from unshaken.nets.vit import Pool, Resize, ViT

OPENAI: Normalisation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF: Normalisation = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_tanh": "gelu_tanh"}
"""Activations by the names in config.json, and ours."""
OF_80 = (1152, 1280, 1408, 1664)
"""Widths of published networks with 16 heads; the others have heads of 64."""


class Unsaid(ValueError):
    """A fact that no file of this kind says, so that the user has to name it."""


@dataclass(frozen=True)
class Facts:
    """What a file of weights does not say, from the user or from a configuration beside it; None: unknown."""

    heads: int | None = None
    activation: str | None = None
    eps: float | None = None
    pool: Pool | None = None
    side: int | None = None
    normalisation: Normalisation | None = None
    interpolation: str | None = None
    kind: str | None = None
    """model_type in a configuration of transformers."""

    def over(self, other: Facts) -> Facts:
        """Return these facts, with those of the other where they are unknown."""
        merged = {name: other.__dict__[name] if value is None else value for name, value in self.__dict__.items()}
        return Facts(**merged)


@dataclass(frozen=True)
class EncoderLayout:
    """The names of one kind of file, and facts that all files of this kind have in common.

    signs   their names that are there; the first one tells the prefix
    lacks   patterns of names that are not there
    beside  patterns of weights under the prefix that belong to something else: what they are, and their names
    facts   what is known of all such networks; an activation of None has to be named by the user
    kinds   model_type in config.json, if transformers has several kinds with these names
    """

    name: str
    what: str
    rules: tuple[Rule, ...]
    signs: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    beside: tuple[tuple[str, str], ...] = ()
    facts: Facts = Facts()
    resize: Resize = "antialias"
    kinds: tuple[str, ...] = ()
    variant: Callable[[EncoderLayout, Shapes, Facts], AnyVariant] | None = None

    def prefixes(self, found: Iterable[str], facts: Facts, named: bool) -> list[str]:
        """Return the prefixes under which the names of such a network are. `named`: the user named this layout."""
        if not named and self.kinds and facts.kind is not None and facts.kind not in self.kinds:
            return []
        starts = [name.removesuffix(self.signs[0]) for name in found if name.endswith(self.signs[0])]
        return [start for start in starts if start[-1:] in ("", ".") and self._fits(found, start, named)]

    def _fits(self, found: Iterable[str], start: str, named: bool) -> bool:
        names = names_within(found, start)
        lacks = () if named else self.lacks
        return all(sign in names for sign in self.signs) and not any(
            re.match(pattern, name) for pattern in lacks for name in names
        )

    def build(self, shapes: Shapes, facts: Facts) -> AnyVariant:
        """Return the network with these shapes, by our names. ValueError if a fact is missing."""
        return (self.variant or vit_of)(self, shapes, facts)


def vit_of(layout: EncoderLayout, shapes: Shapes, facts: Facts) -> ViT:
    """Return the Vision Transformer with these shapes."""
    patches, width = shapes["patch_embed.proj.weight"], shapes["patch_embed.proj.weight"][0]
    tokens = shapes["pos_embed"][-2]
    grid, class_token = math.isqrt(tokens), "cls_token" in shapes
    positioned = class_token and grid * grid != tokens
    if math.isqrt(tokens - positioned) ** 2 != tokens - positioned:
        raise ValueError(f"{tokens} position embeddings are of no square of patches")
    hidden, narrowed = shapes["blocks.0.mlp.fc1.weight"][0], shapes["blocks.0.mlp.fc2.weight"][1]
    registers = shapes["reg_token"][-2] if "reg_token" in shapes else 0
    return ViT(
        side=math.isqrt(tokens - positioned) * patches[-1],
        patch=patches[-1],
        width=width,
        depth=_blocks(shapes),
        heads=heads_of(width, facts),
        hidden=hidden,
        out=shapes["head.weight"][-1] if "head.weight" in shapes else 0,
        pool=pool_of(shapes, facts),
        activation=_activation(facts),  # pyright: ignore[reportArgumentType]
        eps=facts.eps or 1e-6,
        resize="antialias" if registers else layout.resize,
        registers=registers,
        class_token=class_token,
        class_position=positioned,
        pre_norm="norm_pre.weight" in shapes,
        qkv_bias="blocks.0.attn.qkv.bias" in shapes,
        layer_scale="blocks.0.ls1.gamma" in shapes,
        swiglu=hidden == 2 * narrowed,
        norm_pooled="fc_norm.weight" in shapes,
        patch_bias="patch_embed.proj.bias" in shapes,
    )


def _blocks(shapes: Shapes) -> int:
    numbers = {int(at[1]) for name in shapes if (at := re.match(r"blocks\.(\d+)\.", name))}
    if numbers != set(range(len(numbers))):
        raise ValueError(f"the numbers of its {len(numbers)} blocks are not consecutive")
    return len(numbers)


def heads_of(width: int, facts: Facts) -> int:
    """Return the number of heads: as known, else that of all published networks of this width."""
    if facts.heads is None and width % 64 and width not in OF_80:
        raise Unsaid(f"no file says how many heads a network of width {width} has: name them by --heads")
    return facts.heads or (16 if width in OF_80 else width // 64)


def pool_of(shapes: Shapes, facts: Facts) -> Pool:
    """Return what the embedding is: as asked, else what users of this kind of network take."""
    if facts.pool is not None:
        return facts.pool
    if "attn_pool.latent" in shapes:
        return "attention"
    return "projection" if "head.weight" in shapes else "class" if "cls_token" in shapes else "mean"


def _activation(facts: Facts) -> str:
    if facts.activation is None:
        raise Unsaid(
            "no file says which GELU its network has, and with the wrong one every answer is a little off: add "
            "--activation quick_gelu (OpenAI, DFN, MetaCLIP, LAION-400M) or --activation gelu (LAION-2B, DataComp)"
        )
    return facts.activation


CLASSIFIER = ("classifier", r"(head|heads|pre_logits|head_dist)\.|\.\./classifier\.|classifier\.|pooler\.dense\.")
GELU = "gelu"
ENCODER_LAYOUTS = {
    layout.name: layout
    for layout in (
        EncoderLayout(
            "clip",
            "a ViT of OpenAI's CLIP or of open_clip; fine-tuned towers such as FARE's and TeCoA's",
            names.CLIP,
            ("class_embedding", "ln_pre.weight", "transformer.resblocks.0.ln_1.weight"),
            facts=Facts(eps=1e-5, normalisation=OPENAI, interpolation="bicubic"),
        ),
        EncoderLayout(
            "clip-hf",
            "a ViT of CLIP in transformers",
            names.HF_CLIP,
            ("embeddings.class_embedding", "pre_layrnorm.weight"),
            beside=(("numbers of positions", r"embeddings\.position_ids$"),),
            facts=Facts(eps=1e-5, normalisation=OPENAI, interpolation="bicubic"),
            resize="plain",
        ),
        EncoderLayout(
            "siglip-hf",
            "SigLIP in transformers",
            names.HF_CLIP,
            ("head.probe", "embeddings.patch_embedding.bias"),
            beside=(("numbers of positions", r"embeddings\.position_ids$"),),
            facts=Facts(activation="gelu_tanh", eps=1e-6, normalisation=HALF, interpolation="bicubic"),
            resize="plain",
        ),
        EncoderLayout(
            "dinov2-hf",
            "DINOv2 in transformers, with registers or without",
            names.HF_VIT,
            ("embeddings.mask_token", "encoder.layer.0.layer_scale1.lambda1"),
            beside=(("mask token", r"embeddings\.mask_token$"), CLASSIFIER),
            facts=Facts(activation=GELU, eps=1e-6, normalisation=IMAGENET, interpolation="bicubic"),
            resize="plain",
        ),
        EncoderLayout(
            "mae-hf",
            "MAE in transformers",
            names.HF_VIT,
            ("embeddings.cls_token", "encoder.layer.0.layernorm_before.weight"),
            beside=(("mask token", r"embeddings\.mask_token$"), CLASSIFIER),
            facts=Facts(activation=GELU, eps=1e-12, pool="mean", normalisation=IMAGENET, interpolation="bilinear"),
            resize="plain",
            kinds=("vit_mae",),
        ),
        EncoderLayout(
            "vit-hf",
            "ViT and DINO in transformers",
            names.HF_VIT,
            ("embeddings.cls_token", "encoder.layer.0.layernorm_before.weight"),
            lacks=(r"\.\./decoder\.",),
            beside=(("mask token", r"embeddings\.mask_token$"), CLASSIFIER),
            facts=Facts(activation=GELU, eps=1e-12),
            resize="plain",
            kinds=("vit",),
        ),
        EncoderLayout(
            "dinov2",
            "DINOv2 as Meta published it, with registers or without",
            names.TIMM_VIT,
            ("mask_token", "cls_token", "blocks.0.ls1.gamma", "pos_embed"),
            beside=(("mask token", r"mask_token$"), CLASSIFIER),
            facts=Facts(activation=GELU, eps=1e-6, normalisation=IMAGENET, interpolation="bicubic"),
            resize="offset",
        ),
        EncoderLayout(
            "siglip-timm",
            "SigLIP in open_clip and timm",
            names.TIMM_VIT,
            ("attn_pool.latent", "patch_embed.proj.weight"),
            facts=Facts(eps=1e-6, normalisation=HALF, interpolation="bicubic"),
        ),
        EncoderLayout(
            "dino",
            "DINO as published: a checkpoint of its teacher, or the encoder alone",
            names.TIMM_VIT,
            ("cls_token", "blocks.0.attn.qkv.weight", "pos_embed"),
            lacks=(
                "blocks.0.ls1",
                "attn_pool",
                "mask_token",
                "decoder_",
                "fc_norm",
                "norm_pre",
                "reg_token",
                "head",
            ),
            beside=(CLASSIFIER,),
            facts=Facts(activation=GELU, eps=1e-6, normalisation=IMAGENET, interpolation="bicubic"),
            resize="offset",
        ),
        EncoderLayout(
            "mae",
            "MAE as published, with its decoder or without; the embedding is the mean of the patches",
            names.TIMM_VIT,
            ("cls_token", "blocks.0.attn.qkv.weight", "pos_embed"),
            lacks=("blocks.0.ls1", "attn_pool", "norm_pre", "reg_token", "head"),
            beside=(("decoder", r"decoder_|mask_token$"), CLASSIFIER),
            facts=Facts(activation=GELU, eps=1e-6, pool="mean", normalisation=IMAGENET, interpolation="bicubic"),
            resize="plain",
        ),
        EncoderLayout(
            "vit-timm",
            "a ViT of timm",
            names.TIMM_VIT,
            ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "pos_embed"),
            lacks=("attn_pool", "mask_token", "decoder_", "norm_pre"),
            beside=(CLASSIFIER,),
            facts=Facts(activation=GELU, eps=1e-6),
        ),
        EncoderLayout(
            "clip-timm",
            "a ViT of CLIP in timm",
            (*names.TIMM_VIT, Rule(("head.weight",), ("head.weight",))),
            ("norm_pre.weight", "blocks.0.attn.qkv.weight", "head.weight"),
            beside=(("bias of the projection, which is 0", r"head\.bias$"),),
            facts=Facts(eps=1e-5, normalisation=OPENAI, interpolation="bicubic"),
        ),
        EncoderLayout(
            "vit-torchvision",
            "a ViT of torchvision",
            names.TORCHVISION_VIT,
            ("class_token", "encoder.pos_embedding", "conv_proj.weight"),
            beside=(CLASSIFIER,),
            facts=Facts(activation=GELU, eps=1e-6, normalisation=IMAGENET, interpolation="bilinear"),
            resize="corners",
        ),
    )
}
"""Layouts of encoders by name. Where the names of several fit, the user says which one it is."""
