"""Flags that there are not: what people type for those that there are, and the nearest ones"""

from __future__ import annotations

import sys
from difflib import SequenceMatcher
from functools import cache

ALIASES: dict[str, tuple[str, ...]] = {
    "lr": ("lr.peak", "lr.value", "lr.start"),
    "learning-rate": ("lr.peak", "lr.value", "lr.start"),
    "rate": ("lr.peak", "lr.value", "lr.start"),
    "base-lr": ("lr.peak", "lr.value", "lr.start"),
    "eps": ("*.ball.eps", "ball.eps"),
    "epsilon": ("*.ball.eps", "ball.eps"),
    "batch": ("batch-size",),
    "bs": ("batch-size",),
    "num-epochs": ("epochs",),
    "n-epochs": ("epochs",),
    "max-epochs": ("epochs",),
    "image-size": ("data.size",),
    "img-size": ("data.size",),
    "size": ("data.size",),
    "resolution": ("data.size",),
    "arch": ("backbone.name",),
    "network": ("backbone.name",),
    "wd": ("optimizer.weight-decay",),
    "weight-decay": ("optimizer.weight-decay",),
    "momentum": ("optimizer.momentum",),
    "temperature": ("method.tau", "*.tau"),
    "temp": ("method.tau", "*.tau"),
    "device": ("runtime.device",),
    "precision": ("runtime.precision",),
    "threads": ("runtime.threads",),
    "num-threads": ("runtime.threads",),
    "pgd-steps": ("attack.steps", "method.attack.steps"),
    "attack-steps": ("attack.steps", "method.attack.steps"),
    "warmup-epochs": ("lr.warmup",),
    "output": ("out",),
    "output-dir": ("out",),
    "out-dir": ("out",),
    "save-dir": ("out",),
    "download": ("data.download",),
    "normalization": ("normalisation",),
}
"""What people type, and what it stands for: the first that is an option here. * is any path."""

ANSWERS: dict[str, tuple[str, str]] = {
    "gpus": ("runtime.device", "a command uses one device: --runtime.device cuda"),
    "gpu": ("runtime.device", "a command uses one device: --runtime.device cuda"),
    "cuda": ("runtime.device", "a command uses one device: --runtime.device cuda"),
    "workers": ("runtime.threads", "images are decoded once and then lie in memory: there are no workers to set"),
    "num-workers": ("runtime.threads", "images are decoded once and then lie in memory: there are no workers to set"),
    "amp": ("runtime.precision", "did you mean --runtime.precision bf16?"),
    "fp16": ("runtime.precision", "did you mean --runtime.precision bf16?"),
    "bf16": ("runtime.precision", "did you mean --runtime.precision bf16?"),
    "config": ("", "there are no configuration files: every choice is an option, and in Python a value"),
    "cfg": ("", "there are no configuration files: every choice is an option, and in Python a value"),
    "resume": ("", "none is needed: the same command goes on where it was stopped"),
    "checkpoint": ("", "none is needed: the same command goes on where it was stopped"),
    "pretrained": ("start", "did you mean --start, an encoder to begin with?"),
    "opt": ("optimizer", "did you mean --optimizer SGD, AdamW or LARS?"),
}
"""What people type and what no option stands for: the answer, where the option that it names is one here."""

NEAR = 0.75
"""How alike a flag has to be to be suggested, from 0 to 1."""


def by_their_names(args: list[str], known: list[str], flagged: list[list[str]]) -> list[str]:
    """The arguments with what people type for an option replaced by the option, which is said on stderr."""
    found = {}
    for flag, *_ in flagged:
        if flag.startswith("--") and flag not in known and (meant := alias(flag, known)):
            found[flag] = meant
            if meant != flag.replace("_", "-"):
                say_taken(flag, meant)
    return [word for flag, *words in flagged for word in (found.get(flag, flag), *words)] if found else args


@cache
def say_taken(flag: str, meant: str) -> None:
    """Once, though a verb may read its options several times."""
    print(f"note: {flag} is taken for {meant}", file=sys.stderr)


def alias(flag: str, known: list[str]) -> str | None:
    """The option that a flag stands for, if it is no option itself: its name with dashes, or an alias."""
    name = flag.removeprefix("--").replace("_", "-")
    if f"--{name}" in known:
        return f"--{name}"
    for stands_for in ALIASES.get(name, ()):
        if stands_for.startswith("*"):
            ends = [option for option in known if option.endswith(stands_for[1:])]
            if ends:
                return min(ends, key=lambda option: (option.count("."), known.index(option)))
        elif f"--{stands_for}" in known:
            return f"--{stands_for}"
    return None


def suggestion(flag: str, known: list[str]) -> str:
    """What was meant by an unknown flag, as the end of a sentence; nothing where there is no good match."""
    name = flag.removeprefix("--").replace("_", "-")
    option, answer = ANSWERS.get(name, ("", ""))
    if answer and (not option or any(each.startswith(f"--{option}") for each in known)):
        return f"; {answer}"
    within = [each for each in known if each.startswith(f"--{name}.")]
    last = name.rpartition(".")[2]
    same = [each for each in known if each.rpartition(".")[2].removeprefix("--") == last]
    found = within[:1] or same[:3] or _nearest(name, known)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _nearest(name: str, known: list[str]) -> list[str]:
    """The option most like a name, as a whole or by its last part, if it is like it enough."""
    last = name.rpartition(".")[2]

    def likeness(option: str) -> float:
        whole, end = option.removeprefix("--"), option.removeprefix("--").rpartition(".")[2]
        return max(_likeness(name, whole), _likeness(last, end) - 0.01)

    best = max(known, key=likeness, default=None)
    return [best] if best is not None and likeness(best) >= NEAR else []


def _likeness(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b).ratio()
