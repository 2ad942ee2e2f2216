"""What people call the parts of a set: train, test and val by any of their names, or no parts at all."""

from __future__ import annotations

import re
from collections.abc import Collection

WORDS = {
    "train": ("train", "training", "trainings", "trn", "traindev", "trainval"),
    "test": ("test", "testing", "tests", "tst", "eval", "evaluation"),
    "val": ("val", "valid", "validation", "dev", "holdout"),
}
"""What each part is called."""
FILLERS = (
    *("set", "sets", "data", "dataset", "datasets", "image", "images", "img", "imgs", "pic", "pics", "picture"),
    *("pictures", "photo", "photos", "split", "splits", "part", "parts", "partial", "full", "folder", "dir", "file"),
    *("files", "png", "jpg", "jpeg"),
)
"""What says nothing beside it."""
TEST_PARTS = ("test", "val")
"""Which part is for testing: the first that there is."""
ADVICE = "call them train/ and test/ (or val/), and move what is neither away"


def part_of(name: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the part that a name means, and what else the name says; None if it means none, or several.

    training_set: train, nothing else. cifar10-train: train, of cifar10.
    """
    found: set[str] = set()
    rest = []
    for token in _tokens(name):
        part, said = _meaning(token)
        found |= set(part)
        rest += said
    if found == {"train", "val"}:  # together they are what is trained on
        found = {"train"}
    return (found.pop(), tuple(rest)) if len(found) == 1 else None


def _tokens(name: str) -> list[str]:
    return [token.lower() for token in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+", name)]


def _meaning(token: str) -> tuple[list[str], list[str]]:
    """The part that a token means, if any, and what it says beside; trainset means train, and says nothing else."""
    by_word = {word: part for part, words in WORDS.items() for word in words}
    if token in by_word:
        return [by_word[token]], []
    if token in FILLERS or token.isdigit() or len(token) == 1:
        return [], []
    for word, part in by_word.items():
        if token.startswith(word) and token[len(word) :] in FILLERS:
            return [part], []
        if token.endswith(word) and token[: -len(word)] in FILLERS:
            return [part], []
    return [], [token]


def parts_among(names: Collection[str]) -> dict[str, str]:
    """Return which of the names are parts: by name, the part that it means.

    A name that says something else beside (bullet_train) counts only where others say the same of other parts.
    """
    meant = {name: part_of(name) for name in names}
    known = {name: part for name, part in meant.items() if part is not None}
    by_rest: dict[tuple[str, ...], set[str]] = {}
    for part, rest in known.values():
        by_rest.setdefault(rest, set()).add(part)
    return {name: part for name, (part, rest) in known.items() if not rest or len(by_rest[rest]) > 1}


def parts_of(names: Collection[str], place: str, classes: bool) -> dict[str, str]:
    """Return the names by part, {"train": "training_set", ...}; empty if the names are those of classes.

    classes  whether the names may be those of classes: a part's name among them, or one class that is called train,
             is then no reason to doubt it
    ValueError for what looks like parts but is not clear.
    """
    found = parts_among(names)
    others = sorted(set(names) - set(found))
    parts = {part: sorted(name for name in found if found[name] == part) for part in WORDS}
    parts = {part: called for part, called in parts.items() if called}
    if not parts and _alike(names):
        raise ValueError(f"{place} has {', '.join(sorted(names))}, which look like parts of a set: {ADVICE}")
    if not parts:
        return {}
    if classes and others and set(parts) == {"train"} and len(others) > 1 and len(found) == 1:
        return {}
    if twice := next((called for called in parts.values() if len(called) > 1), None):
        raise ValueError(f"{place} has {' and '.join(twice)}, which look like the same part of a set: {ADVICE}")
    if others and not ("train" in parts and len(parts) > 1):
        beside = f"{', '.join(others[:3])}{', ...' if len(others) > 3 else ''}"
        raise ValueError(
            f"{place} has {', '.join(sorted(found))} beside {beside}, which may be parts of a set or classes: for "
            f"parts, {ADVICE}; a class, call it otherwise"
        )
    return {part: called[0] for part, called in parts.items()}


def _alike(names: Collection[str]) -> bool:
    """Whether all names begin like parts, and not all like one: Trainingsdaten and Testdaten."""
    tokens = [_tokens(name) for name in names]
    begin = [{start for start in WORDS if any(token.startswith(start) for token in each)} for each in tokens]
    return len(begin) > 1 and all(begin) and len(set.union(*begin)) > 1
