"""The page that goes with an exported file: what it is, how it was made and measured, and how to load it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from unshaken.base.safe_text import last_part, markdown, printable
from unshaken.interop.load import LoadedModel

INSIDE = "Pixels go in as numbers in [0, 1], in RGB order; the normalisation is inside the network: do not normalise."
OUTSIDE = "Pixels in [0, 1], RGB, must be normalised first, as the code below does: these weights cannot hold it."
UNKNOWN = "unknown"


def card(
    subject: LoadedModel, form: str, file: str, route: str | None, results: list[dict[str, Any]], code: str
) -> str:
    """Markdown. `results` are the contents of result files that belong to these weights; `code` loads the file.

    What the file says of itself is shown as it is: it makes no link, no image and no HTML.
    """
    about, backbone = subject.about, subject.backbone
    recipe = about.get("pretrain", {}).get("recipe", {})
    name = _text(recipe.get("name", UNKNOWN))
    facts = {
        "network": f"{_text(backbone.name)}, for images of {side_of(subject)} pixels and {backbone.channels} channels"
        + (f", first convolution with padding {backbone.padding}" if backbone.padding != 1 else ""),
        "output": _output(subject),
        "pre-trained by": f"{name} on {_data(recipe)}, seed {_text(recipe.get('seed', UNKNOWN))}",
        "teacher": _teacher(about.get("pretrain", {})),
        "attacked in training": _threats(recipe),
        "fine-tuned by": _finetuned(about),
        "attacked in fine-tuning": _threats(about.get("finetune", {}).get("recipe", {})),
        "imported from": _imported(about),
        "batch norms": f"those of the route {route!r} alone" if route else "one for all images",
        "normalisation": f"mean {list(backbone.mean)}, std {list(backbone.std)}",
        "digest of the weights": f"`{about['fingerprint']['weights']}`",
        "made from": f"a file with weights of digest `{about['exported']['from']}`",
    }
    inside = form in ("safetensors", "hub", "onnx")
    parts = [
        f"# {name} {subject.kind} ({_text(backbone.name)})",
        "\n".join(f"- {what}: {fact}" for what, fact in facts.items() if fact),
        "## Input\n\n" + (INSIDE if inside else OUTSIDE),
        f"## Loading `{printable(file)}`\n\n{code}",
        "## What was measured\n\n" + measured(results),
        "## Fingerprint\n\n" + _fingerprint(form, file),
        "## Licence\n\nThe code of unshaken is under the MIT licence. Under which terms the weights may be used, and "
        "the images that they were learned from, is not known to this file.",
    ]
    return "\n\n".join(parts) + "\n"


def side_of(subject: LoadedModel) -> int:
    """Of the images that a network was trained on, in pixels: its recipe's size, or what its stem is for."""
    if hasattr(subject.encoder.backbone, "patch_embed"):  # positions are learned for one side
        return subject.backbone.image_size
    for part in ("finetune", "pretrain"):
        size = (subject.about.get(part, {}).get("recipe", {}).get("data") or {}).get("size")
        if type(size) is int and 1 <= size <= 1024:
            return size
    return subject.backbone.image_size


def _text(value: Any) -> str:
    return markdown(value)


def _data(recipe: dict[str, Any]) -> str:
    return _text(last_part((recipe.get("data") or {}).get("name", UNKNOWN)))


def _output(subject: LoadedModel) -> str:
    if subject.kind == "encoder":
        return f"{subject.encoder.features} features of an image"
    names = subject.about["names"]
    shown = ", ".join(_text(name) for name in names[:10]) + (", ..." if len(names) > 10 else "")
    return f"logits of {len(names)} classes, in the order {shown}"


def _teacher(pretrain: dict[str, Any]) -> str:
    """Whose encoder it learned from, and what that was trained on, as far as the file knows."""
    recipe = (pretrain.get("teacher") or {}).get("recipe", {})
    named = pretrain.get("recipe", {}).get("teacher")
    if not recipe and not named:
        return ""
    whose = f"{_text(recipe.get('name', UNKNOWN))} on {_data(recipe)}, seed {_text(recipe.get('seed', UNKNOWN))}"
    return whose if recipe else _text(named if str(named).count("/") == 1 else last_part(named))


def _threats(recipe: dict[str, Any]) -> str:
    """The balls that a method's attacks stay in: l∞ 8/255."""
    found = []
    for ball in _balls(recipe.get("method")):
        norm = {"Linf": "l∞", "L2": "l2"}.get(str(ball.get("type")), _text(ball.get("type")))
        eps = ball.get("eps")
        found.append(f"{norm} {_epsilon(eps)}" if isinstance(eps, (int, float)) else norm)
    return ", ".join(dict.fromkeys(found))


def _balls(node: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    if not isinstance(node, dict) or depth > 8:
        return
    for name, part in node.items():
        if name == "ball" and isinstance(part, dict):
            yield part
        yield from _balls(part, depth + 1)


def _epsilon(eps: float) -> str:
    whole = round(eps * 255, 6)
    return f"{whole:g}/255" if whole == int(whole) else f"{eps:g}"


def _finetuned(about: dict[str, Any]) -> str:
    recipe = about.get("finetune", {}).get("recipe")
    if recipe is None:
        return ""
    mode = _text(str((recipe.get("method") or {}).get("type", UNKNOWN)).upper())
    return f"{mode} on {_data(recipe)}, seed {_text(recipe.get('seed', UNKNOWN))}"


def _imported(about: dict[str, Any]) -> str:
    origin = about.get("pretrain", {})
    if "file" not in origin:
        return ""
    file = origin["file"]
    return _text(last_part(file.get("name", UNKNOWN))) + (
        f" (sha256 {_text(file['sha256'])})" if "sha256" in file else ""
    )


def _fingerprint(form: str, file: str) -> str:
    if form in ("safetensors", "hub"):
        return (
            "The file holds this network's answers to four fixed images; "
            f"`unshaken verify {printable(file)}` computes them anew and compares."
        )
    return (
        "This form has no place for one. The file that it was made from has: `unshaken verify` compares its answers "
        "and shows its digest."
    )


def measured(results: list[dict[str, Any]]) -> str:
    """Counts beside percentages, on how many of the test images, and the attack; or that nothing was."""
    if not results:
        return "Nothing, as far as this file knows."
    rows = [
        "| method | mode | data | n | clean accuracy | robust accuracy | attack |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        evaluation = result.get("evaluation", {})
        attack = json.dumps(evaluation.get("attack", {})).replace('"', "")
        data = last_part((result.get("data") or {}).get("name", UNKNOWN))
        n = (result.get("standard") or {}).get("n", "–")
        first = f"{n} (the first)" if evaluation.get("limit") or evaluation.get("until") else n
        cells = [result.get("method"), str(result.get("mode")).upper(), data, first]
        cells += [_share(result.get(score)) for score in ("standard", "robust")]
        rows.append("| " + " | ".join([*(_text(cell) for cell in cells), markdown(attack, 2000)]) + " |")
    return "\n".join(rows)


def _share(score: dict[str, Any] | None) -> str:
    return f"{score['percent']:.2f} % ({score['correct']} of {score['n']})" if score else "–"


def front_matter(subject: LoadedModel, license: str) -> str:
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
        f"- {json.dumps(printable(recipe.get('name', UNKNOWN)))}",
        "---",
    ]
    return "\n".join(lines) + "\n\n"
