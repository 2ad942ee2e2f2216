"""The normalisation of an imported network: from the user, the file, or its layout."""

from __future__ import annotations

import math
import re
from typing import Any

from unshaken.layouts.published import IMAGENET, NONE, NORMALISATIONS, Normalisation, normalisation_of
from unshaken.layouts.weight_matching import Reading, is_statistic
from unshaken.nets.torch_files import real

PAIRS = {"mean": "std", "mu": "sigma"}
SWITCHED_OFF = ("advcl", "a-infonce")
"""Methods whose fine-tuned files hold a normalisation that was switched off (the benchmark's do_normalize=0)."""
ASK = "give it by --normalisation imagenet, cifar or none, or by --mean and --std"


def pixel_normalisation(
    reading: Reading, given: Normalisation | None, named: str | None, method: str | None
) -> tuple[Normalisation, str]:
    """Return the mean and standard deviation, and where they come from. ValueError if the user has to give them.

    given   --mean and --std
    named   --normalisation
    method  --method
    """
    channels = reading.channels
    if given is not None:
        return _of_channels(given, channels, "--mean and --std"), "as given"
    if named is not None:
        return _of_channels(NORMALISATIONS[named], channels, f"--normalisation {named}"), "as given"
    found = normalisations_in_file(reading)
    if len(found) > 1:
        shown = "; ".join(f"mean {list(mean)}, std {list(std)}" for mean, std in found[:4])
        raise ValueError(f"the file holds {len(found)} normalisations ({shown}): {ASK}")
    if found and not _may_be_switched_off(reading, found[0]):
        return _checked(found[0]), "from the file"
    if found and method in SWITCHED_OFF:
        return _of_channels(NONE, channels, "none"), f"the file holds one, but {method} switches it off"
    if found and method not in (None, "deacl"):
        return _checked(found[0]), f"from the file, as {method} uses it"
    if found:
        raise ValueError(
            "the file holds ImageNet's normalisation, but it may have been switched off: fine-tuned files of AdvCL, "
            "A-InfoNCE and DeACL hold it too, although their networks were run without it. Name the method by --method "
            "acl, dynacl, advcl, ..., or the normalisation by --normalisation imagenet or none"
        )
    paper = normalisation_of(reading.layout, reading.network)  # pyright: ignore[reportArgumentType]
    if paper is not None:
        return _of_channels(paper, channels, "the paper's"), "not in the file; the one of this layout's paper"
    raise ValueError(
        "the file does not say how its network normalises pixels, and files of this layout differ in it: "
        f"{ASK}; or name another layout by --layout NAME (sat, acl, ...)"
    )


def normalisations_in_file(reading: Reading) -> list[Normalisation]:
    """Return all pairs of a mean and a standard deviation in the file that belong to the network's pixels."""
    tensors, found = reading.container.tensors, []
    for name in tensors:
        folder, _, leaf = name.rpartition(".")
        word = re.search(r"(mean|mu)$", leaf)
        if not word or not is_statistic(name) or not _is_of(folder, reading.prefix):
            continue
        other = name.removesuffix(word[1]) + PAIRS[word[1]]
        counts = {_count(tensors[each]) for each in (name, other) if each in tensors}
        if other in tensors and counts <= {1, reading.channels}:
            pair = _decimals(tensors[name], reading.channels), _decimals(tensors[other], reading.channels)
            found += [pair] if pair not in found else []
    return found


def _count(tensor: Any) -> int:
    return math.prod(tensor.shape)


def _decimals(tensor: Any, channels: int) -> tuple[float, ...]:
    """Return one number for each channel, rounded to the digits of a float32."""
    numbers = tuple(float(f"{v:.7g}") for v in real(tensor, "its normalisation", "the file").flatten().tolist())
    return numbers * (channels if len(numbers) == 1 else 1)


def _is_of(folder: str, prefix: str) -> bool:
    """Return whether a module holds the network with this prefix, or lies in a module that holds it."""
    above = folder.rpartition(".")[0]
    return any(not module or prefix.startswith(f"{module}.") for module in (folder, above))


def _may_be_switched_off(reading: Reading, found: Normalisation) -> bool:
    """Return whether it is ImageNet's in a fine-tuned file: the papers' benchmark stores that even if it is unused."""
    inside = f"{reading.prefix}normalize.mean" in reading.container.tensors
    pairs = zip((v for part in found for v in part), (v for part in IMAGENET for v in part), strict=False)
    close = all(abs(a - b) < 1e-3 for a, b in pairs)
    return reading.layout.name in ("finetuned", "autolora") and inside and close


def _checked(found: Normalisation) -> Normalisation:
    mean, std = found
    if min(std) <= 0:
        raise ValueError(f"the file's normalisation has a standard deviation of {min(std)}: {ASK}")
    if max(map(abs, mean)) > 1.5:
        scaled = [" ".join(f"{v / 255:.6g}" for v in part) for part in found]
        raise ValueError(
            f"the file's normalisation (mean {list(mean)}, std {list(std)}) is for pixels from 0 to 255, and here they "
            f"are from 0 to 1: give --mean {scaled[0]} --std {scaled[1]} if the network was trained with it"
        )
    return found


def _of_channels(normalisation: Normalisation, channels: int, origin: str) -> Normalisation:
    mean, std = normalisation
    if normalisation == NONE:
        return (0.0,) * channels, (1.0,) * channels
    if len(mean) != channels or len(std) != channels:
        raise ValueError(
            f"{origin} is for images of {len(mean)} channels, and this network takes {channels}: "
            f"give --mean and --std with {channels} numbers each, or --normalisation none"
        )
    return normalisation
