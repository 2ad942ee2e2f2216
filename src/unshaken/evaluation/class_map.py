"""Map a set's classes to a network's logits: by class names, WordNet ids, or a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unshaken.base.json_files import read_foreign_json

Words = Sequence[Sequence[str]]
"""All names of each logit's class: n01440764, tench, Tinca tinca."""


class Selected(nn.Module):
    """A network with only some of its logits, in the order of the index."""

    def __init__(self, net: nn.Module, index: Sequence[int]) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("index", torch.tensor(index))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[:, self.index]


def index_of(names: Sequence[str], words: Words) -> list[int] | None:
    """Return the logit of each class; None if the network has none of the names. ValueError if it has only some."""
    logits: dict[str, list[int]] = {}
    for k, names_of_class in enumerate(words):
        for word in {normalised(word) for word in names_of_class}:
            logits.setdefault(word, []).append(k)
    found = [logits.get(normalised(name), []) for name in names]
    if not any(found):
        return None
    unknown = [name for name, at in zip(names, found, strict=True) if not at]
    unclear = [name for name, at in zip(names, found, strict=True) if len(at) > 1]
    if unknown or unclear:
        what = (
            f"no class {unknown[0]!r}" if unknown else f"{len(logits[normalised(unclear[0])])} classes {unclear[0]!r}"
        )
        raise ValueError(
            f"the network has {len(names) - len(unknown) - len(unclear)} of the {len(names)} classes by name, and "
            f"{what}: name the others by a file, --classes map.json, such as {{{names[0]!r}: 0}}"
        )
    return _distinct([at[0] for at in found], names)


def read_map(file: Path, names: Sequence[str], words: Words, count: int) -> list[int]:
    """Read the logit of each class from a JSON file, which maps class names to numbers or names of logits."""
    content = read_foreign_json(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}; it has to hold {{class name: number of the logit}}")
    lacking = [name for name in names if name not in content]
    if lacking:
        raise ValueError(f"{file} has no entry for the class {lacking[0]!r}")
    return _distinct([_logit(file, name, content[name], words, count) for name in names], names)


def _logit(file: Path, name: str, value: Any, words: Words, count: int) -> int:
    if isinstance(value, str):
        found = index_of([value], words)
        if found is None:
            raise ValueError(f"{file} maps {name!r} to {value!r}, which is not a class of the network")
        return found[0]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < count:
        raise ValueError(f"{file} maps {name!r} to {value!r}; a logit's number is 0 to {count - 1}")
    return value


def _distinct(index: list[int], names: Sequence[str]) -> list[int]:
    for k, logit in enumerate(index):
        if logit in index[:k]:
            first = names[index.index(logit)]
            raise ValueError(f"the classes {first!r} and {names[k]!r} are both logit {logit}, and each needs its own")
    return index


def normalised(word: str) -> str:
    """Return a name in lower case with single spaces between its words, so that different spellings compare equal."""
    return " ".join(re.split(r"[\W_]+", word.lower())).strip()
