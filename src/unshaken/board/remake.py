"""The commands that reproduce a row: recipes by name, and an option for each other field."""

from __future__ import annotations

import shlex
import textwrap
from functools import cache
from typing import Any

from unshaken.board.collect import Receipt
from unshaken.board.rows import Row

Plain = dict[str, Any]
MODES = ("slf", "alf", "aff", "autolora")


def commands(row: Row, seed: str = "$S") -> list[str] | None:
    """Return the commands for a shell; None for a network that no recipe of this version makes.

    seed  the word for the seed of pre-training in a loop over seeds
    """
    first = row.first
    usual = usual_pretrain(first.result["method"], first.pretrain.get("data", {}).get("name", ""))
    if usual is None or first.pretrain.get("type") != usual.get("type") or not {*row.modes} <= {*MODES}:
        return None
    computed = precision(first.result["pretrain"].get("data", {}).get("precision"))
    made = [f"unshaken pretrain {usual['@name']} --seed {seed}", *options(first.pretrain, usual), *computed]
    lines, tuned_by = loop(row, seed)
    lines += broken([*made, "--out $RUN"])
    for mode, runs in row.modes.items():
        lines += broken(tuned(mode, runs[0], tuned_by))
    lines += [line for words in judgements(row) for line in broken(words)]
    return [*lines, "done"]


def loop(row: Row, seed: str) -> tuple[list[str], str]:
    """Return the loop's head, and the word for the seed of fine-tuning: the seed of pre-training unless they differ."""
    pairs = [(r.result["seeds"]["pretrain"], r.result["seeds"]["finetune"]) for r in row.receipts]
    if all(a == b for a, b in pairs):
        return [f"for S in {' '.join(dict.fromkeys(str(a) for a, _ in pairs))}; do", "  RUN=runs-$S"], seed
    both = " ".join(dict.fromkeys(f"{a}/{b}" for a, b in pairs))
    return [f"for PAIR in {both}; do", "  S=${PAIR%/*} T=${PAIR#*/} RUN=runs-$S"], "$T"


def tuned(mode: str, run: Receipt, seed: str) -> list[str]:
    """Return the command of a fine-tuning, with another set if there is one, and the options that differ."""
    origin, name = run.pretrain["data"]["name"], run.result["method"]
    source = run.finetune.get("data", run.pretrain["data"])
    words = [f"unshaken finetune $RUN/{shlex.quote(name)}-* --mode {mode} --seed {seed}"]
    if source["name"] != origin:
        words.append(f"--data.name {shlex.quote(source['name'])}")
    size = source.get("size")
    if size is not None:
        words.append(f"--data.size {size}")
    side = run.pretrain.get("backbone", {}).get("image_size") or run.result["finetune"].get("side") or 32
    usual = usual_finetune(mode, name, origin, source["name"], size, side)
    if source["name"] == origin:  # then it is the encoder's set, with its limit
        usual = usual | {"data": run.pretrain["data"] | {"size": size}}
    return [
        *words,
        *options(run.finetune, usual),
        *precision(run.result["finetune"].get("data", {}).get("precision")),
    ]


def judgements(row: Row) -> list[list[str]]:
    """Return one evaluation for all modes, or one for each mode if they differ."""
    by_mode = {mode: judged(max(runs, key=lambda run: len(run.result))) for mode, runs in row.modes.items()}
    where = f"unshaken evaluate $RUN/{shlex.quote(row.method)}-*"
    if len({tuple(words) for words in by_mode.values()}) == 1:
        return [[where, *next(iter(by_mode.values()))]]
    return [[f"{where}/{mode}-*", *words] for mode, words in by_mode.items()]


