"""Import of timm/NAME and torchvision/NAME, with the weights that these packages have for them"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from unshaken.data.source import UNKNOWN
from unshaken.interop.encoder_import import EMBEDDINGS
from unshaken.interop.import_checkpoint import import_checkpoint
from unshaken.interop.import_options import ImportedModel, ImportOptions, recipe_of
from unshaken.layouts.encoder_facts import Facts, vit_of
from unshaken.layouts.foreign import Container, ForeignCheckpoint
from unshaken.layouts.normalisation import pixel_normalisation
from unshaken.layouts.weight_matching import Reading
from unshaken.nets.backbone import Backbone, timm_encoder
from unshaken.nets.network import Encoder, Normalize
from unshaken.nets.timm_nets import published_classifier, timm_config, timm_package
from unshaken.nets.vit import ViT

ACTIVATIONS = {"GELU": "gelu", "QuickGELU": "quick_gelu", "GELUTanh": "gelu_tanh"}
"""timm's classes of activations, and ours."""


def import_timm_network(name: str, options: ImportOptions = ImportOptions()) -> ImportedModel:
    """Import the network timm/NAME with the weights that timm has for it, which are downloaded if they are missing."""
    fields = ("layout", "padding", "classes", "mode", "key", "prefix", "network")
    others = [field for field in fields if getattr(options, field) is not None]
    if others:
        raise ValueError(f"--{others[0]} is for checkpoint files; {name} is imported as timm has it: leave it out")
    encoder, backbone = _timm_vit(name, options) or timm_encoder(name, options.image_size)
    if options.mean or options.normalisation:
        given = (options.mean, options.std) if options.mean and options.std else None
        reading = Reading(None, "", channels=backbone.channels)  # pyright: ignore[reportArgumentType]
        (mean, std), _ = pixel_normalisation(reading, given, options.normalisation, None)
        backbone = replace(backbone, mean=mean, std=std)
        encoder.normalize = backbone.build().normalize
    report = {
        "network": f"{backbone.name}, for images of {backbone.image_size} pixels",
        "normalisation": f"mean {list(backbone.mean)}, std {list(backbone.std)}",
        "routes": "none: networks of timm have one batch norm for all images, or none",
    }
    if backbone.variant is not None:
        report["embedding"] = f"{EMBEDDINGS[backbone.variant.pool]}, {encoder.features} numbers"
    if backbone.variant is None or backbone.variant.pool != "projection":
        report["dropped"] = "timm's classifier"
    recipe = recipe_of(options.method or UNKNOWN, options.data or UNKNOWN)
    origin = {"recipe": recipe, "file": {"name": name}, "layout": "timm", "dropped": {"classifier": 2}, "said": report}
    return ImportedModel(encoder.eval(), backbone, {"pretrain": origin}, report)


def _timm_vit(name: str, options: ImportOptions) -> tuple[Encoder, Backbone] | None:
    """Return a Vision Transformer of timm with its projection and for any side; None if it is another network."""
    package, config = timm_package(), timm_config(name.removeprefix("timm/"))
    with torch.device("meta"):
        plain = vit_of_timm(package.create_model(name.removeprefix("timm/")), options)
    if plain is None:
        return None
    net = published_classifier(name)[0][1]  # pyright: ignore[reportIndexIssue]
    side, channels = options.image_size or config.input_size[-1], config.input_size[0]
    backbone = Backbone(name, side, channels, tuple(config.mean), tuple(config.std), variant=plain)
    encoder = backbone.build()
    state = net.state_dict()
    if plain.pool == "projection" and bool(state["head.bias"].any()):
        raise ValueError(f"the projection of {name} has a bias, which no encoder of CLIP has")
    encoder.backbone.load_state_dict({weight: state[weight] for weight in encoder.backbone.state_dict()})
    return encoder, backbone


def vit_of_timm(net: nn.Module, options: ImportOptions = ImportOptions()) -> ViT | None:
    """Return the numbers of a plain Vision Transformer of timm; None if it is another network, or has more to it."""
    from timm.models.vision_transformer import VisionTransformer

    if type(net) is not VisionTransformer:
        return None
    shapes = {weight: tuple(tensor.shape) for weight, tensor in net.state_dict().items()}
    head = shapes.pop("head.weight", None)
    shapes.pop("head.bias", None)
    clip = head is not None and "norm_pre.weight" in shapes
    block: Any = net.blocks[0]  # pyright: ignore[reportIndexIssue]
    facts = Facts(
        heads=options.heads or block.attn.num_heads,
        activation=options.activation or ACTIVATIONS.get(type(block.mlp.act).__name__),
        eps=block.norm1.eps,
        pool=options.pool or ("mean" if net.global_pool == "avg" else None),
    )
    try:
        found = vit_of("antialias", shapes | ({"head.weight": head[::-1]} if clip else {}), facts)
        with torch.device("meta"):
            built = found.build(found.side, net.in_chans)[0]
    except (ValueError, KeyError):
        return None
    ours = {weight: tuple(tensor.shape) for weight, tensor in built.state_dict().items()}
    theirs = shapes | ({"head.weight": head} if clip else {})
    spare = {w for w in theirs if w not in ours and w.partition(".")[0] in ("head", "attn_pool", "fc_norm", "norm")}
    return found if {w: s for w, s in theirs.items() if w not in spare} == ours else None


def import_torchvision_network(name: str, options: ImportOptions = ImportOptions()) -> ImportedModel:
    """Import the network torchvision/NAME with its default weights, which are downloaded if they are missing."""
    module, _ = published_classifier(name)
    normalize, net = module  # pyright: ignore[reportGeneralTypeIssues]
    assert isinstance(normalize, Normalize)
    if options.mean is None and options.normalisation is None:
        mean, std = (tuple(round(v, 6) for v in each.flatten().tolist()) for each in (normalize.mean, normalize.std))
        options = replace(options, mean=mean, std=std)
    return import_checkpoint(ForeignCheckpoint((Container("", dict(net.state_dict())),), name, ""), options)
