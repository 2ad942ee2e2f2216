"""Layouts of published encoders: how CLIP, DINOv2, MAE and ViT files are recognised"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from unshaken.layouts.encoder_facts import (
    Facts,
    clip_convnext_of,
    clip_resnet_of,
    eva02_of,
    eva_of,
    rope_vit_of,
    vit_of,
)
from unshaken.layouts.published import IMAGENET, Normalisation
from unshaken.nets import encoder_names as names
from unshaken.nets.name_rules import Rule, Shapes, names_within
from unshaken.nets.variants import AnyVariant
from unshaken.nets.vit import Resize

OPENAI: Normalisation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF: Normalisation = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


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
    variant: Callable[[Resize, Shapes, Facts], AnyVariant] | None = None

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
        return (self.variant or vit_of)(self.resize, shapes, facts)


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
            "clip-resnet",
            "a ResNet of OpenAI's CLIP or of open_clip",
            names.CLIP_RESNET,
            ("attnpool.positional_embedding", "conv3.weight", "layer4.0.conv3.weight"),
            facts=Facts(normalisation=OPENAI, interpolation="bicubic"),
            variant=clip_resnet_of,
        ),
        EncoderLayout(
            "clip-convnext",
            "a ConvNeXt of open_clip",
            names.CLIP_CONVNEXT,
            ("stem.0.weight", "stages.0.blocks.0.conv_dw.weight", "../head.proj.weight"),
            facts=Facts(normalisation=OPENAI, interpolation="bicubic"),
            variant=clip_convnext_of,
        ),
        EncoderLayout(
            "clip-convnext-mlp",
            "a ConvNeXt of open_clip with two layers of projection",
            names.CLIP_CONVNEXT,
            ("stem.0.weight", "stages.0.blocks.0.conv_dw.weight", "../head.mlp.fc2.weight"),
            facts=Facts(normalisation=OPENAI, interpolation="bicubic"),
            variant=clip_convnext_of,
        ),
        EncoderLayout(
            "eva02",
            "EVA-02 of CLIP in open_clip and timm, B and L",
            names.EVA02,
            ("cls_token", "blocks.0.mlp.fc1_g.weight", "blocks.0.attn.k_proj.weight", "head.weight"),
            beside=(("fixed numbers", r"(blocks\.\d+\.attn\.)?rope\."),),
            facts=Facts(normalisation=OPENAI, interpolation="bicubic"),
            variant=eva02_of,
        ),
        EncoderLayout(
            "eva",
            "EVA of CLIP in open_clip and timm, g and E",
            names.EVA,
            ("cls_token", "pos_embed", "blocks.0.attn.q_bias", "blocks.0.mlp.fc1.weight", "head.weight"),
            facts=Facts(normalisation=OPENAI, interpolation="bicubic"),
            variant=eva_of,
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
            "dinov3-hf",
            "DINOv3 in transformers, S to L; its licence binds derived weights too",
            names.HF_DINOV3,
            ("embeddings.register_tokens", "layer.0.attention.q_proj.weight", "layer.0.layer_scale1.lambda1"),
            lacks=(r"layer\.0\.mlp\.gate_proj",),
            beside=(("mask token", r"embeddings\.mask_token$"), CLASSIFIER),
            facts=Facts(eps=1e-5, normalisation=IMAGENET, interpolation="bilinear"),
            variant=rope_vit_of,
        ),
        EncoderLayout(
            "dinov3-hf-gated",
            "DINOv3 in transformers, H+ and 7B; its licence binds derived weights too",
            names.HF_DINOV3_GATED,
            ("embeddings.register_tokens", "layer.0.mlp.gate_proj.weight", "layer.0.layer_scale1.lambda1"),
            beside=(("mask token", r"embeddings\.mask_token$"), CLASSIFIER),
            facts=Facts(eps=1e-5, normalisation=IMAGENET, interpolation="bilinear"),
            variant=rope_vit_of,
        ),
        EncoderLayout(
            "dinov3",
            "DINOv3 as Meta published it; its licence binds derived weights too",
            names.DINOV3,
            ("storage_tokens", "blocks.0.attn.qkv.weight", "blocks.0.ls1.gamma"),
            beside=(
                ("mask token", r"mask_token$"),
                ("fixed numbers", r"rope_embed\.|blocks\.\d+\.attn\.qkv\.bias_mask"),
                ("norm of small crops, for training", r"local_cls_norm\."),
            ),
            facts=Facts(eps=1e-5, normalisation=IMAGENET, interpolation="bicubic"),
            variant=rope_vit_of,
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
