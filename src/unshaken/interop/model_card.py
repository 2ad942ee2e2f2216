"""Model cards of exported files: how a network was trained and measured, and how to load it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml

from unshaken.base.safe_text import last_part, markdown, printable
from unshaken.interop.load import LoadedModel

INSIDE = "Images are RGB with pixels in [0, 1]. The network normalises them itself: do not normalise them before."
OUTSIDE = "Images are RGB with pixels in [0, 1]. They must be normalised before the network, as the code below does."
UNKNOWN = "unknown"


def card(
    subject: LoadedModel, form: str, file: str, route: str | None, results: list[dict[str, Any]], code: str
) -> str:
    """Return the model card in Markdown.

    results  the contents of result files of these weights
    code     Python that loads the file

    Text from the file is escaped, so that it makes no link, no image and no HTML.
    """
    metadata, backbone = subject.metadata, subject.backbone
    recipe = metadata.get("pretrain", {}).get("recipe", {})
    name = _text(recipe.get("name", UNKNOWN))
    facts = {
        "network": f"{_text(backbone.name)}, for images of {side_of(subject)} pixels and {backbone.channels} channels"
        + (f"; its first convolution has padding {backbone.padding}" if backbone.padding != 1 else ""),
        "output": _output(subject),
        "pre-trained by": f"{name} on {_data(recipe)}, seed {_text(recipe.get('seed', UNKNOWN))}",
        "teacher": _teacher(metadata.get("pretrain", {})),
        "attack in pre-training": _threats(recipe),
        "fine-tuned by": _finetuned(metadata),
        "attack in fine-tuning": _threats(metadata.get("finetune", {}).get("recipe", {})),
        "imported from": _imported(metadata),
        "batch norms": f"only those of the route {route!r}" if route else "one for all images",
        "dial": f"{metadata['dial']:g} of the way from original to robust weights" if "dial" in metadata else "",
        "normalisation": f"mean {list(backbone.mean)}, std {list(backbone.std)}",
        "digest of the weights": f"`{metadata['fingerprint']['weights']}`",
        "exported from": f"weights with digest `{metadata['exported']['from']}`",
    }
    inside = form in ("safetensors", "hub", "onnx")
    sections = [
        f"# {name} {subject.kind} ({_text(backbone.name)})",
        "\n".join(f"- {what}: {fact}" for what, fact in facts.items() if fact),
        "## Input\n\n" + (INSIDE if inside else OUTSIDE),
        f"## Loading `{printable(file)}`\n\n{code}",
        "## Results\n\n" + results_table(results),
        "## Fingerprint\n\n" + _fingerprint(form, file),
        "## Licence\n\nThe code of unshaken is under the MIT licence. This card does not say under which terms the "
        "weights may be used, or the images that they were trained on.",
    ]
    return "\n\n".join(sections) + "\n"


def side_of(subject: LoadedModel) -> int:
    """Return the side in pixels of the images that a network was trained on: its recipe's, else its backbone's."""
    if hasattr(subject.encoder.backbone, "patch_embed"):  # position embeddings are learned for one size
        return subject.backbone.image_size
    for part in ("finetune", "pretrain"):
        size = (subject.metadata.get(part, {}).get("recipe", {}).get("data") or {}).get("size")
        if type(size) is int and 1 <= size <= 1024:
            return size
    return subject.backbone.image_size


def _text(value: Any) -> str:
    return markdown(value)


def _data(recipe: dict[str, Any]) -> str:
    return _text(last_part((recipe.get("data") or {}).get("name", UNKNOWN)))


def _output(subject: LoadedModel) -> str:
    if subject.kind == "encoder":
        return f"{subject.encoder.features} features for each image"
    names = subject.metadata["names"]
    shown = ", ".join(_text(name) for name in names[:10]) + (", ..." if len(names) > 10 else "")
    return f"logits of {len(names)} classes, in the order {shown}"


def _teacher(pretrain: dict[str, Any]) -> str:
    """Describe the teacher and what it was trained on, as far as the metadata say it; empty without a teacher."""
    recipe = (pretrain.get("teacher") or {}).get("recipe", {})
    named = pretrain.get("recipe", {}).get("teacher")
    if not recipe and not named:
        return ""
    whose = f"{_text(recipe.get('name', UNKNOWN))} on {_data(recipe)}, seed {_text(recipe.get('seed', UNKNOWN))}"
    return whose if recipe else _text(named if str(named).count("/") == 1 else last_part(named))


def _threats(recipe: dict[str, Any]) -> str:
    """List the balls of a method's attacks, such as "l∞ 8/255"."""
    found = []
    for ball in _balls(recipe.get("method")):
        norm = {"Linf": "l∞", "L2": "l2", "L1": "l1"}.get(str(ball.get("type")), _text(ball.get("type")))
        eps = ball.get("eps")
        found.append(f"{norm} {_epsilon(eps)}" if isinstance(eps, (int, float)) else norm)
    return ", ".join(dict.fromkeys(found))


