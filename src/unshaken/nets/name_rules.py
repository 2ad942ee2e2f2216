"""Names of an encoder's weights in others' files and in timm: rules in two columns, read in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]
HOLE = "-"
"""In place of our name: a part of their tensor that no network computes with."""


@dataclass(frozen=True)
class Rule:
    """Their names of some tensors and ours. Several are parts of one tensor, one after the other along the first axis.

    {i} in a name is the number of a block. Tensors may differ in axes of length 1, and be transposed.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    transposed: bool = False

    @cached_property
    def patterns(self) -> tuple[re.Pattern[str], ...]:
        return tuple(re.compile(re.escape(name).replace(r"\{i\}", r"(\d{1,4})") + r"\Z") for name in self.theirs)

    def at(self, number: str | None) -> Rule:
        """Return the rule for one block."""
        theirs, ours = (tuple(name.replace("{i}", number or "") for name in each) for each in (self.theirs, self.ours))
        return Rule(theirs, ours, self.transposed)

    def read(self, tensors: Mapping[str, Tensor], shapes: Shapes) -> dict[str, Tensor]:
        """Return our tensors, of these shapes, from theirs. ValueError, without a sentence, if they do not fit."""
        parts = [tensors[name] for name in self.theirs]
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        whole = whole.T if self.transposed else whole
        if len(self.ours) == 1:
            return {self.ours[0]: _shaped(whole, shapes[self.ours[0]], self.theirs[0])}
        found = zip(self.ours, whole.split(self._sizes(len(whole), shapes)), strict=True)
        return {name: _shaped(part, shapes[name], self.theirs[0]) for name, part in found if name != HOLE}

    def written(self, ours: Mapping[str, Tensor], originals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return their tensors from ours, in the originals' shapes and dtypes. Parts that are not ours are copied."""
        before = [originals[name] for name in self.theirs]
        whole = (torch.cat(before) if len(before) > 1 else before[0]).clone()
        view = whole.T if self.transposed else whole
        shapes = {name: tuple(ours[name].shape) for name in self.ours if name != HOLE}
        sizes = self._sizes(len(view), shapes) if len(self.ours) > 1 else [len(view)]
        for name, part in zip(self.ours, view.split(sizes), strict=True):
            if name != HOLE:
                part.copy_(ours[name].reshape(part.shape))
        return dict(zip(self.theirs, whole.split([len(each) for each in before]), strict=True)) if whole.ndim else {}

    def _sizes(self, total: int, shapes: Shapes) -> list[int]:
        held = {name: shapes[name][0] for name in self.ours if name != HOLE}
        return [held.get(name, total - sum(held.values())) for name in self.ours]


def _shaped(tensor: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    if [n for n in tensor.shape if n != 1] != [n for n in shape if n != 1] or tensor.numel() != prod(shape):
        raise ValueError(name)
    return tensor.reshape(shape)


VARIANTS = {"{p}": ("weight", "bias"), "{fc}": ("fc1", "fc2"), "{pool}": ("q", "kv", "proj", "norm")}
"""In a table: one rule for each of these words, the same in both columns."""


def rules(table: str) -> tuple[Rule, ...]:
    """Read a table: their name, our name, and perhaps `transposed`.

    {p} stands for weight and bias, a rule each (VARIANTS); {q,k,v} for three names whose tensors are joined in order.
    """
    found = []
    for line in filter(str.strip, table.splitlines()):
        lines = [line]
        for word, choices in VARIANTS.items():
            lines = [each.replace(word, c) for each in lines for c in (choices if word in each else ("",))]
        for theirs, ours, *how in (each.split() for each in lines):
            found.append(Rule(_joined(theirs), _joined(ours), transposed=how == ["transposed"]))
    return tuple(found)


def _joined(name: str) -> tuple[str, ...]:
    """Expand {q,k,v} within a name."""
    at = re.search(r"\{([^{}]*,[^{}]*)\}", name)
    if at is None:
        return (name,)
    parts = at[1].split(",")
    return tuple(HOLE if part == HOLE else f"{name[: at.start()]}{part}{name[at.end() :]}" for part in parts)


def parent(prefix: str) -> str:
    """Return the prefix of the module that a module is in: "model." for "model.visual."."""
    above = prefix.rstrip(".").rpartition(".")[0]
    return above + "." if above else ""


def names_within(names: Iterable[str], prefix: str) -> dict[str, str]:
    """Return full names by what follows the prefix. A name beside the network, not within, begins with `../`."""
    above, found = parent(prefix), {}
    for name in names:
        if name.startswith(prefix):
            found[name.removeprefix(prefix)] = name
        elif name.startswith(above):
            found[f"../{name.removeprefix(above)}"] = name
    return found


def placed(table: Iterable[Rule], names: Iterable[str]) -> tuple[list[Rule], list[str]]:
    """Return the rules that names fall under, with numbers in place of {i}; and the names that fall under none.

    A rule with several of their names is returned if one of them is there.
    """
    found: dict[Rule, None] = {}
    left = []
    table = tuple(table)
    for name in names:
        for rule in table:
            if at := next((at for pattern in rule.patterns if (at := pattern.match(name))), None):
                found[rule.at(at[1] if at.groups() else None)] = None
                break
        else:
            left.append(name)
    return list(found), left
