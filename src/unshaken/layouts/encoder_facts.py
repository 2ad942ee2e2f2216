"""Facts about an encoder that its file of weights lacks, and the network that has the shapes in it"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from unshaken.layouts.published import Normalisation
from unshaken.nets.clip_convnext import ClipConvNeXt
from unshaken.nets.clip_resnet import ClipResNet
from unshaken.nets.eva import Eva
from unshaken.nets.eva02 import Eva02
from unshaken.nets.name_rules import Shapes
from unshaken.nets.rope_vit import RopeViT
from unshaken.nets.vit import Pool, Resize, ViT

ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "silu": "silu",
}
"""Activations by the names in config.json, and ours."""
OF_80 = (1152, 1280, 1408, 1664)
"""Widths of published networks with 16 heads; the others have heads of 64."""

HEADS_OF_DINOV3 = {1280: 20, 4096: 32}
"""Heads of DINOv3's H+ and 7B, by width; those of S to L have a width of 64."""
WIDTH_OF_EVA_E = 1792
"""Width of EVA-02's E, which has 16 heads, as g has, and norms after attention and MLP. No other published EVA does."""
WIDTH_OF_XXLARGE = 384
"""Width of the first stage of open_clip's ConvNeXt-XXL, whose norms alone have an epsilon of 1e-5."""


class Unsaid(ValueError):
    """A fact that no file of this kind says, so that the user has to name it."""


@dataclass(frozen=True)
class Facts:
    """Facts that a file of weights lacks, from the user or from a configuration beside it; None: unknown."""

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


def vit_of(resize: Resize, shapes: Shapes, facts: Facts) -> ViT:
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
        resize="antialias" if registers else resize,
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


def rope_vit_of(_: Resize, shapes: Shapes, facts: Facts) -> RopeViT:
    """Return the Vision Transformer with rotary positions that has these shapes."""
    patches, width = shapes["patch_embed.proj.weight"], shapes["patch_embed.proj.weight"][0]
    if facts.pool not in (None, "class", "mean"):
        raise ValueError(f"this network has no {facts.pool}: choose --pool class or mean")
    return RopeViT(
        side=facts.side or 224,
        patch=patches[-1],
        width=width,
        depth=_blocks(shapes),
        heads=facts.heads or HEADS_OF_DINOV3.get(width) or heads_of(width, facts),
        hidden=shapes["blocks.0.mlp.fc2.weight"][1],
        registers=shapes["reg_token"][-2] if "reg_token" in shapes else 0,
        pool=facts.pool or "class",
        eps=facts.eps or 1e-5,
        biased="blocks.0.attn.q_bias" in shapes or "blocks.0.attn.qkv.bias" in shapes,
        gated="blocks.0.mlp.fc1_g.weight" in shapes,
    )


def eva02_of(_: Resize, shapes: Shapes, facts: Facts) -> Eva02:
    """Return the EVA-02 of CLIP that has these shapes."""
    _projected(facts)
    patch, width = shapes["patch_embed.proj.weight"][-1], shapes["patch_embed.proj.weight"][0]
    return Eva02(
        side=math.isqrt(shapes["pos_embed"][-2] - 1) * patch,
        patch=patch,
        width=width,
        depth=_blocks(shapes),
        heads=heads_of(width, facts),
        hidden=shapes["blocks.0.mlp.fc2.weight"][1],
        out=shapes["head.weight"][-1],
        eps=facts.eps or 1e-6,
    )


def eva_of(_: Resize, shapes: Shapes, facts: Facts) -> Eva:
    """Return the EVA of CLIP that has these shapes: the names of g and E are the same."""
    _projected(facts)
    patch, width = shapes["patch_embed.proj.weight"][-1], shapes["patch_embed.proj.weight"][0]
    large = width == WIDTH_OF_EVA_E
    return Eva(
        side=math.isqrt(shapes["pos_embed"][-2] - 1) * patch,
        patch=patch,
        width=width,
        depth=_blocks(shapes),
        heads=facts.heads or (16 if large else heads_of(width, facts)),
        hidden=shapes["blocks.0.mlp.fc2.weight"][1],
        out=shapes["head.weight"][-1],
        post_norm=large,
        eps=facts.eps or 1e-6,
    )


def clip_convnext_of(_: Resize, shapes: Shapes, facts: Facts) -> ClipConvNeXt:
    """Return the ConvNeXt of open_clip that has these shapes."""
    _projected(facts)
    widths = tuple(shapes[f"stages.{stage}.blocks.0.norm.weight"][0] for stage in range(4))
    return ClipConvNeXt(
        side=facts.side or 256,
        depths=_stages(shapes),
        widths=widths,
        hidden=shapes.get("head.pre_logits.fc.weight", (0,))[0],
        out=shapes["head.fc.weight"][0],
        eps=facts.eps or (1e-5 if widths[0] == WIDTH_OF_XXLARGE else 1e-6),
    )


def clip_resnet_of(_: Resize, shapes: Shapes, facts: Facts) -> ClipResNet:
    """Return the ResNet of CLIP that has these shapes."""
    _projected(facts)
    grid = math.isqrt(shapes["head.pos_embed"][0] - 1)
    width, out = shapes["stem.conv3.conv.weight"][0], shapes["head.proj.weight"][0]
    return ClipResNet(side=32 * grid, layers=_stages(shapes), width=width, out=out)


def _projected(facts: Facts) -> None:
    if facts.pool not in (None, "projection"):
        raise ValueError(f"this network of CLIP has no {facts.pool} pooling: leave --pool out")


def _stages(shapes: Shapes) -> tuple[int, ...]:
    """Return the numbers of blocks in the four stages of a convolutional network."""
    pattern = r"stages\.{}\.(?:blocks\.)?(\d+)\."
    return tuple(len({at[1] for name in shapes if (at := re.match(pattern.format(stage), name))}) for stage in range(4))


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
    if facts.activation == "silu":
        raise ValueError("the activation silu is of gated MLPs, and this network has none")
    return facts.activation
