"""The commands that make a row again: its recipe's name, and every choice in which it differs from that recipe."""

from __future__ import annotations

import shlex
import textwrap
from functools import cache
from typing import Any

from unshaken.board.rows import Row
from unshaken.board.tasks import epsilon


def commands(row: Row, seed: str = "$S") -> list[str] | None:
    """Return the lines for a shell; None for a network that was not made by a recipe of this version."""
    first = row.first
    result, name = first.result, first.result["method"]
    data = first.pretrain.get("data", {}).get("name", "")
    usual = usual_pretrain(name, data)
    if usual is None or first.pretrain.get("type") != usual.get("type"):
        return None
    seeds = " ".join(dict.fromkeys(str(r.result["seeds"]["pretrain"]) for r in row.receipts))
    made = [f"unshaken pretrain {usual['@name']} --seed {seed}", *options(first.pretrain, usual)]
    broken = textwrap.wrap(f"{' '.join(made)} --out $RUN", 92, break_long_words=False, break_on_hyphens=False)
    lines = [f"for S in {seeds}; do", "  RUN=runs-$S", "  " + " \\\n    ".join(broken)]
    attack = result["exam"]["attack"]
    for mode, runs in row.modes.items():
        tuned = runs[0].finetune
        chosen = [f"--{key} {tuned[key]}" for key in ("epochs", "batch") if key in tuned]
        lines.append(" ".join([f"  unshaken finetune $RUN/{name}-* --mode {mode} --seed {seed}", *chosen]))
    full = " --full" if any(r.has("AA") and r.has("CA") for r in row.receipts) else ""
    eps = epsilon(attack["ball"]["eps"])
    lines += [
        f"  unshaken evaluate $RUN/{name}-* --attack.ball.eps {eps} --attack.steps {attack['steps']}{full}",
        "done",
    ]
    return lines


@cache
def usual_pretrain(name: str, data: str) -> dict[str, Any] | None:
    """Return the recipe of that name as plain values, with its name on the command line under "@name"."""
    from unshaken.base.canon import plain
    from unshaken.recipes.papers import recipe

    for full in (f"{name}/{data}", name):
        try:
            return plain(recipe(full)) | {"@name": full}
        except (ValueError, KeyError):
            continue
    return None


def options(mine: dict[str, Any], usual: dict[str, Any], prefix: str = "--") -> list[str]:
    """Return the options that turn the usual recipe into this one; what it does not hold stands at its default."""
    found: list[str] = []
    for key, value in mine.items():
        if key in ("type", "seed", "root", "download", "unreadable") or (key == "name" and prefix == "--"):
            continue
        flag, before = f"{prefix}{key.replace('_', '-')}", usual.get(key)
        if isinstance(value, dict):
            same_kind = isinstance(before, dict) and before.get("type") == value.get("type")
            if not same_kind and "type" in value and key != "savings":
                found.append(f"{flag} {value['type']}")
            found += options(value, before if same_kind else {}, f"{flag}.")
        elif isinstance(value, bool) and value != before:
            found.append(flag if value else f"{prefix}no-{key.replace('_', '-')}")
        elif value != before and value is not None:
            words = " ".join(shlex.quote(str(each)) for each in value) if isinstance(value, list) else spelled(value)
            found.append(f"{flag} {words}")
        elif value is None and isinstance(before, dict):
            found.append(f"{flag} None")
    return found


def spelled(value: Any) -> str:
    return str(value) if isinstance(value, (bool, int, float)) else shlex.quote(str(value))
