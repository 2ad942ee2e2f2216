"""The dial: encoders between the original and the robust one, or between two batch-norm routes"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from unshaken.interop.encoder_words import locate
from unshaken.interop.load import LoadedModel, file_in, load_model
from unshaken.layouts.foreign import read
from unshaken.layouts.original_file import check_origin, original_weights
from unshaken.nets.checkpoint import FORMAT
from unshaken.nets.dual_bn import merge_route, routes_of
from unshaken.nets.network import Encoder
from unshaken.nets.torch_files import read_safetensors


def ends(model: LoadedModel, original: str | None) -> tuple[Encoder, Encoder]:
    """Return the encoders at 0 and at 1 of the dial, both without routes.

    original  the encoder at 0: a file of unshaken, or the file that the encoder was imported from. None: the encoder's
              own clean route, and 1 is its adversarial one
    """
    if model.kind != "encoder":
        raise ValueError("the dial is for encoders, and this is a classifier")
    routes = routes_of(model.encoder)
    if original is None:
        if not {"clean", "adv"} <= set(routes):
            raise ValueError(
                "this encoder has no clean and adv routes, so that the dial needs the encoder that it began as: add "
                "--original FILE"
            )
        return merge_route(model.encoder, "clean"), merge_route(model.encoder, "adv")
    robust = merge_route(model.encoder, "adv" if "adv" in routes else next(iter(routes), ""))
    return _original(model, robust, original), robust


def _original(model: LoadedModel, robust: Encoder, original: str) -> Encoder:
    path = Path(original)
    ours = path.is_dir() and any((path / name).exists() for name in ("encoder.safetensors", "classifier.safetensors"))
    if ours or path.suffix == ".safetensors" and read_safetensors(path)[1].get("format") == FORMAT:
        found = load_model(file_in(path)).encoder
        routes = routes_of(found)
        return merge_route(found, "clean" if "clean" in routes else next(iter(routes), ""))
    file = locate(original).file
    foreign = read(file)
    origin = check_origin(model.metadata, foreign, file)
    found = copy.deepcopy(robust)
    found.backbone.load_state_dict(original_weights(robust, origin, foreign))
    return found


def between(original: Encoder, robust: Encoder, dial: float) -> Encoder:
    """Return the encoder with (1 − dial) · original + dial · robust, for every weight and statistic.

    The ends are exact. ValueError if the two are not the same network.
    """
    if not 0 <= dial <= 1:
        raise ValueError(f"a dial is from 0, the original, to 1, the robust encoder, not {dial:g}")
    a, b = original.state_dict(), robust.state_dict()
    _check_alike(a, b)
    found = copy.deepcopy(robust)
    found.load_state_dict({name: _mixed(a[name], b[name], dial) for name in b})
    return found.eval()


def _mixed(a: Tensor, b: Tensor, dial: float) -> Tensor:
    if dial in (0, 1) or not b.is_floating_point():
        return a if dial == 0 else b
    return torch.lerp(a.float(), b.float(), dial).to(b.dtype)


def _check_alike(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    shapes = ({name: tuple(tensor.shape) for name, tensor in each.items()} for each in (a, b))
    one, other = shapes
    if one != other:
        differs = next(iter({name for name in {**one, **other} if one.get(name) != other.get(name)}))
        raise ValueError(f"the original and this encoder are different networks: they differ in {differs}")
