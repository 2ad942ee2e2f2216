"""The words of a command line to values: by tyro, with every mistake in one line."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from abc import ABC
from dataclasses import MISSING, fields, is_dataclass, replace
from difflib import get_close_matches
from fractions import Fraction
from inspect import isabstract
from typing import Any, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

Options = TypeVar("Options")
FLAT = ("recipe", "exam")
"""Fields whose own fields are options without a prefix."""


def subject(args: list[str], verb: str, what: str, example: str) -> tuple[str, list[str]]:
    """The word after the verb, and what follows it."""
    if args and not args[0].startswith("-"):
        return args[0], aliased(args[1:])
    if args and args[0] in ("-h", "--help"):
        print(f"usage: unshaken {verb} {what} [OPTIONS]\n\n{what}: {example}\n\nOptions: unshaken {verb} {what} --help")
        raise SystemExit(0)
    raise ValueError(f"`unshaken {verb}` needs {what} next: {example}")


def aliased(args: list[str]) -> list[str]:
    """--data PATH is short for --data.name PATH."""
    return [re.sub(r"^--data(?==|$)", "--data.name", arg) for arg in args]


def grouped(args: list[str]) -> list[list[str]]:
    """Each flag with the values that follow it; --flag=value is the flag and its value."""
    groups: list[list[str]] = []
    for arg in args:
        if re.match(r"--[a-z]", arg) or not groups:
            groups.append(arg.split("=", 1) if arg.startswith("--") else [arg])
        else:
            groups[-1].append(arg)
    return groups


def taken(args: list[str], flag: str) -> tuple[str | None, list[str]]:
    """A flag's value, and the arguments without it."""
    groups = grouped(args)
    mine = [group for group in groups if group[0] == flag]
    if any(len(group) != 2 for group in mine) or len(mine) > 1:
        raise ValueError(f"{flag} is given once, with one value")
    rest = [word for group in groups if group[0] != flag for word in group]
    return (mine[0][1] if mine else None), rest


def meant_for(default: Any, args: list[str], others: list[Any]) -> list[str]:
    """The arguments without those that only other values have options for. Unknown ones stay, to be complained of."""
    mine = {*flags(default), *parts(default)}
    elsewhere = {flag for other in others for flag in (*flags(other), *parts(other))} - mine
    return [word for group in grouped(args) if group[0] not in elsewhere for word in group]


def parse(default: Options, args: list[str], program: str) -> Options:
    """The default with the options laid over it. A mistake is one line, with the nearest right option."""
    names = [group[0] for group in grouped(args) if group[0].startswith("--")]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{repeated} is given {names.count(repeated)} times; once is enough")
    default, args = exchanged(default, args)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                type(default),
                default=default,
                args=args,
                prog=program,
                registry=_numbers(),
                config=(tyro.conf.AvoidSubcommands,),
            )
    except SystemExit as exit:
        if not exit.code:
            raise
    known = flags(default)
    for arg in args:
        flag = arg.partition("=")[0]
        if flag.startswith("--") and flag not in known:
            within = [option for option in known if option.startswith(f"{flag}.")]
            close = within[:1] or get_close_matches(flag, known, n=1, cutoff=0.4)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"there is no option {flag}{hint} (`{program} --help` shows them all)")
    raise ValueError(f"{_unboxed(errors.getvalue())} (`{program} --help` shows all options)")


def exchanged(default: Options, args: list[str]) -> tuple[Options, list[str]]:
    """--optimizer SGD puts another kind in a part's place, with that kind's own defaults; then the arguments left.

    --method.hn None leaves out a part that may be left out.
    """
    for flag in reversed([flag for flag in parts(default) if _optional(default, flag)]):  # what depends on others first
        if taken(args, flag)[0] == "None":
            default, args = _laid(default, flag, None), taken(args, flag)[1]
    for flag in [flag for flag, part in parts(default).items() if flag != "--method"]:
        part = parts(default).get(flag)
        if part is not None and (len(kinds_like(part)) > 1 or _optional(default, flag)):
            kind, args = taken(args, flag)
            if kind is not None:
                default = _laid(default, flag, _of_kind(part, kind, flag, args))
    return default, args


def _optional(value: Any, flag: str) -> bool:
    """Whether the part of a flag may be None."""
    *path, last = flag.removeprefix("--").replace("-", "_").split(".")
    for name in path:
        value = getattr(_holder(value, name), name)
    return "None" in str(type(_holder(value, last)).__annotations__[last])


