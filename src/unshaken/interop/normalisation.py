"""What a network of somebody's does to pixels first: as the user says, as the file says, or a question to the user."""

from __future__ import annotations

import math
import re
from typing import Any

from unshaken.interop.layouts import IMAGENET, NONE, NORMALISATIONS, Normalisation, normalisation_of
from unshaken.interop.weight_matching import Reading, is_statistic
from unshaken.nets.torch_files import real

PAIRS = {"mean": "std", "mu": "sigma"}
WITHOUT = ("advcl", "a-infonce")
"""Papers whose fine-tuned files hold a normalisation that was switched off (the benchmark's do_normalize=0)."""
ASK = "say it by --normalisation imagenet, cifar or none, or by --mean and --std"


def chosen(
    reading: Reading, given: Normalisation | None, named: str | None, method: str | None
) -> tuple[Normalisation, str]:
    """The mean and standard deviation, and where they are from. ValueError if that has to be asked for.

    given   by --mean and --std
    named   by --normalisation
    method  whose file the user says it is
    """
    channels = reading.channels
    if given is not None:
        return _of_channels(given, channels, "--mean and --std"), "as given"
    if named is not None:
        return _of_channels(NORMALISATIONS[named], channels, f"--normalisation {named}"), "as given"
    found = stated(reading)
    if len(found) > 1:
        shown = "; ".join(f"mean {list(mean)}, std {list(std)}" for mean, std in found[:4])
        raise ValueError(f"the file holds {len(found)} normalisations ({shown}): {ASK}")
    if found and not _doubtful(reading, found[0]):
        return _sound(found[0]), "from the file"
    if found and method in WITHOUT:
        return _of_channels(NONE, channels, "none"), f"{method}'s is switched off, though the file holds one"
    if found and method not in (None, "deacl"):
        return _sound(found[0]), f"from the file, as {method} has it"
    if found:
        raise ValueError(
            "the file holds ImageNet's normalisation, and it may have been switched off: fine-tuned files of AdvCL, "
            "A-InfoNCE and DeACL hold it too, though their networks were run without. Say whose file it is by --method "
            "acl, dynacl, advcl, ..., or how pixels are normalised by --normalisation imagenet or none"
        )
    paper = normalisation_of(reading.layout, reading.network)  # pyright: ignore[reportArgumentType]
    if paper is not None:
        return _of_channels(paper, channels, "the paper's"), "not in the file; as this layout's paper has it"
    raise ValueError(
        "the file does not say how its network normalises pixels, and those who write such files differ: "
        f"{ASK}; or whose file it is by --layout NAME (sat, acl, ...)"
    )


def stated(reading: Reading) -> list[Normalisation]:
    """All that the file says of the network's pixels: means and deviations in it, or in a part beside it."""
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
    """One number a channel, in as many digits as a float32 was meant to have."""
    numbers = tuple(float(f"{v:.7g}") for v in real(tensor, "its normalisation", "the file").flatten().tolist())
    return numbers * (channels if len(numbers) == 1 else 1)


def _is_of(folder: str, prefix: str) -> bool:
    """Whether a part belongs to what a prefix begins: it is on the way to it, or beside what is on the way."""
    above = folder.rpartition(".")[0]
    return any(not part or prefix.startswith(f"{part}.") for part in (folder, above))


def _doubtful(reading: Reading, found: Normalisation) -> bool:
    """Whether it is ImageNet's inside a fine-tuned file, where the benchmark of these papers leaves it in any case."""
    inside = f"{reading.prefix}normalize.mean" in reading.container.tensors
    pairs = zip((v for part in found for v in part), (v for part in IMAGENET for v in part), strict=False)
    close = all(abs(a - b) < 1e-3 for a, b in pairs)
    return reading.layout.name in ("finetuned", "autolora") and inside and close


def _sound(found: Normalisation) -> Normalisation:
    mean, std = found
    if min(std) <= 0:
        raise ValueError(f"the file's normalisation has a standard deviation of {min(std)}: {ASK}")
    if max(map(abs, mean)) > 1.5:
        scaled = [" ".join(f"{v / 255:.6g}" for v in part) for part in found]
        raise ValueError(
            f"the file's normalisation (mean {list(mean)}, std {list(std)}) is of pixels from 0 to 255, and here they "
            f"are from 0 to 1: if the network multiplies them first, give --mean {scaled[0]} --std {scaled[1]}"
        )
    return found


def _of_channels(normalisation: Normalisation, channels: int, whose: str) -> Normalisation:
    mean, std = normalisation
    if normalisation == NONE:
        return (0.0,) * channels, (1.0,) * channels
    if len(mean) != channels or len(std) != channels:
        raise ValueError(
            f"{whose} is for images of {len(mean)} channels, and this network takes {channels}: "
            "give --mean and --std with as many numbers, or --normalisation none"
        )
    return normalisation
