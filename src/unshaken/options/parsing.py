"""Parsing: the default value of a verb with its options laid over it, each mistake in one line"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import sys
from dataclasses import MISSING, fields, is_dataclass, replace
from inspect import cleandoc
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin

import tyro

from unshaken.base.terminal import raw
from unshaken.options.fields import FLAT, Option, alternatives, bare, check_words, flags, hints, options_of
from unshaken.options.meant import by_their_names, suggestion
from unshaken.options.numbers import number, rules, whole

Options = TypeVar("Options")


def subject(args: list[str], verb: str, what: str, example: str, shown: Any = None) -> tuple[str, list[str]]:
    """The word after the verb, and what follows it.

    shown  options for --help to show where no word is given, for those of a word may depend on it
    """
    if args and not args[0].startswith("-"):
        return args[0], aliased(args[1:])
    if args and args[0] in ("-h", "--help"):
        print(f"usage: unshaken {verb} {what} [OPTIONS]\n\n{what}: {example}\n")
        if shown is not None:
            print(f"Defaults may depend on {what}: `unshaken {verb} {what} --help` shows them.\n")
            parse(shown, ["--help"], f"unshaken {verb} {what}")
        raise SystemExit(0)
    raise ValueError(f"`unshaken {verb}` needs {what} next: {example}")


def aliased(args: list[str]) -> list[str]:
    """--data PATH is short for --data.name PATH, and --dataset is what some call it."""
    return [re.sub(r"^--(data|dataset)(?==|$)", "--data.name", arg) for arg in args]


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
    _check_once(args)
    default, args = exchanged(default, args)
    args = by_their_names(args, flags(default), grouped(args))
    _check_once(args)
    if not {"-h", "--help"} & set(args):
        _check(default, grouped(args), program)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(raw(sys.stdout)):
            return tyro.cli(
                type(default),
                default=default,
                args=args,
                prog=program,
                registry=rules(),
                config=(tyro.conf.AvoidSubcommands,),
                description=described(default),
            )
    except SystemExit as exit:
        if not exit.code:
            raise
    raise ValueError(f"{_unboxed(errors.getvalue(), default)} (`{program} --help` shows all options)")


def described(default: Any) -> str:
    """What stands at the top of the help: what a verb does, and the kinds of each part that can be exchanged."""
    by_kinds: dict[str, list[str]] = {}
    for flag in parts(default):
        if len(kinds := kinds_of(default, flag)) > 1:
            by_kinds.setdefault(" | ".join(kinds), []).append(flag)
    lines = [f"{', '.join(flags)}: {kinds}" for kinds, flags in by_kinds.items()]
    what = cleandoc(type(default).__doc__ or "")
    return "\n".join([what, "", "A part is exchanged for another kind by its name:", *lines]) if lines else what


def _check_once(args: list[str]) -> None:
    names = [group[0] for group in grouped(args) if group[0].startswith("--")]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{repeated} is given {names.count(repeated)} times; once is enough")


def _check(default: Any, groups: list[list[str]], program: str) -> None:
    """ValueError, by the option's own flag, for one that there is not, and for words that its field does not take."""
    known = {option.flag: option for option in options_of(default)}
    listed = f"(`{program} --help` shows them all)"
    takes_words = any(option.positional for option in known.values())
    for flag, *words in groups:
        if not flag.startswith("--"):
            if not takes_words:
                raise ValueError(
                    f"{flag!r} is no option of `{program}`: options begin with --, such as {next(iter(known))}"
                )
        elif flag in known:
            option = known[flag]
            words = words[:0] if option.is_switch and takes_words else words
            check_words(option, words)
        elif flag not in flags(default):
            lacks = _lacks(default, flag)
            hint = f": {program.split()[-1]} has none" if lacks else suggestion(flag, flags(default))
            raise ValueError(f"there is no option {flag}{hint} {listed}")
        elif words and not takes_words:
            check_words(Option(flag, bool), words)


def _lacks(value: Any, flag: str) -> bool:
    """Whether a flag names a part, or a field of a part, that this value has None of."""
    for name in flag.removeprefix("--").replace("-", "_").split("."):
        value = next((inner for inner in _and_flat(value) if hasattr(inner, name)), None)
        if value is None:
            return False
        value = getattr(value, name)
        if value is None:
            return True
        if not is_dataclass(value):
            return False
    return False


