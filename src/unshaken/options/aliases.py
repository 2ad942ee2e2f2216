"""Flags of other programs: the option that each stands for, an answer, or the nearest."""

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
    "image-size": ("backbone.image-size", "data.size"),
    "img-size": ("backbone.image-size", "data.size"),
    "size": ("backbone.image-size", "data.size"),
    "resolution": ("backbone.image-size", "data.size"),
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
"""Flag to options: the first that the verb has is meant. *.NAME means every option that ends in .NAME."""

ANSWERS: dict[str, tuple[str, str]] = {
    "gpus": ("runtime.device", "a command uses one device: --runtime.device cuda"),
    "gpu": ("runtime.device", "a command uses one device: --runtime.device cuda"),
    "cuda": ("runtime.device", "a command uses one device: --runtime.device cuda"),
    "workers": ("runtime.threads", "there are no workers to set: images are decoded once and then stay in memory"),
    "num-workers": ("runtime.threads", "there are no workers to set: images are decoded once and then stay in memory"),
    "amp": ("runtime.precision", "did you mean --runtime.precision bf16?"),
    "fp16": ("runtime.precision", "did you mean --runtime.precision bf16?"),
    "bf16": ("runtime.precision", "did you mean --runtime.precision bf16?"),
    "cfg": ("", "did you mean --config, a file of options?"),
    "resume": ("", "none is needed: the same command resumes a run that was stopped"),
    "checkpoint": ("", "none is needed: the same command resumes a run that was stopped"),
    "dryrun": ("dry-run", "did you mean --dry-run?"),
    "pretrained": ("start", "did you mean --start, an encoder whose weights are copied?"),
    "opt": ("optimizer", "did you mean --optimizer SGD, AdamW, LARS, or any of torch.optim?"),
}
"""Flag to (option, answer): the answer is given if the verb has an option of that name."""

NEAR = 0.75
"""The least likeness of a flag that is suggested, from 0 to 1."""


def resolve_aliases(args: list[str], known: list[str], groups: list[list[str]]) -> list[str]:
    """Replace each alias by the options it stands for, and say so on stderr."""
    words = []
    for flag, *values in groups:
        options = alias(flag, known) if flag.startswith("--") and flag not in known else []
        if options and options != [flag.replace("_", "-")]:
            announce(flag, " and ".join(options))
        for each in options or [flag]:
            words += [each, *values]
    return words if groups else args


@cache
def announce(flag: str, meaning: str) -> None:
    """Say it once, for a verb may read its options several times."""
    print(f"note: {flag} is taken for {meaning}", file=sys.stderr)


def alias(flag: str, known: list[str]) -> list[str]:
    """The options that a flag stands for: its name with dashes for underscores, or what ALIASES has for it."""
    name = flag.removeprefix("--").replace("_", "-")
    if f"--{name}" in known:
        return [f"--{name}"]
    for meaning in ALIASES.get(name, ()):
        if meaning.startswith("*"):
            if found := [option for option in known if option.endswith(meaning[1:])]:
                return found
        elif f"--{meaning}" in known:
            return [f"--{meaning}"]
    return []


def suggestion(flag: str, known: list[str]) -> str:
    """The end of a sentence about an unknown flag: an answer, the likeliest options, or nothing."""
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
    """The option that is most like a name, or whose last word is, if it is like it enough."""
    last = name.rpartition(".")[2]

    def likeness(option: str) -> float:
        path, end = option.removeprefix("--"), option.removeprefix("--").rpartition(".")[2]
        return max(_likeness(name, path), _likeness(last, end) - 0.01)

    best = max(known, key=likeness, default=None)
    return [best] if best is not None and likeness(best) >= NEAR else []


def _likeness(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b).ratio()
