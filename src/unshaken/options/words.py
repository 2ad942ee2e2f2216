"""The words after a verb: its subject, flags with their values, one option taken out."""

from __future__ import annotations

import re


def first_word(args: list[str]) -> tuple[str | None, list[str]]:
    """The word after the verb, and the words after that. The word is None if a flag or nothing comes first."""
    if args and not args[0].startswith("-"):
        return args[0], expand_data(args[1:])
    return None, args


def expand_data(args: list[str]) -> list[str]:
    """Write --data.name for --data, and for --dataset."""
    return [re.sub(r"^--(data|dataset)(?==|$)", "--data.name", arg) for arg in args]


def extra_data(args: list[str]) -> list[str]:
    """Write the second --data, and those after it, as --extra."""
    groups, rest, extra = flag_groups(expand_data(args)), [], []
    for group in groups:
        if group[0] == "--extra" or group[0] == "--data.name" and any(other[0] == group[0] for other in rest):
            extra += group[1:]
        else:
            rest.append(group)
    return [word for group in [*rest, *([["--extra", *extra]] if extra else [])] for word in group]


def flag_groups(args: list[str]) -> list[list[str]]:
    """Group each flag with the values that follow it. --flag=value is a flag and its value."""
    groups: list[list[str]] = []
    for arg in args:
        if re.match(r"--[a-z]", arg) or not groups:
            groups.append(arg.split("=", 1) if arg.startswith("--") else [arg])
        else:
            groups[-1].append(arg)
    return groups


def take_list(args: list[str], flag: str) -> tuple[list[str], list[str]]:
    """A flag's values, also if commas separate them (slf,alf), and the words that are left.

    Without the flag the list is empty; a flag without a value is a ValueError.
    """
    groups = flag_groups(args)
    found = [group for group in groups if group[0] == flag]
    values = [value for group in found for value in split_commas(group[1:])]
    if len(found) > 1 or (found and not values):
        raise ValueError(f"{flag} is given once, with one value or more")
    return values, [word for group in groups if group[0] != flag for word in group]


def split_commas(values: list[str]) -> list[str]:
    """Separate values at commas: fog,snow and fog, snow are two."""
    return [each for value in values for each in value.split(",") if each]


def take_option(args: list[str], flag: str) -> tuple[str | None, list[str]]:
    """A flag's value, or None without the flag, and the words that are left.

    Raises ValueError if the flag is there twice, or has not exactly one value.
    """
    groups = flag_groups(args)
    found = [group for group in groups if group[0] == flag]
    if any(len(group) != 2 for group in found) or len(found) > 1:
        raise ValueError(f"{flag} is given once, with one value")
    rest = [word for group in groups if group[0] != flag for word in group]
    return (found[0][1] if found else None), rest


def check_no_repeats(args: list[str]) -> None:
    """Raise ValueError if a flag is there twice."""
    names = [group[0] for group in flag_groups(args) if group[0].startswith("--")]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{repeated} is given {names.count(repeated)} times; once is enough")