def _holder(value: Any, name: str) -> Any:
    """What has the field: the value, or its part whose fields need no prefix."""
    return value if hasattr(value, name) else next(getattr(value, flat) for flat in FLAT if hasattr(value, flat))


def parts(value: Any, prefix: str = "--") -> dict[str, Any]:
    """The fields of a value that are themselves made of fields, outer ones first, by their flag."""
    found = {}
    for name, field in vars(value).items():
        if is_dataclass(field):
            flag = prefix if name in FLAT else prefix + name.replace("_", "-")
            found |= ({} if name in FLAT else {flag: field}) | parts(field, flag if name in FLAT else f"{flag}.")
    return found


def _of_kind(part: Any, kind: str, flag: str, args: list[str]) -> Any:
    """A new part of another class like it; what has no default is read from its own flag."""
    kinds = kinds_like(part)
    if kind not in kinds:
        raise ValueError(f"{flag} is one of {', '.join(kinds)}, not {kind!r}")
    needed = {f.name: f.type for f in fields(kinds[kind]) if f.default is MISSING}
    given = {name: taken(args, f"{flag}.{name}")[0] for name in needed}
    lacking = [name for name, text in given.items() if text is None]
    if lacking:
        raise ValueError(f"{flag} {kind} needs {', '.join(f'{flag}.{name}' for name in lacking)} too")
    return kinds[kind](**{n: (whole if needed[n] == "int" else number)(text) for n, text in given.items()})


def kinds_like(part: Any) -> dict[str, type]:
    """The final classes under the same abstract one, by name; of a part that is under none, its own."""
    base = next((c for c in type(part).__mro__ if ABC in c.__bases__), None)
    kinds = [c for c in _below(base) if not isabstract(c)] if base else [type(part)]
    return {c.__name__: c for c in kinds}


def _below(kind: type) -> list[type]:
    return [kind, *(deeper for c in kind.__subclasses__() for deeper in _below(c))]


def _laid(value: Any, flag: str, part: Any) -> Any:
    """The value with the part in the flag's place."""
    first, _, rest = flag.removeprefix("--").replace("-", "_").partition(".")
    flat = next((name for name in FLAT if hasattr(value, name)), None)
    if flat and not hasattr(value, first):
        return replace(value, **{flat: _laid(getattr(value, flat), flag, part)})
    inner = part if not rest else _laid(getattr(value, first), rest, part)
    return replace(value, **{first: inner})


def _unboxed(text: str) -> str:
    """The first paragraph of tyro's framed message, on one line."""
    lines = [line.strip("│ ") for line in text.splitlines()[1:]]
    paragraph = itertools.takewhile(lambda line: "───" not in line, lines)
    return " ".join(paragraph).replace("Error parsing ", "").replace("recipe.", "--", 1)


def parse_nothing(args: list[str], program: str) -> None:
    if args and args[0] not in ("-h", "--help"):
        raise ValueError(f"`{program}` takes no arguments, not {args[0]!r}")


def flags(value: Any, prefix: str = "--") -> list[str]:
    """Every option that the fields of a value make."""
    names = []
    for name, field in vars(value).items():
        if "tyro.conf.Fixed" in str(type(value).__annotations__.get(name)):
            continue
        nested = hasattr(field, "__dataclass_fields__")
        flat = name in FLAT
        option = prefix if flat else f"{prefix}{name.replace('_', '-')}"
        names += flags(field, option if flat else f"{option}.") if nested else [option]
        if isinstance(field, bool):
            names.append(f"{prefix}no-{name.replace('_', '-')}")
    return names


def _numbers() -> ConstructorRegistry:
    """Floats may be written as fractions, for 8/255 is what people mean by ε."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def fraction(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        if info.type is not float:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="FLOAT",
            instance_from_str=lambda args: number(args[0]),
            is_instance=lambda value: isinstance(value, (int, float)),
            str_from_instance=lambda value: [spelled(value)],
        )

    return registry


def number(text: str) -> float:
    over, slash, under = text.partition("/")
    try:
        return float(over) / float(under) if slash else float(over)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{text!r} is neither a number nor a fraction such as 8/255") from None


def whole(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d+", text):
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def spelled(value: float) -> str:
    """8/255 where that is how it was meant."""
    ratio = Fraction(value).limit_denominator(255)
    return str(ratio) if len(repr(value)) > 8 and float(ratio) == value else repr(value)
