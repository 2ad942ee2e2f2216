"""Changes made by robustify: measures before and after, as JSON and as a page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from unshaken.base.safe_text import markdown


@dataclass(frozen=True)
class Robustness:
    """Measures of an encoder before and after.

    fidelity   how far the embeddings of clean images moved
    embedding  by the attack's ε in 1/255: the drift under attack of the original and of the robust encoder
    accuracy   by the attack's ε in 1/255: the results of both linear probes, and of the original's on the robust
               encoder; empty without labelled test images
    why_none   why there are no accuracies, in words
    """

    fidelity: dict[str, float]
    embedding: dict[str, tuple[dict[str, Any], dict[str, Any]]]
    accuracy: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]
    images: dict[str, Any]
    attack: str
    why_none: str = ""

    def to_json(self) -> dict[str, Any]:
        pairs = {
            name: {eps: dict(zip(("before", "after", "old_probe"), each, strict=False)) for eps, each in rows.items()}
            for name, rows in (("embedding", self.embedding), ("accuracy", self.accuracy))
        }
        return {"images": self.images, "attack": self.attack, "fidelity": self.fidelity} | pairs | (
            {"why_none": self.why_none} if self.why_none else {}
        )  # fmt: skip

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Yield the rows of a table: what was measured, before, after."""
        f = self.fidelity
        yield "embedding of clean images: relative squared drift", "0", f"{f['clean_drift']:.3f}"
        yield "cosine to the original's embedding", "1", f"{f['cosine']:.3f}"
        yield (
            "its own image is the nearest in an index of old embeddings",
            "100 %",
            f"{100 * f['found_in_old_index']:.1f} %",
        )
        for eps, (before, after) in self.embedding.items():
            yield f"identity lost under attack, ε = {eps}/255", _lost(before), _lost(after)
            drifts = [f"{each['relative_drift_median']:.2f}" for each in (before, after)]
            yield f"relative drift under attack, ε = {eps}/255, median", drifts[0], drifts[1]
        for name, which in (("linear probe", 1), ("the original's linear probe", 2)):
            for number, (eps, results) in enumerate(self.accuracy.items()):
                before, after = results[0], results[which]
                if not number:
                    yield f"{name}, clean accuracy", _share(before["standard"]), _share(after["standard"])
                yield f"{name} under attack, ε = {eps}/255", _share(before["robust"]), _share(after["robust"])

    def lines(self) -> list[str]:
        rows = [("", "before", "after"), *self.rows()]
        widths = [max(len(row[k]) for row in rows) for k in range(2)]
        table = [f"{what:<{widths[0]}}  {before:>{widths[1]}}  {after}" for what, before, after in rows]
        return [*table, *([f"no accuracies: {self.why_none}"] if self.why_none else [])]


def _lost(drift: dict[str, Any]) -> str:
    return f"{100 * drift['identity_lost'] / drift['n']:.0f} % ({drift['identity_lost']} of {drift['n']})"


def _share(score: dict[str, Any]) -> str:
    return f"{score['percent']:.1f} % ({score['correct']} of {score['n']})"


def page(found: Robustness, title: str, facts: dict[str, str]) -> str:
    """Return the model card of a robust encoder in Markdown."""
    rows = "\n".join(f"| {markdown(a)} | {markdown(b)} | {markdown(c)} |" for a, b, c in found.rows())
    known = "\n".join(f"- {name}: {markdown(value)}" for name, value in facts.items())
    none = f"\n\nThere are no accuracies: {markdown(found.why_none)}." if found.why_none else ""
    gallery = next(iter(found.embedding.values()))[0]["gallery"] if found.embedding else 0
    return (
        f"# {markdown(title)}\n\n{known}\n\n## What changed\n\n| | before | after |\n| --- | --- | --- |\n{rows}\n\n"
        f"Attack: {markdown(found.attack)}. Identity is lost if the nearest of {gallery} clean images is no longer the "
        f"attacked image's own; relative drift is in units of the distance to the nearest other image.{none}\n\n"
        "An index of old embeddings, or a head trained on them, can still be used only if the drift above is small and "
        "an image's own embedding is found in the old index. Each encoder has a linear probe of its own; that of the "
        "original is also tried on the robust encoder, as an old head. The weights keep the licence of the original.\n"
    )
