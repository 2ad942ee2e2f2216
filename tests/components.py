"""The final kinds of an abstract one, and every component that options are made of; found by importing all modules."""

import importlib
import pkgutil
from abc import ABC
from dataclasses import is_dataclass
from inspect import isabstract
from typing import get_args, get_type_hints

import unshaken
from unshaken.interop.export import ExportOptions
from unshaken.interop.import_checkpoint import ImportOptions
from unshaken.report.frontier import FrontierFigureOptions
from unshaken.report.table import ReportOptions


def final(base: type) -> list[type]:
    """All kinds below one that can be made, defined in this library."""
    modules()
    return [kind for kind in below(base) if not isabstract(kind) and kind.__module__.startswith("unshaken.")]


def below(kind: type) -> list[type]:
    return [kind, *(deeper for inner in kind.__subclasses__() for deeper in below(inner))]


def components() -> list[type]:
    """Every dataclass that a command's options are made of, at any depth, and what can be put in its place."""
    kinds = {kind for module in modules() for kind in vars(module).values() if isinstance(kind, type)}
    verbs = [kind for kind in kinds if kind.__module__.startswith("unshaken.commands.") and is_dataclass(kind)]
    found: set[type] = set()
    for kind in (*verbs, ImportOptions, ExportOptions, ReportOptions, FrontierFigureOptions):
        gather(kind, found)
    return sorted((kind for kind in found if is_dataclass(kind) and not isabstract(kind)), key=str)


def modules() -> list:
    return [importlib.import_module(module.name) for module in pkgutil.walk_packages(unshaken.__path__, "unshaken.")]


def gather(hint: object, found: set[type]) -> None:
    """Add the kinds of this library that a type is made of."""
    for inner in get_args(hint):
        gather(inner, found)
    if not isinstance(hint, type) or hint in found or not hint.__module__.startswith("unshaken."):
        return
    found.add(hint)
    for kind in below(hint) if ABC in getattr(hint, "__mro__", ()) else ():
        gather(kind, found)
    if is_dataclass(hint):
        for kind in get_type_hints(hint).values():
            gather(kind, found)
