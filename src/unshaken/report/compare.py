"""Comparison of two results on the same images: a paired, exact test of each score."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from unshaken.base.packed_bits import unpack_bits
from unshaken.base.python_words import in_python
from unshaken.report.cells import attack_kind
from unshaken.report.grouping import leaves, results_in, unseeded, word_of

LEVEL = 0.05
"""Level of the tests: between equal classifiers one comparison in twenty shows a difference."""


@dataclass(frozen=True)
class Paired:
    """One score of A and B on the n images that both have verdicts on.

    a, b                the numbers of correct answers: on images, or on images under corruptions
    a_better, b_better  the numbers of images on which A is better than B, and B better than A
    """

    score: str
    n: int
    a: int
    b: int
    a_better: int
    b_better: int

    @property
    def p(self) -> float:
        """The p-value of the sign test."""
        return sign_test(self.a_better, self.b_better)

    def line(self) -> str:
        word = f"{'A' if self.a_better > self.b_better else 'B'} is better" if self.p < LEVEL else "no difference shown"
        return (
            f"{self.score}: {word} (A {self.a}, B {self.b} correct; better on {self.a_better} and {self.b_better} of "
            f"{self.n} images; p = {self.p:.2g})"
        )


def sign_test(more: int, less: int) -> float:
    """Return the exact two-sided p-value: on each of the m images where two classifiers differ, either is better with
    probability 1/2.

    With one answer for each image this is McNemar's test (Psychometrika 1947): p = min(1, 2 P(X ≤ min)), X ~ B(m, 1/2).
    """
    from scipy.stats import binomtest  # here, because the tables of `report` need no scipy

    return float(binomtest(more, more + less).pvalue) if more + less else 1.0


def protocols(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Return the fields of fine-tuning, other than the images, in which two results of one mode differ."""
    if a["mode"] != b["mode"]:
        return []
    recipes = [dict(leaves(unseeded(result["finetune"].get("recipe", {})))) for result in (a, b)]
    names = [name for name in dict.fromkeys((*recipes[0], *recipes[1])) if name.partition(".")[0] != "data"]
    return [
        f"{name} {' and '.join(word_of(recipe.get(name)) for recipe in recipes)}"
        for name in names
        if recipes[0].get(name) != recipes[1].get(name)
    ]


def compared(a: dict[str, Any], b: dict[str, Any], anyway: bool = False) -> Iterator[Paired | str]:
    """Yield the test of each score that both results have, or the reason why it is not compared.

    anyway  compare classifiers that were fine-tuned by different protocols too, with a caution
    Raises ValueError if the images differ, or, without `anyway`, the protocols.
    """
    if a["data"]["digest"] != b["data"]["digest"]:
        raise ValueError(
            f"A was judged on {_images(a)} and B on {_images(b)}: results can be compared only on the same images"
        )
    if unlike := protocols(a, b):
        yield _caution(unlike, anyway)
    how_a, how_b = ({**how, "autoattack": how.get("autoattack")} for how in (a["evaluation"], b["evaluation"]))
    yield _paired("standard accuracy", [a["standard"]], [b["standard"]])
    if how_a["attack"] == how_b["attack"]:
        kind = "PGD" if how_a["attack"].get("type", "PGD") == "PGD" else attack_kind(how_a["attack"])
        yield _paired(f"robust accuracy ({kind})", [a["robust"]], [b["robust"]])
    else:
        yield "robust accuracy (PGD): not compared, because the attacks differ"
    if "autoattack" in a and "autoattack" in b:
        same = how_a["attack"]["ball"] == how_b["attack"]["ball"] and how_a["autoattack"] == how_b["autoattack"]
        alike = "robust accuracy (AutoAttack)"
        yield (
            _paired(alike, [a["autoattack"]], [b["autoattack"]])
            if same
            else f"{alike}: not compared, because the attacks differ"
        )
    if "corruptions" in a and "corruptions" in b:
        yield from _compared_corruptions(a, b)


def _caution(unlike: list[str], anyway: bool) -> str:
    """Return a caution about different protocols of fine-tuning; a ValueError unless they are compared `anyway`."""
    words = f"A and B were fine-tuned by different protocols ({'; '.join(unlike)})"
    if not anyway:
        raise ValueError(
            f"{words}, so a difference may come from these and not from the encoders: fine-tune both alike, or "
            "compare them --anyway"
        )
    return f"CAUTION: {words}; the tests below compare these too"


def _compared_corruptions(a: dict[str, Any], b: dict[str, Any]) -> Iterator[Paired | str]:
    """Yield the test over all corruptions that both results have. The corrupted images must be equal."""
    scores = [_corrupted(result) for result in (a, b)]
    common = [name for name in scores[0] if name in scores[1]]
    alike = [(r.get("corrupted", {}).get("constants"), r["seeds"].get("evaluation")) for r in (a, b)]
    if alike[0][0] != alike[1][0] or (alike[0][0] != "published" and alike[0] != alike[1]):
        yield "accuracy under corruptions: not compared, because the corrupted images differ"
    elif common:
        title = f"accuracy under {len(common)} corruptions"
        yield _paired(title, *([of[name] for name in common] for of in scores))


def _images(result: dict[str, Any]) -> str:
    data = result["data"]
    return f"{data['name']} ({data['split']}, {data['n']} images, digest {data['digest'][:8]})"


def _corrupted(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {f"{name}/{level}": s for name, by in result["corruptions"].items() for level, s in by.items()}


def _paired(score: str, a: list[dict[str, Any]], b: list[dict[str, Any]]) -> Paired:
    """Pair by images: the verdicts on one image under several corruptions are added."""
    of = min(each.get("of", each["n"]) for each in (*a, *b))
    both = numpy.logical_and.reduce([_judged(each)[:of] for each in (*a, *b)])
    right_a, right_b = (sum(_bits(each)[:of].astype(int) for each in scores)[both] for scores in (a, b))  # pyright: ignore[reportIndexIssue]
    alone = int((right_a > right_b).sum()), int((right_b > right_a).sum())
    return Paired(score, int(both.sum()), int(right_a.sum()), int(right_b.sum()), *alone)


def _bits(score: dict[str, Any]) -> numpy.ndarray:
    return unpack_bits(score["bits"], score.get("of", score["n"]))


def _judged(score: dict[str, Any]) -> numpy.ndarray:
    return unpack_bits(score["judged"], score["of"]) if "judged" in score else numpy.ones(score["n"], bool)


@in_python
def compare(a: Path | str | dict[str, Any], b: Path | str | dict[str, Any], anyway: bool = False) -> list[Paired | str]:
    """Test whether two results on the same images differ by more than chance: a paired, exact test of each score.

    a, b    results, their files, or the folders of runs that hold one each
    anyway  compare classifiers that were fine-tuned by different protocols too, and say so
    """
    found = [_result(each) for each in (a, b)]
    return list(compared(found[0], found[1], anyway))


def _result(of: Path | str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(of, dict):
        return of
    results = results_in([Path(of)])
    if len(results) > 1:
        raise ValueError(f"there is more than one result in {of}: name the file")
    return results[0]
