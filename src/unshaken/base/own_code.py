"""A user's own Python by name: `mine.py:name` in a file, `package.module:name` in a module; and arguments as text."""

from __future__ import annotations

import ast
import sys
from hashlib import blake2b
from importlib import import_module
from importlib.abc import InspectLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from unshaken.base.suggest import did_you_mean

FILES = "unshaken_own_"
"""How the names of modules begin that are read from files."""


def origin_of(name: str) -> str:
    """Return a name with the full path of its file."""
    module, _, attribute = name.rpartition(":")
    return f"{Path(module).expanduser().resolve() if module.endswith('.py') else module}:{attribute}"


def find(name: str) -> Any:
    """Return what a name stands for. This runs the code of its file or module. ValueError if it is not there."""
    module, _, attribute = name.rpartition(":")
    found = _module(module)
    if not attribute.isidentifier() or not hasattr(found, attribute):
        names = [each for each, value in vars(found).items() if callable(value) and not each.startswith("_")]
        raise ValueError(f"{module} has no {attribute!r}{did_you_mean(attribute, names)}")
    return getattr(found, attribute)


def _module(name: str) -> ModuleType:
    if not name.endswith(".py"):
        try:
            return import_module(name)
        except ImportError as error:
            raise ValueError(
                f"no module {name!r} can be imported ({error}): a file is named {name}.py:NAME, and a module has "
                "to be installed or in PYTHONPATH"
            ) from None
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise ValueError(f"there is no file {name} (looked for in {Path.cwd()})")
    key = f"{FILES}{blake2b(str(path).encode(), digest_size=6).hexdigest()}"
    for module in (sys.modules.get("__main__"), sys.modules.get(key)):
        if module is not None and getattr(module, "__file__", None) and Path(module.__file__).resolve() == path:  # pyright: ignore[reportArgumentType]
            return module
    spec = spec_from_file_location(key, path)
    assert spec is not None
    sys.modules[key] = module_from_spec(spec)
    try:  # from the text itself: Python's cache of bytecode takes an edit within a second, of the same length, for none
        exec(InspectLoader.source_to_code(path.read_bytes(), str(path)), vars(sys.modules[key]))  # pyright: ignore[reportArgumentType]
    except Exception as error:
        del sys.modules[key]
        raise ValueError(f"{name} cannot be read: {type(error).__name__}: {' '.join(str(error).split())}") from error
    return sys.modules[key]


def keywords(args: str) -> dict[str, Any]:
    """Read arguments as Python writes them, "width=64, norm='batch'". ValueError for anything but values by name."""
    try:
        call = ast.parse(f"f({args})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(each.arg is None for each in call.keywords):
            raise ValueError
        return {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
    except (ValueError, SyntaxError):
        raise ValueError(f"arguments are written width=64, norm='batch'; not {args!r}") from None