def _and_flat(value: Any) -> list[Any]:
    return [value, *(getattr(value, name) for name in FLAT if hasattr(value, name))]


def exchanged(default: Options, args: list[str]) -> tuple[Options, list[str]]:
    """--optimizer SGD puts another kind in a part's place, with that kind's own defaults; then the arguments left.

    --method.hn None leaves out a part that may be left out.
    """
    for flag in reversed([flag for flag in parts(default) if _optional(default, flag)]):  # what depends on others first
        if taken(args, flag)[0] == "None":
            default, args = _laid(default, flag, None), taken(args, flag)[1]
    for flag in parts(default):
        if flag in parts(default) and (kinds := kinds_of(default, flag)):
            kind, args = taken(args, flag)
            if kind is not None:
                default = _laid(default, flag, _of_kind(kinds, kind, flag, args))
    return default, args


def kinds_of(value: Any, flag: str) -> dict[str, type]:
    """The kinds that can be in a part's place, by name; a recipe's method is what it is of, and stays."""
    return {} if flag == "--method" else {kind.__name__: kind for kind in alternatives(_hint(value, flag))}


def _optional(value: Any, flag: str) -> bool:
    """Whether the part of a flag may be None."""
    return NoneType in get_args(bare(_hint(value, flag)))


def _hint(value: Any, flag: str) -> Any:
    """What the field of a flag is annotated with."""
    *path, last = flag.removeprefix("--").replace("-", "_").split(".")
    for name in path:
        value = getattr(_holder(value, name), name)
    return hints(type(_holder(value, last)))[last]


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


def _of_kind(kinds: dict[str, type], kind: str, flag: str, args: list[str]) -> Any:
    """A new part of one of these kinds; what has no default is read from its own flag."""
    if kind not in kinds:
        raise ValueError(f"{flag} is one of {', '.join(kinds)}, not {kind!r}")
    needed = {f.name: hints(kinds[kind])[f.name] for f in fields(kinds[kind]) if f.default is MISSING}
    given = {name: taken(args, f"{flag}.{name}")[0] for name in needed}
    lacking = [name for name, text in given.items() if text is None]
    if lacking:
        raise ValueError(f"{flag} {kind} needs {', '.join(f'{flag}.{name}' for name in lacking)} too")
    for name, text in given.items():
        check_words(Option(f"{flag}.{name}", needed[name]), [text])  # pyright: ignore[reportArgumentType]
    return kinds[kind](**{name: _read(needed[name], text) for name, text in given.items()})  # pyright: ignore[reportArgumentType]


def _read(hint: Any, text: str) -> float:
    inner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return whole(text) if inner is int else number(text)


def _laid(value: Any, flag: str, part: Any) -> Any:
    """The value with the part in the flag's place."""
    first, _, rest = flag.removeprefix("--").replace("-", "_").partition(".")
    flat = next((name for name in FLAT if hasattr(value, name)), None)
    if flat and not hasattr(value, first):
        return replace(value, **{flat: _laid(getattr(value, flat), flag, part)})
    inner = part if not rest else _laid(getattr(value, first), rest, part)
    return replace(value, **{first: inner})


def _unboxed(text: str, default: Any) -> str:
    """The first paragraph of tyro's framed message, on one line, with the option's flag instead of the field's path.

    The frame is drawn, or of dashes where the output's encoding has no better.
    """
    lines = [line.strip("│| ") for line in text.splitlines()[1:]]
    lines = list(itertools.dropwhile(_is_rule, lines))
    said = " ".join(itertools.takewhile(lambda line: not _is_rule(line) and "full helptext" not in line, lines))
    said = said.removeprefix("Error parsing ").removeprefix(f"{type(default).__name__}: ")
    path = re.match(r"[a-z_]+(\.[a-z_0-9]+)*(?=: )", said)
    if path is None:
        return said
    inner = re.sub(rf"^({'|'.join(FLAT)})(\.|$)", "", path[0]).replace("_", "-")
    rest = said[path.end() :]
    return f"--{inner}{rest}" if inner else rest.removeprefix(": ")


def _is_rule(line: str) -> bool:
    return not line.strip("─-+╭╮╰╯ ")
