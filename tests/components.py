"""The final kinds of an abstract one, and every component that a recipe can hold; found by importing all modules."""

import importlib
import pkgutil
from abc import ABC
from dataclasses import is_dataclass
from inspect import isabstract

import unshaken


def final(base: type) -> list[type]:
    """All kinds below one that can be made, defined in this library."""
    for module in pkgutil.walk_packages(unshaken.__path__, "unshaken."):
        importlib.import_module(module.name)
    return [kind for kind in below(base) if not isabstract(kind) and kind.__module__.startswith("unshaken.")]


def below(kind: type) -> list[type]:
    return [kind, *(deeper for inner in kind.__subclasses__() for deeper in below(inner))]


def components() -> list[type]:
    """The dataclasses of all modules, without those that only hold what was computed."""
    final(ABC)
    names = (module.name for module in pkgutil.walk_packages(unshaken.__path__, "unshaken."))
    modules = [importlib.import_module(name) for name in names]
    kinds = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
    return sorted((k for k in kinds if is_dataclass(k) and k.__module__.startswith("unshaken.")), key=lambda k: str(k))
