"""Notes on errors in Python: the arguments that the command line's options stand for"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
OPTION = re.compile(r"(?<![\w/.-])--([a-z][a-z0-9.-]*[a-z0-9])")
COMMAND = re.compile(r"`unshaken [^`]*`|\bunshaken [a-z-]+ [^;:,]*")
"""A command line within a sentence, whose options are its own."""


def arguments_for(text: str) -> str:
    """Return what the options that a message names are in Python, as a sentence; "" if it names none."""
    names = dict.fromkeys(OPTION.findall(COMMAND.sub("", text)))
    words = [f"--{name} is {_argument(name)}" for name in names]
    return f"in Python, {', '.join(words)}" if words else ""


def _argument(option: str) -> str:
    outer, dot, name = option.rpartition(".")
    off = name.startswith("no-")
    path = f"{outer}{dot}{name.removeprefix('no-')}".replace("-", "_")
    return f"{path}=False" if off else path


def explain(error: ValueError) -> None:
    """Add a note to an error, which a traceback shows and the command line does not; only one."""
    note = arguments_for(str(error))
    if note and note not in getattr(error, "__notes__", ()):
        error.add_note(note)


def in_python(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function of the Python interface: its errors say which arguments the options in them stand for."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except ValueError as error:
            explain(error)
            raise

    return called