def _balls(node: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    if not isinstance(node, dict) or depth > 8:
        return
    for name, value in node.items():
        if name == "ball" and isinstance(value, dict):
            yield value
        yield from _balls(value, depth + 1)


def _epsilon(eps: float) -> str:
    whole = round(eps * 255, 6)
    return f"{whole:g}/255" if whole == int(whole) else f"{eps:g}"


def _finetuned(metadata: dict[str, Any]) -> str:
    recipe = metadata.get("finetune", {}).get("recipe")
    if recipe is None:
        return ""
    mode = _text(str((recipe.get("method") or {}).get("type", UNKNOWN)).upper())
    return f"{mode} on {_data(recipe)}, seed {_text(recipe.get('seed', UNKNOWN))}"


def _imported(metadata: dict[str, Any]) -> str:
    origin = metadata.get("pretrain", {})
    if "file" not in origin:
        return ""
    file = origin["file"]
    return _text(last_part(file.get("name", UNKNOWN))) + (
        f" (sha256 {_text(file['sha256'])})" if "sha256" in file else ""
    )


def _fingerprint(form: str, file: str) -> str:
    if form in ("safetensors", "hub"):
        return (
            "The file holds this network's outputs for four fixed images; "
            f"`unshaken verify {printable(file)}` computes them again and compares."
        )
    return (
        "A file of this form cannot hold a fingerprint. The file that it was exported from has one: `unshaken verify` "
        "compares its outputs and shows its digest."
    )


def results_table(results: list[dict[str, Any]]) -> str:
    """Return a Markdown table of results: percentages with counts, the number of test images, and the attack."""
    if not results:
        return "There are none with this export."
    rows = [
        "| method | mode | data | n | clean accuracy | robust accuracy | attack |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        evaluation = result.get("evaluation", {})
        attack = json.dumps(evaluation.get("attack", {})).replace('"', "")
        data = last_part((result.get("data") or {}).get("name", UNKNOWN))
        n = (result.get("standard") or {}).get("n", "–")
        first = f"the first {n}" if evaluation.get("limit") or evaluation.get("until") else n
        cells = [result.get("method"), str(result.get("mode")).upper(), data, first]
        cells += [_share(result.get(score)) for score in ("standard", "robust")]
        rows.append("| " + " | ".join([*(_text(cell) for cell in cells), markdown(attack, 2000)]) + " |")
    return "\n".join(rows)


def _share(score: dict[str, Any] | None) -> str:
    return f"{score['percent']:.2f} % ({score['correct']} of {score['n']})" if score else "–"


def front_matter(subject: LoadedModel, license: str, results: list[dict[str, Any]] = ()) -> str:  # pyright: ignore[reportArgumentType]
    """Return the YAML front matter, which a hub reads. With results it has a `model-index`, which the Hub shows."""
    recipe = subject.metadata.get("pretrain", {}).get("recipe", {})
    task = "image-classification" if subject.kind == "classifier" else "image-feature-extraction"
    name = printable(str(recipe.get("name", UNKNOWN)))
    front: dict[str, Any] = {
        "license": license,
        "library_name": "unshaken",
        "pipeline_tag": task,
        "tags": ["adversarial-robustness", "self-supervised-learning", name],
    }
    if results:
        entries = [_index_entry(result) for result in results]
        front["model-index"] = [{"name": f"{name} {printable(str(subject.backbone.name))}", "results": entries}]
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n"


def _index_entry(result: dict[str, Any]) -> dict[str, Any]:
    """Return one result as an entry of a model-index: a task, a set of images, and the measured accuracies."""
    data = result["data"]
    name = printable(last_part(str(data.get("name", UNKNOWN))))
    words = {"standard": "clean accuracy", "robust": f"robust accuracy ({_attack(result)})"}
    words |= {"autoattack": "robust accuracy (AutoAttack)"}
    metrics = [
        {
            "type": "accuracy",
            "name": f"{word}, {result[key]['correct']} of {result[key]['n']}",
            "value": result[key]["percent"],
        }
        for key, word in words.items()
        if key in result
    ]
    task = {"type": "image-classification", "name": f"classification ({str(result.get('mode')).upper()})"}
    split = {"split": printable(str(data["split"]))} if "split" in data else {}
    return {"task": task, "dataset": {"type": name, "name": name, **split}, "metrics": metrics}


def _attack(result: dict[str, Any]) -> str:
    """Describe the attack of the robust accuracy in words: PGD-20, l∞ 8/255."""
    attack = result.get("evaluation", {}).get("attack", {})
    return f"PGD-{attack.get('steps', '?')}, {_threats({'method': {'attack': attack}})}"
