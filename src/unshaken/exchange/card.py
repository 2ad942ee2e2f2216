"""The page that goes with an exported file: what it is, how it was made and measured, and how to load it."""

from __future__ import annotations

import json
from typing import Any

from unshaken.exchange.opening import Opened

INSIDE = "Pixels go in as numbers in [0, 1], in RGB order; the normalisation is inside the network: do not normalise."
OUTSIDE = "Pixels in [0, 1], RGB, must be normalised first, as the code below does: these weights cannot hold it."


def card(subject: Opened, form: str, file: str, route: str | None, results: list[dict[str, Any]], code: str) -> str:
    """Markdown. `results` are the contents of result files that belong to these weights; `code` loads the file."""
    about, backbone = subject.about, subject.backbone
    recipe = about.get("pretrain", {}).get("recipe", {})
    name, data = recipe.get("name", "unknown"), recipe.get("data", {}).get("name", "unknown")
    facts = {
        "network": f"{backbone.name}, for images of {backbone.stem} pixels and {backbone.channels} channels"
        + (f", first convolution with padding {backbone.padding}" if backbone.padding != 1 else ""),
        "output": _output(subject),
        "pre-trained by": f"{name} on {data}, seed {recipe.get('seed', 'unknown')}",
        "fine-tuned by": _finetuned(about),
        "imported from": _imported(about),
        "batch norms": f"those of the route {route!r} alone" if route else "one for all images",
        "normalisation": f"mean {list(backbone.mean)}, std {list(backbone.std)}",
        "digest of the weights": f"`{about['fingerprint']['weights']}`",
        "made from": f"a file with weights of digest `{about['exported']['from']}`",
    }
    inside = form in ("safetensors", "hub", "onnx")
    parts = [
        f"# {name} {subject.kind} ({backbone.name})",
        "\n".join(f"- {what}: {fact}" for what, fact in facts.items() if fact),
        "## Input\n\n" + (INSIDE if inside else OUTSIDE),
        f"## Loading `{file}`\n\n{code}",
        "## What was measured\n\n" + measured(results),
        "## Fingerprint\n\n" + _fingerprint(form, file),
        "## Licence\n\nThe code of unshaken is under the MIT licence. Under which terms the weights may be used, and "
        "the images that they were learned from, is not known to this file.",
    ]
    return "\n\n".join(parts) + "\n"


def _output(subject: Opened) -> str:
    if subject.kind == "encoder":
        return f"{subject.encoder.features} features of an image"
    names = subject.about["names"]
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    return f"logits of {len(names)} classes, in the order {shown}"


def _finetuned(about: dict[str, Any]) -> str:
    recipe = about.get("finetune", {}).get("recipe")
    if recipe is None:
        return ""
    method, data = (recipe.get(part, {}) for part in ("method", "data"))
    mode = str(method.get("type", "unknown")).upper()
    return f"{mode} on {data.get('name', 'unknown')}, seed {recipe.get('seed', 'unknown')}"


def _imported(about: dict[str, Any]) -> str:
    origin = about.get("pretrain", {})
    if "file" not in origin:
        return ""
    return origin["file"]["name"] + (f" (sha256 {origin['file']['sha256']})" if "sha256" in origin["file"] else "")


def _fingerprint(form: str, file: str) -> str:
    if form in ("safetensors", "hub"):
        return (
            "The file holds this network's answers to four fixed images; "
            f"`unshaken verify {file}` computes them anew and compares."
        )
    return (
        "This form has no place for one. The file that it was made from has: `unshaken verify` compares its answers "
        "and shows its digest."
    )


def measured(results: list[dict[str, Any]]) -> str:
    """Counts beside percentages, and the attack; or that nothing was."""
    if not results:
        return "Nothing, as far as this file knows."
    rows = [
        "| method | mode | data | n | clean accuracy | robust accuracy | attack |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        attack = json.dumps(result.get("exam", {}).get("attack", {})).replace('"', "")
        cells = (result.get("method"), str(result.get("mode")).upper(), result.get("data", {}).get("name"))
        counts = tuple(_share(result.get(score)) for score in ("standard", "robust"))
        n = (result.get("standard") or {}).get("n")
        rows.append("| " + " | ".join(str(cell) for cell in (*cells, n, *counts, attack)) + " |")
    return "\n".join(rows)


def _share(score: dict[str, Any] | None) -> str:
    return f"{score['percent']:.2f} % ({score['correct']} of {score['n']})" if score else "–"


def front_matter(subject: Opened, license: str) -> str:
    """What a hub reads at the top of the page."""
    recipe = subject.about.get("pretrain", {}).get("recipe", {})
    task = "image-classification" if subject.kind == "classifier" else "image-feature-extraction"
    lines = [
        "---",
        f"license: {json.dumps(license)}",
        "library_name: unshaken",
        f"pipeline_tag: {task}",
        "tags:",
        "- adversarial-robustness",
        "- self-supervised-learning",
        f"- {json.dumps(str(recipe.get('name', 'unknown')))}",
        "---",
    ]
    return "\n".join(lines) + "\n\n"
