"""Options of an import: facts about the file that it does not say itself; and what an import gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from unshaken.base.ranges import Count, Number, Positive, ranged
from unshaken.base.suggest import ASIDE, did_you_mean
from unshaken.data.source import UNKNOWN
from unshaken.layouts.encoder_facts import Facts
from unshaken.layouts.encoder_layouts import ENCODER_LAYOUTS
from unshaken.layouts.published import LAYOUTS, NORMALISATIONS
from unshaken.layouts.weight_matching import Wanted
from unshaken.nets.backbone import Backbone
from unshaken.nets.network import Encoder


@dataclass(frozen=True)
@ranged
class ImportOptions:
    """Options of an import: where the encoder is written, and facts about the file that it does not say itself."""

    out: Path | None = None
    """Folder or file NAME.safetensors to write. By default a folder in runs/ with the name of the checkpoint."""
    layout: str | None = None
    """Layout of the file, if it is not recognised correctly; `unshaken import --help` lists them."""
    key: str | None = None
    """Entry of the file that holds the weights, such as state_dict, or model.ema for an entry within an entry."""
    prefix: str | None = None
    """Prefix of the names of the network's weights, such as module.encoder_q."""
    drop: tuple[str, ...] = ()
    """Weights or modules to leave out, by name or by a pattern such as adapter.*; the report lists them."""
    network: str | None = None
    """timm/NAME: the network of timm whose weights the file holds."""
    normalisation: Literal["imagenet", "cifar", "none"] | None = None
    """Normalisation of pixels in [0, 1] that the network was trained with."""
    mean: tuple[Number, ...] | None = None
    """Mean of the normalisation, one number for each channel. Needs --std."""
    std: tuple[Positive, ...] | None = None
    """Standard deviation of the normalisation, one number for each channel. Needs --mean."""
    padding: Literal[1, 2] | None = None
    """Padding of a 3x3 first convolution: 2 for checkpoints of DeACL and solo-learn, 1 for most others."""
    image_size: Count | None = None
    """Image size of the network in pixels; files of weights do not contain it. By default 32 for a ResNet with a 3x3
    first convolution (up to 64), 96 or 224 with a 7x7 one, and for a ViT the size of its position embeddings."""
    heads: Count | None = None
    """Number of heads of a ViT; files of weights do not contain it. By default that of published networks of its
    width."""
    activation: Literal["quick_gelu", "gelu", "gelu_tanh"] | None = None
    """Activation of a ViT: quick_gelu for OpenAI's CLIP and fine-tuned towers of it, gelu_tanh for SigLIP."""
    pool: Literal["class", "mean", "projection", "attention"] | None = None
    """Embedding of a ViT: its class token, the mean of its patch tokens, the projected class token (CLIP), or pooling
    by attention (SigLIP). By default the usual one for such a network."""
    method: str | None = None
    """Method: acl, acl-air, dynacl, dynacl-air, advcl, ... Fine-tuning presets and citations depend on it."""
    data: str | None = None
    """Image set that the encoder was trained on: cifar10, cifar100, stl10, or a path."""
    classes: str | None = None
    """Classes of a classifier in the file: cifar10, cifar100, stl10, or names with commas between them."""
    mode: Literal["slf", "alf", "aff"] | None = None
    """Mode in which that classifier was fine-tuned."""
    classifier_data: str | None = None
    """Image set that the classifier was trained on, if it is neither the set of --classes nor that of --data."""
    classifier: bool = True
    """Import a classifier in the file too, for `unshaken evaluate`."""

    def __post_init__(self) -> None:
        if self.out is not None and self.out.suffix in (".pt", ".pth", ".ckpt", ".tar"):
            raise ValueError(f"--out must be a folder or a file NAME.safetensors, not {self.out}")
        if (self.mean is None) != (self.std is None):
            raise ValueError("--mean and --std go together")
        if self.mean is not None and self.normalisation is not None:
            raise ValueError("give either --normalisation, or --mean and --std")
        known = [*LAYOUTS, *ENCODER_LAYOUTS]
        if self.layout is not None and self.layout not in known:
            hint = did_you_mean(self.layout, known, ASIDE)
            raise ValueError(f"there is no layout {self.layout!r}{hint}; there are {', '.join(known)}")
        if self.network is not None and not self.network.removeprefix("timm/") not in ("", self.network):
            raise ValueError(
                f"--network must be timm/NAME, not {self.network}; other networks are recognised by the weights' shapes"
            )
        if self.layout == "timm" and self.network is None:
            raise ValueError("--layout timm needs the network's name: --network timm/NAME")

    @property
    def facts(self) -> Facts:
        """The facts about an encoder that the user states."""
        named = NORMALISATIONS[self.normalisation] if self.normalisation else None
        given = (self.mean, self.std) if self.mean and self.std else named
        return Facts(self.heads, self.activation, None, self.pool, self.image_size, given)

    @property
    def wanted(self) -> Wanted:
        layout = None if self.layout == "timm" else self.layout
        return Wanted(layout, self.key, self.prefix, self.drop, self.network, self.image_size)


@dataclass(frozen=True, eq=False)
class ImportedModel:
    """An imported encoder, its metadata, the report for the user, and the classifier in the file if there was one."""

    encoder: Encoder
    backbone: Backbone
    metadata: dict[str, Any]
    report: dict[str, str]
    head: nn.Linear | None = None


def recipe_of(name: str, data: str, **others: Any) -> dict[str, Any]:
    """Return what is stored in place of a recipe for a network that was trained elsewhere."""
    return {"type": "Imported", "name": name, "data": {"type": "DataSource", "name": data}, "seed": UNKNOWN} | others
