"""Two results on the same images: which images the two differ on, and whether chance alone would do that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

import numpy

from unshaken.base.packed_bits import unpack_bits
from unshaken.report.grouping import leaves, results_in, unseeded, word_of

LEVEL = 0.05
"""Chance alone would show a difference in one of twenty comparisons of equals."""


@dataclass(frozen=True)
class Paired:
    """One score of A and of B on the n images that both judged.

    a, b              right answers: of images, or of images under corruptions
    a_alone, b_alone  on how many images A does better than B, and B better than A
    """

    score: str
    n: int
    a: int
    b: int
    a_alone: int
    b_alone: int

    @property
    def p(self) -> float:
        return sign_test(self.a_alone, self.b_alone)

    def line(self) -> str:
        word = f"{'A' if self.a_alone > self.b_alone else 'B'} is better" if self.p < LEVEL else "no difference shown"
        return (
            f"{self.score}: {word} (A {self.a}, B {self.b} right; better on {self.a_alone} and {self.b_alone} of "
            f"{self.n} images; p = {self.p:.2g})"
        )


def sign_test(more: int, less: int) -> float:
    """Two-sided and exact: of m images on which two classifiers differ, each is for either with probability 1/2.

    With one answer an image this is McNemar's test (Psychometrika 1947): p = min(1, 2 P(X ≤ min)), X ~ B(m, 1/2).
    """
    m = more + less
    return min(1.0, 2 * sum(comb(m, k) for k in range(min(more, less) + 1)) / 2**m)


def protocols(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """In which choices of fine-tuning two results of one mode differ; which images were labelled is no such choice."""
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
    """Each score that both have, or why it is not compared.

    anyway  compare classifiers that were fine-tuned by unlike protocols too, and say so
    Raises ValueError if the images are not the same, or the protocols, unless that is asked for.
    """
    if a["data"]["digest"] != b["data"]["digest"]:
        raise ValueError(
            f"A was judged on {_images(a)} and B on {_images(b)}: only results on the same images can be compared"
        )
    if unlike := protocols(a, b):
        words = f"A and B were fine-tuned by unlike protocols ({'; '.join(unlike)})"
        if not anyway:
            raise ValueError(
                f"{words}, so that a difference may be of these and not of the encoders: fine-tune both alike, or "
                "compare them --anyway"
            )
        yield f"CAUTION: {words}; what follows compares these too"
    how_a, how_b = ({**how, "autoattack": how.get("autoattack")} for how in (a["evaluation"], b["evaluation"]))
    yield _paired("standard accuracy", [a["standard"]], [b["standard"]])
    if how_a["attack"] == how_b["attack"]:
        yield _paired("robust accuracy (PGD)", [a["robust"]], [b["robust"]])
    else:
        yield "robust accuracy (PGD): not compared, for the attacks were not the same"
    if "autoattack" in a and "autoattack" in b:
        same = how_a["attack"]["ball"] == how_b["attack"]["ball"] and how_a["autoattack"] == how_b["autoattack"]
        alike = "robust accuracy (AutoAttack)"
        yield (
            _paired(alike, [a["autoattack"]], [b["autoattack"]])
            if same
            else f"{alike}: not compared, for the attacks were not the same"
        )
    if "corruptions" in a and "corruptions" in b:
        scores = [_corrupted(result) for result in (a, b)]
        common = [name for name in scores[0] if name in scores[1]]
        alike = [(r.get("corrupted", {}).get("constants"), r["seeds"].get("evaluation")) for r in (a, b)]
        if alike[0][0] != alike[1][0] or (alike[0][0] != "published" and alike[0] != alike[1]):
            yield "accuracy under corruptions: not compared, for the corrupted images were not the same"
        elif common:
            title = f"accuracy under {len(common)} corruptions"
            yield _paired(title, *([of[name] for name in common] for of in scores))


def _images(result: dict[str, Any]) -> str:
    data = result["data"]
    return f"{data['name']} ({data['split']}, {data['n']} images, digest {data['digest'][:8]})"


def _corrupted(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {f"{name}/{level}": s for name, by in result["corruptions"].items() for level, s in by.items()}


def _paired(score: str, a: list[dict[str, Any]], b: list[dict[str, Any]]) -> Paired:
    """Images are the pairs: the verdicts of one image under several corruptions are added."""
    of = min(each.get("of", each["n"]) for each in (*a, *b))
    both = numpy.logical_and.reduce([_judged(each)[:of] for each in (*a, *b)])
    right_a, right_b = (sum(_bits(each)[:of].astype(int) for each in scores)[both] for scores in (a, b))  # pyright: ignore[reportIndexIssue]
    alone = int((right_a > right_b).sum()), int((right_b > right_a).sum())
    return Paired(score, int(both.sum()), int(right_a.sum()), int(right_b.sum()), *alone)


def _bits(score: dict[str, Any]) -> numpy.ndarray:
    return unpack_bits(score["bits"], score.get("of", score["n"]))


def _judged(score: dict[str, Any]) -> numpy.ndarray:
    return unpack_bits(score["judged"], score["of"]) if "judged" in score else numpy.ones(score["n"], bool)


def compare(a: Path | str | dict[str, Any], b: Path | str | dict[str, Any], anyway: bool = False) -> list[Paired | str]:
    """Test whether two results on the same images differ by more than chance: a paired, exact test of each score.

    a, b    results, their files, or the folders of runs that hold one each
    anyway  compare classifiers that were fine-tuned by unlike protocols too, and say so
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
