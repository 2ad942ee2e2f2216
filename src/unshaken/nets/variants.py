"""Networks that are described by their numbers instead of a name, such as a Vision Transformer of any size."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin, get_type_hints

from unshaken.nets.clip_convnext import ClipConvNeXt
from unshaken.nets.clip_resnet import ClipResNet
from unshaken.nets.eva import Eva
from unshaken.nets.eva02 import Eva02
from unshaken.nets.rope_vit import RopeViT
from unshaken.nets.vit import ViT

AnyVariant = ViT | RopeViT | Eva | Eva02 | ClipResNet | ClipConvNeXt
VARIANTS: dict[str, type] = {kind.__name__: kind for kind in (ViT, RopeViT, Eva, Eva02, ClipResNet, ClipConvNeXt)}


def variant_of(saved: dict[str, Any]) -> AnyVariant:
    """Return the network that JSON describes. ValueError or TypeError if there is none of this kind."""
    kind = VARIANTS.get(str(saved.get("type")))
    if kind is None:
        raise ValueError(
            f"there is no network of type {str(saved.get('type'))[:40]!r}; there are {', '.join(VARIANTS)}"
        )
    fields = {name: tuple(v) if isinstance(v, list) else v for name, v in saved.items() if name != "type"}
    for name, hint in get_type_hints(kind).items():
        allowed = get_args(hint) if get_origin(hint) is Literal else (True, False) if hint is bool else None
        if allowed and name in fields and fields[name] not in allowed:
            raise ValueError(f"{name} is one of {', '.join(map(str, allowed))}, not {str(fields[name])[:40]!r}")
    return kind(**fields)
