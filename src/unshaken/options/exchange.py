"""A component replaced by another kind: --optimizer SGD, with that kind's own defaults."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin

from unshaken.options.aliases import alias
from unshaken.options.check import check_words
from unshaken.options.fields import FLAT, Option, alternatives, components, flags, hints, without_markers
from unshaken.options.numbers import number, whole_number
from unshaken.options.words import take_option

Options = TypeVar("Options")


def exchange_components(default: Options, args: list[str]) -> tuple[Options, list[str]]:
    """Replace the components that the words name a kind for; returns the new value and the words that are left.

    --method.hn None removes a component that may be None. --lr 0.5 is no kind: it is left for the aliases.
    """
    optional = [flag for flag in components(default) if NoneType in get_args(without_markers(_hint(default, flag)))]
    for flag in reversed(optional):  # a component that depends on others is removed before them
        if take_option(args, flag)[0] == "None":
            default, args = _replace_at(default, flag, None), take_option(args, flag)[1]
    present = components(default)
    for flag in list(present):
        if flag not in present or not (kinds := kinds_of(default, flag)):
            continue
        kind, rest = take_option(args, flag)
        if kind is None or _is_number(kind) and alias(flag, flags(default)):
            continue
        args = rest
        default = _replace_at(default, flag, _make_component(kinds, kind, flag, args))
        present = components(default)
    return default, args


def kinds_of(value: Any, flag: str) -> dict[str, type]:
    """The kinds that can replace a component, by name. A recipe's method stays: it is what the recipe is for."""
    return {} if flag == "--method" else {kind.__name__: kind for kind in alternatives(_hint(value, flag))}


def names_missing_component(value: Any, flag: str) -> bool:
    """True if a flag names a component, or a field of one, where this value has None."""
    for name in flag.removeprefix("--").replace("-", "_").split("."):
        holder = next((each for each in _with_flat(value) if hasattr(each, name)), None)
        if holder is None:
            return False
        value = getattr(holder, name)
        if value is None:
            return True
        if not hasattr(value, "__dataclass_fields__"):
            return False
    return False


def _is_number(word: str) -> bool:
    try:
        number(word)
    except ValueError:
        return False
    return True


def _with_flat(value: Any) -> list[Any]:
    return [value, *(getattr(value, name) for name in FLAT if hasattr(value, name))]


def _holder(value: Any, name: str) -> Any:
    """The value, or the one of its flat fields that has this field."""
    return next(each for each in _with_flat(value) if hasattr(each, name))


def _hint(value: Any, flag: str) -> Any:
    """The annotation of a flag's field."""
    *path, last = flag.removeprefix("--").replace("-", "_").split(".")
    for name in path:
        value = getattr(_holder(value, name), name)
    return hints(type(_holder(value, last)))[last]


def _make_component(kinds: dict[str, type], kind: str, flag: str, args: list[str]) -> Any:
    """Make a component of a kind. A field without a default is read from its own flag."""
    for each in kinds.values():  # a kind that has many by name: torch.optim.NAdam
        prefix = getattr(each, "prefix", None)
        if prefix and kind.startswith(prefix):
            return each(name=kind.removeprefix(prefix))
    if kind not in kinds:
        raise ValueError(f"{flag} is one of {', '.join(kinds)}, not {kind!r}")
    needed = {f.name: hints(kinds[kind])[f.name] for f in fields(kinds[kind]) if f.default is MISSING}
    given = {name: take_option(args, f"{flag}.{name}")[0] for name in needed}
    lacking = [name for name, text in given.items() if text is None]
    if lacking:
        raise ValueError(f"{flag} {kind} needs {', '.join(f'{flag}.{name}' for name in lacking)} too")
    for name, text in given.items():
        check_words(Option(f"{flag}.{name}", needed[name]), [text])  # pyright: ignore[reportArgumentType]
    return kinds[kind](**{name: _read(needed[name], text) for name, text in given.items()})  # pyright: ignore[reportArgumentType]


def _read(hint: Any, text: str) -> float:
    inner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return whole_number(text) if inner is int else number(text)


def _replace_at(value: Any, flag: str, component: Any) -> Any:
    """The value with a component at a flag's place."""
    first, _, rest = flag.removeprefix("--").replace("-", "_").partition(".")
    flat = next((name for name in FLAT if hasattr(value, name)), None)
    if flat and not hasattr(value, first):
        return replace(value, **{flat: _replace_at(getattr(value, flat), flag, component)})
    inner = component if not rest else _replace_at(getattr(value, first), rest, component)
    return replace(value, **{first: inner})
