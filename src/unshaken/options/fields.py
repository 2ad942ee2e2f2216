"""Fields as options: each field of a nested dataclass is an option with a dotted name."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from unshaken.base.ranges import Range

FLAT = ("recipe", "evaluation")
"""Names of fields whose own fields become options without a prefix: a recipe's epochs are --epochs."""


@dataclass(frozen=True)
class Option:
    """One field of a value as an option.

    hint        type of the field, with its range
    positional  its values need no flag before them
    default     the field's value
    owner, name the dataclass and its field, by which the description is found
    """

    flag: str
    hint: Any
    positional: bool = False
    default: Any = None
    owner: type | None = None
    name: str = ""

    @property
    def is_switch(self) -> bool:
        return self.hint is bool

    @property
    def is_component(self) -> bool:
        """The field holds a dataclass, or could hold one and is None."""
        return is_dataclass(self.default) or (self.default is None and bool(alternatives(self.hint)))

    @property
    def description(self) -> str:
        """The text below the field in the source. A component without one is described by its class."""
        below = field_descriptions(self.owner).get(self.name, "") if self.owner else ""
        return below or (first_paragraph(type(self.default)) if is_dataclass(self.default) else "")


def all_fields(value: Any, prefix: str = "--") -> Iterator[Option]:
    """Yield the fields of a value and of the components in it, an outer one before its own fields."""
    for name, flag, hint, positional in _fields_of(type(value)):
        field = getattr(value, name)
        if name in FLAT and is_dataclass(field):
            yield from all_fields(field, prefix)
            continue
        yield Option(f"{prefix}{flag}", hint, positional, field, type(value), name)
        if is_dataclass(field):
            yield from all_fields(field, f"{prefix}{flag}.")


@cache
def _fields_of(kind: type) -> list[tuple[str, str, Any, bool]]:
    """Name, flag, type and "needs no flag" of each field of a dataclass that is an option."""
    found = []
    for name, hint in hints(kind).items():
        annotation = str(kind.__annotations__.get(name))
        if "tyro.conf.Fixed" not in repr(hint) and "Fixed" not in annotation:
            found.append((name, name.replace("_", "-"), hint, "Positional" in annotation))
    return found


def options_of(value: Any) -> list[Option]:
    """The fields that take a typed value: all but components, which are replaced by the name of another kind."""
    return [
        Option(each.flag, without_markers(each.hint), each.positional, each.default, each.owner, each.name)
        for each in all_fields(value)
        if not each.is_component
    ]


def components(value: Any) -> dict[str, Any]:
    """The dataclasses in a value by flag, outer ones first; None where there could be one."""
    return {each.flag: each.default for each in all_fields(value) if each.is_component}


def flags(value: Any) -> list[str]:
    """The flags of a value's options, and --no-NAME for each switch."""
    return [
        flag
        for option in options_of(value)
        for flag in ((option.flag, negated(option.flag)) if option.is_switch else (option.flag,))
    ]


def negated(flag: str) -> str:
    """--data.no-download for --data.download."""
    path, dot, name = flag.removeprefix("--").rpartition(".")
    return f"--{path}{dot}no-{name}"


@cache
def hints(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields by name, annotations included."""
    found = get_type_hints(kind, include_extras=True)
    return {f.name: found[f.name] for f in fields(kind)}


def alternatives(hint: Any) -> list[type]:
    """The dataclasses that a field can hold: SGD and LARS for Annotated[Optimizer, SGD | LARS], HN for HN | None."""
    if get_origin(hint) is Annotated:
        return [kind for union in hint.__metadata__ if isinstance(union, UnionType) for kind in get_args(union)]
    return [kind for each in get_args(hint) for kind in alternatives(each) or [each] if is_dataclass(kind)]


def without_markers(hint: Any) -> Any:
    """A type with its range, and without any other annotation."""
    if get_origin(hint) is Annotated:
        inner, *others = get_args(hint)
        ranges = [each for each in others if isinstance(each, Range)]
        return Annotated[inner, ranges[0]] if ranges else without_markers(inner)
    return hint


@cache
def field_descriptions(kind: type) -> dict[str, str]:
    """The string below each field in the source of a class and its bases, in one line."""
    inherited = {name: text for base in kind.__bases__ for name, text in field_descriptions(base).items()}
    try:
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError, SyntaxError):  # a class that was typed in, say
        return inherited
    found, last = inherited, None
    for line in node.body if isinstance(node, ast.ClassDef) else ():
        if isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and last:
            found[last] = " ".join(str(line.value.value).split())
        last = line.target.id if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) else None
    return found


def first_paragraph(kind: type) -> str:
    return " ".join(inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].split())