def judged(run: Receipt) -> list[str]:
    """Return the options in which an evaluation differs from the usual one; --full for everything."""
    evaluation, target = run.result["evaluation"], run.finetune.get("data", run.pretrain["data"])["name"]
    usual, full = usual_evaluation(target), usual_evaluation(target, full=True)
    learned = run.result["finetune"].get("data", {}).get("images", {}).get("name", target)
    other = run.result["data"]["name"] not in (target, learned)
    words = [f"--data.name {shlex.quote(run.result['data']['name'])}"] if other else []
    if all(evaluation.get(key) == full[key] for key in ("autoattack", "corruptions", "severities")):
        words, usual = [*words, "--full"], full
    if evaluation["seed"] != usual["seed"]:
        words.append(f"--seed {evaluation['seed']}")
    return [*words, *options(evaluation, usual), *precision(run.result.get("world", {}).get("search"))]


def precision(value: str | None) -> list[str]:
    return [] if value in (None, "float32") else [f"--runtime.precision {value}"]


def broken(words: list[str]) -> list[str]:
    """Return a command in short lines, none of which ends within an option."""
    text = " ".join(f"  {word}" if k == 0 else word.replace(" ", "\0") for k, word in enumerate(words))
    first, *more = textwrap.wrap(
        text, 92, break_long_words=False, break_on_hyphens=False, drop_whitespace=True, subsequent_indent="    "
    )
    lines = [line.replace("\0", " ") for line in (first, *more)]
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


@cache
def usual_pretrain(name: str, data: str) -> Plain | None:
    """Return the recipe of that name as plain values, with its name on the command line under "@name"."""
    from unshaken.base.serialize import to_json
    from unshaken.recipes.catalog import recipe
    from unshaken.train.approximations import Approximations

    for full in (f"{name}/{data}", name):
        try:  # a recipe without approximations leaves them out
            return {"approximations": to_json(Approximations())} | to_json(recipe(full)) | {"@name": full}
        except (ValueError, KeyError):
            continue
    return None


@cache
def usual_finetune(mode: str, name: str, origin: str, target: str, size: int | None, side: int) -> Plain:
    """Return the defaults of `unshaken finetune` for a mode, as plain values."""
    from unshaken.base.serialize import to_json
    from unshaken.data.source import DataSource
    from unshaken.recipes.autolora import autolora
    from unshaken.recipes.finetune import chosen

    source = DataSource(target, size=size)
    return to_json(autolora(source) if mode == "autolora" else chosen(mode, name, DataSource(origin), source, side))


@cache
def usual_evaluation(target: str, full: bool = False) -> Plain:
    """Return the usual evaluation on a set as plain values."""
    from unshaken.base.serialize import to_json
    from unshaken.data.source import DataSource
    from unshaken.runs.evaluate import default_evaluation

    evaluation = default_evaluation(DataSource(target))
    return to_json(evaluation.full if full else evaluation)


def options(mine: Plain, usual: Plain, prefix: str = "--") -> list[str]:
    """Return the options that turn the usual recipe into this one; a field that it lacks has its default."""
    found: list[str] = []
    for key, value in mine.items():
        if key in ("type", "seed", "root", "download", "unreadable") or (key == "name" and prefix == "--"):
            continue
        flag, before = f"{prefix}{key.replace('_', '-')}", usual.get(key)
        if isinstance(value, dict):
            same_kind = isinstance(before, dict) and before.get("type") == value.get("type")
            if not same_kind and "type" in value:
                found.append(f"{flag} {value['type']}")
            found += options(value, before if same_kind else {}, f"{flag}.")  # pyright: ignore[reportArgumentType]
        elif isinstance(value, bool) and value != before:
            found.append(flag if value else f"{prefix}no-{key.replace('_', '-')}")
        elif value != before and value is not None:
            words = " ".join(shlex.quote(str(each)) for each in value) if isinstance(value, list) else spelled(value)
            found.append(f"{flag} {words}")
        elif value is None and before is not None:
            found.append(f"{flag} None")
    return found


def spelled(value: Any) -> str:
    return str(value) if isinstance(value, (bool, int, float)) else shlex.quote(str(value))
