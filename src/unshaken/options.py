"""The words of a command line to values: by tyro, with every mistake in one line."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from difflib import get_close_matches
from typing import Any, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

Options = TypeVar("Options")


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


def taken(args: list[str], flag: str) -> tuple[str | None, list[str]]:
    """A flag's value, and the arguments without it."""
    rest = list(args)
    for at, arg in enumerate(args):
        if arg.startswith(f"{flag}="):
            rest.pop(at)
            return arg.partition("=")[2], rest
        if arg == flag:
            if at + 1 == len(args):
                raise ValueError(f"{flag} needs a value")
            del rest[at : at + 2]
            return args[at + 1], rest
    return None, rest


def parse(default: Options, args: list[str], program: str) -> Options:
    """The default with the options laid over it. A mistake is one line, with the nearest right option."""
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
            close = get_close_matches(flag, known, n=1, cutoff=0.4)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"there is no option {flag}{hint} (`{program} --help` shows them all)")
    raise ValueError(f"{_unboxed(errors.getvalue())} (`{program} --help` shows all options)")


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
        nested = hasattr(field, "__dataclass_fields__")
        flat = name in ("recipe", "exam")
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


def spelled(value: float) -> str:
    """8/255 where that is how it was meant."""
    of_255 = value * 255
    is_ratio = 0 < value < 1 and abs(of_255 - round(of_255)) < 1e-9 and len(repr(value)) > 8
    return f"{round(of_255)}/255" if is_ratio else repr(value)
