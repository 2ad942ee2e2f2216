"""Parsing: a verb's default value with the typed options applied to it."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from unshaken.options.aliases import resolve_aliases, suggestion
from unshaken.options.check import check_words, is_list
from unshaken.options.config import Config
from unshaken.options.exchange import exchange_components, names_missing_component
from unshaken.options.fields import FLAT, Option, components, flags, options_of
from unshaken.options.help import help_page
from unshaken.options.numbers import tyro_rules
from unshaken.options.words import check_no_repeats, first_word, flag_groups, split_commas

Options = TypeVar("Options")


def parse(
    default: Options, args: list[str], program: str, config: Config | None = None, others: Sequence[Any] = ()
) -> Options:
    """Return the default with the options applied. --help prints the help page and raises SystemExit.

    config  options that are applied before; by default those of the file that --config names
    others  values whose options the file may have too; only those of the default are applied

    Raises ValueError for a mistake, in one line that names the nearest right option.
    """
    if config is None:
        config, args = Config.take(args)
    if config.file is not None:
        default = _configured(default, config, program, others)
    return _parse(default, args, program)


def _configured(default: Options, config: Config, program: str, others: Sequence[Any]) -> Options:
    """Return the default with the options of a file applied. ValueError names the file."""
    words = config.words(default)
    try:
        return _parse(default, only_options_of(default, words, list(others)) if others else words, program)
    except ValueError as error:
        raise ValueError(f"{config.file}: {error}") from None


def _parse(default: Options, args: list[str], program: str) -> Options:
    """Return the default with the typed options applied."""
    check_no_repeats(args)
    default, args = exchange_components(default, args)
    args = resolve_aliases(args, flags(default), flag_groups(args))
    check_no_repeats(args)
    args = with_lists(default, args)
    if {"-h", "--help"} & set(args):
        print(help_page(default, program))
        raise SystemExit(0)
    if not args:
        return default
    _check(default, flag_groups(args), program)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                type(default),
                default=default,
                args=args,
                prog=program,
                registry=tyro_rules(),
                config=(tyro.conf.AvoidSubcommands,),
            )
    except SystemExit as exit:
        if not exit.code:
            raise
    raise ValueError(f"{_plain_message(errors.getvalue(), default)} (`{program} --help` shows all options)")


def with_lists(default: Any, args: list[str]) -> list[str]:
    """The words with the values of lists separated at commas: --corruptions fog,snow. Paths keep their commas."""
    lists = {option.flag for option in options_of(default) if not option.positional and is_list(option.hint)}
    return [
        word
        for flag, *values in flag_groups(args)
        for word in (flag, *(split_commas(values) if flag in lists else values))
    ]


def subject(args: list[str], verb: str, noun: str, example: str, shown: Any = None) -> tuple[str, list[str]]:
    """Return the word after the verb, and the words after that. --help prints a help page and raises SystemExit.

    shown  the value whose options --help shows where there is no word; with one, defaults may differ

    Raises ValueError if the word is missing.
    """
    word, rest = first_word(args)
    if word is not None:
        return word, rest
    if args and args[0] in ("-h", "--help"):
        print(f"usage: unshaken {verb} {noun} [OPTIONS]\n\n{noun}: {example}\n")
        if shown is not None:
            print(f"Defaults may depend on it: `unshaken {verb} {noun} --help` shows those.\n")
            print(help_page(shown, "").partition("\n\n")[2])
        raise SystemExit(0)
    raise ValueError(f"`unshaken {verb}` needs {noun} next: {example}")


def only_options_of(default: Any, args: list[str], others: list[Any]) -> list[str]:
    """Drop the options that only other values have. Options that nothing has stay, so that parsing refuses them."""
    own = {*flags(default), *components(default)}
    elsewhere = {flag for other in others for flag in (*flags(other), *components(other))} - own
    return [word for group in flag_groups(args) if group[0] not in elsewhere for word in group]


def _check(default: Any, groups: list[list[str]], program: str) -> None:
    """Raise ValueError for an option that does not exist, and for words that a field does not take."""
    known = {option.flag: option for option in options_of(default)}
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
            missing = names_missing_component(default, flag)
            hint = f": {program.split()[-1]} has none" if missing else suggestion(flag, flags(default))
            raise ValueError(f"there is no option {flag}{hint} (`{program} --help` shows them all)")
        elif words and not takes_words:
            check_words(Option(flag, bool), words)


def _plain_message(text: str, default: Any) -> str:
    """The first paragraph of tyro's framed message in one line, with the option's flag for the field's path.

    The frame is drawn with lines, or with dashes where the output's encoding has no lines.
    """
    lines = [line.strip("│| ") for line in text.splitlines()[1:]]
    lines = list(itertools.dropwhile(_is_rule, lines))
    message = " ".join(itertools.takewhile(lambda line: not _is_rule(line) and "full helptext" not in line, lines))
    message = message.removeprefix("Error parsing ").removeprefix(f"{type(default).__name__}: ")
    path = re.match(r"[a-z_]+(\.[a-z_0-9]+)*(?=: )", message)
    if path is None:
        return message
    inner = re.sub(rf"^({'|'.join(FLAT)})(\.|$)", "", path[0]).replace("_", "-")
    rest = message[path.end() :]
    return f"--{inner}{rest}" if inner else rest.removeprefix(": ")


def _is_rule(line: str) -> bool:
    return not line.strip("─-+╭╮╰╯ ")
