"""Names of a package that are imported from its modules at their first use, so that importing it costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazy_names(package: str, where: dict[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return __getattr__, __dir__ and __all__ of a package.

    where  for each name the module of the package that has it
    """

    def __getattr__(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"{package} has no {name!r}; it has {', '.join(where)}")
        return getattr(import_module(f"{package}.{where[name]}"), name)

    return __getattr__, lambda: sorted(where), [*where]
