"""The names that people give to splits: which folder or file is train, test or val."""

from __future__ import annotations

import re
from collections.abc import Collection

WORDS = {
    "train": ("train", "training", "trainings", "trn", "traindev", "trainval"),
    "test": ("test", "testing", "tests", "tst", "eval", "evaluation"),
    "val": ("val", "valid", "validation", "dev", "holdout"),
}
"""Words that mean each split."""
NEUTRAL_WORDS = (
    *("set", "sets", "data", "dataset", "datasets", "image", "images", "img", "imgs", "pic", "pics", "picture"),
    *("pictures", "photo", "photos", "split", "splits", "part", "parts", "partial", "full", "folder", "dir", "file"),
    *("files", "png", "jpg", "jpeg"),
)
"""Words that may stand beside them without changing the meaning."""
TEST_SPLITS = ("test", "val")
"""Splits to test on: the first one that the set has is used."""
ADVICE = "call the splits train/ and test/ (or val/), and move everything else away"


def split_meant(name: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the split that a name means, and its other words; None if it means no split, or several.

    training_set means ("train", ()); cifar10-train means ("train", ("cifar10",)).
    """
    found: set[str] = set()
    rest = []
    for token in _tokens(name):
        splits, words = _meaning(token)
        found |= set(splits)
        rest += words
    if found == {"train", "val"}:  # trainval: both are trained on
        found = {"train"}
    return (found.pop(), tuple(rest)) if len(found) == 1 else None


def _tokens(name: str) -> list[str]:
    return [token.lower() for token in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+", name)]


def _meaning(token: str) -> tuple[list[str], list[str]]:
    """Return the split that a token means, if any, and the word that it is otherwise; trainset means just train."""
    by_word = {word: split for split, words in WORDS.items() for word in words}
    if token in by_word:
        return [by_word[token]], []
    if token in NEUTRAL_WORDS or token.isdigit() or len(token) == 1:
        return [], []
    for word, split in by_word.items():
        if token.startswith(word) and token[len(word) :] in NEUTRAL_WORDS:
            return [split], []
        if token.endswith(word) and token[: -len(word)] in NEUTRAL_WORDS:
            return [split], []
    return [], [token]


def splits_among(names: Collection[str]) -> dict[str, str]:
    """Return the split that each name means, for those names that mean one.

    A name with other words in it (bullet_train) counts only if another name has the same words and a different split.
    """
    meanings = {name: split_meant(name) for name in names}
    possible = {name: meaning for name, meaning in meanings.items() if meaning is not None}
    by_rest: dict[tuple[str, ...], set[str]] = {}
    for split, rest in possible.values():
        by_rest.setdefault(rest, set()).add(split)
    return {name: split for name, (split, rest) in possible.items() if not rest or len(by_rest[rest]) > 1}


def assign_splits(names: Collection[str], location: str, classes: bool) -> dict[str, str]:
    """Return the name for each split, {"train": "training_set", ...}; empty if the names are those of classes.

    classes  True if the names may be class names; several other names beside a single train/ then are classes too
    ValueError if it is not clear which names are splits.
    """
    found = splits_among(names)
    others = sorted(set(names) - set(found))
    splits = {split: sorted(name for name in found if found[name] == split) for split in WORDS}
    splits = {split: called for split, called in splits.items() if called}
    if not splits and _resemble_splits(names):
        raise ValueError(f"{location} has {', '.join(sorted(names))}, which look like splits of a set: {ADVICE}")
    if not splits:
        return {}
    if classes and others and set(splits) == {"train"} and len(others) > 1 and len(found) == 1:
        return {}
    if twice := next((called for called in splits.values() if len(called) > 1), None):
        raise ValueError(f"{location} has {' and '.join(twice)}, which look like the same split: {ADVICE}")
    if others and not ("train" in splits and len(splits) > 1):
        beside = f"{', '.join(others[:3])}{', ...' if len(others) > 3 else ''}"
        raise ValueError(
            f"{location} has {', '.join(sorted(found))} beside {beside}, which may be splits of a set or classes: if "
            f"they are splits, {ADVICE}; if they are classes, give them other names"
        )
    return {split: called[0] for split, called in splits.items()}


def _resemble_splits(names: Collection[str]) -> bool:
    """Return whether all names begin like splits, and not all like the same one: Trainingsdaten and Testdaten."""
    tokens = [_tokens(name) for name in names]
    begin = [{split for split in WORDS if any(token.startswith(split) for token in each)} for each in tokens]
    return len(begin) > 1 and all(begin) and len(set.union(*begin)) > 1
