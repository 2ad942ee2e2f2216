"""Help pages and tables of values: each option with its description, the most wanted first."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Iterable
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from unshaken.options.check import optional_inner
from unshaken.options.fields import Option, all_fields, alternatives, negated, without_markers
from unshaken.options.numbers import number_text

WANTED = (
    "--full",
    "--autoattack",
    "--attack.ball.eps",
    "--seconds",
    "--fractions",
    "--epochs",
    "--batch-size",
    "--lr",
    "--seed",
    "--data.name",
    "--out",
    "--runtime.device",
    "--runtime.precision",
)
"""The options that most users look for, which therefore come first."""
COLUMN, WIDEST = 34, 120
"""Where descriptions begin, and the widest page."""


class Value(NamedTuple):
    """One row of a table of values: --epochs, 1000, "Passes over the images."."""

    option: str
    value: str
    meaning: str


def values_of(value: Any) -> list[Value]:
    """Every field of a value as a row; a component's row holds the name of its class."""
    return [Value(each.flag, default_text(each), each.description) for each in all_fields(value)]


def help_page(default: Any, program: str, width: int | None = None) -> str:
    """The help of a command as text: usage, what the command does, and its options in sections."""
    width = width or min(shutil.get_terminal_size((100, 24)).columns, WIDEST)
    rows = [each for each in all_fields(default) if is_option(each)]
    files = " ".join(f"[{each.name.upper()} ...]" for each in rows if each.positional)
    lines = [" ".join(filter(None, ["usage:", program, files, "[OPTIONS]"])), ""]
    for paragraph in inspect.cleandoc(type(default).__doc__ or "").split("\n\n"):
        lines += [*textwrap.wrap(paragraph, width), ""]
    for title, section in sections(default, rows):
        lines += [*textwrap.wrap(title, width), *(line for row in section for line in row_lines(row, width)), ""]
    return "\n".join([*lines, *(line for flag, words in ALWAYS.items() for line in columns(flag, words, width))])


ALWAYS = {
    "--config FILE": "Options from a YAML or JSON file, or a run's recipe.json; options that are typed win.",
    "--quiet": "Print only results and errors: no progress and no notes.",
}
"""Options of every verb."""


def is_option(field: Option) -> bool:
    """It takes a value, or the name of another kind of component."""
    return not field.is_component or (is_dataclass(field.default) and len(kind_names(field)) > 1)


def kind_names(field: Option) -> list[str]:
    """The kinds that can replace a component; a recipe's method cannot be replaced."""
    return [] if field.flag == "--method" else [kind.__name__ for kind in alternatives(field.hint)]


def described(value: Any) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return each option of a value with its description and, where they are few and known, the words that it takes."""
    found = []
    for row in filter(is_option, all_fields(value)):
        if row.positional:
            continue
        kind = without_markers(row.hint)
        choices = kind_names(row) if row.is_component else get_args(kind) if get_origin(kind) is Literal else ()
        found.append((row.flag, row.description, tuple(map(str, choices))))
        if row.is_switch:
            found.append((negated(row.flag), f"Not: {row.description}", ()))
    return found


def sections(default: Any, rows: list[Option]) -> list[tuple[str, list[Option]]]:
    """The rows under titles: files and the wanted ones, then those without a dot, then one section per component."""
    wanted = [row for flag in WANTED for row in rows if row.flag == flag or row.flag.startswith(f"{flag}.")]
    files = [row for row in rows if row.positional]
    wanted = [*files, *wanted] if len(wanted) >= 3 else []
    rest = [row for row in rows if row not in wanted]
    plain = [row for row in rest if "." not in row.flag and not is_dataclass(row.default)]
    found = [("Most used:", wanted), ("Others:" if wanted else "Options:", plain)]
    for outer in all_fields(default):
        if "." not in outer.flag and is_dataclass(outer.default):
            own = [row for row in rest if row.flag == outer.flag or row.flag.startswith(f"{outer.flag}.")]
            found.append((f"{outer.name}, {type(outer.default).__name__}: {outer.description}", own))
    return [(title, section) for title, section in found if section]


def row_lines(option: Option, width: int) -> list[str]:
    """An option in two columns: its flag and what it takes, its description, and its default unless that says it."""
    default = default_text(option)
    said = "by default" in option.description.lower() or (default == "None" and "None:" in option.description)
    right = option.description if said else f"{option.description} (default: {default})".strip()
    return columns(option_text(option), right, width)


def columns(flag: str, words: str, width: int) -> list[str]:
    """A flag and its description in two columns."""
    left, lines = f"  {flag}", textwrap.wrap(words, max(width - COLUMN, 30), break_on_hyphens=False)
    if len(left) < COLUMN:
        return [f"{left:<{COLUMN}}{lines[0]}", *(" " * COLUMN + line for line in lines[1:])]
    heads = textwrap.wrap(left, width, subsequent_indent="      ", break_on_hyphens=False)
    return [*heads, *(" " * COLUMN + line for line in lines)]


def option_text(option: Option) -> str:
    """--epochs INT; --optimizer SGD | AdamW | LARS; --data.download, --data.no-download."""
    if option.is_component:
        return f"{option.flag} {' | '.join(kind_names(option))}"
    if option.hint is bool:
        return f"{option.flag}, {negated(option.flag)}"
    return f"{option.name.upper() if option.positional else option.flag} {type_text(without_markers(option.hint))}"


def type_text(hint: Any) -> str:
    """The type of a field, in words of a command line: INT, FLOAT, PATH, TEXT, a|b."""
    if get_origin(hint) is Annotated:
        return type_text(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return "|".join(map(str, get_args(hint)))
    if (inner := optional_inner(hint)) is not None:
        return f"{type_text(inner)}|None"
    if get_origin(hint) is tuple:
        inner = [each for each in get_args(hint) if each is not Ellipsis]
        return " ".join(map(type_text, inner)) + (" ..." if Ellipsis in get_args(hint) else "")
    return {int: "INT", float: "FLOAT", Path: "PATH", str: "TEXT", NoneType: "None"}.get(hint, "VALUE")


def default_text(option: Option) -> str:
    """A field's value as one would type it; a component's is its class."""
    value = option.default
    if is_dataclass(value):
        return type(value).__name__
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return " ".join(number_text(each) if isinstance(each, float) else str(each) for each in value) or "none"
    return number_text(value) if isinstance(value, float) else str(value) or "none"
