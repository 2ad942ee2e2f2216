"""Clean and robust accuracy along the dial, from the original encoder to the robust one"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from unshaken.attacks.ball import in_words
from unshaken.base.python_words import in_python
from unshaken.base.ranges import Several, Unit, ranged
from unshaken.base.rng import Key
from unshaken.base.types import Float
from unshaken.compute.runtime import Runtime
from unshaken.data.images import Images
from unshaken.data.source import DataSource
from unshaken.evaluation.class_embeddings import ClassEmbeddings, read_class_embeddings
from unshaken.evaluation.class_map import index_of
from unshaken.evaluation.protocol import Evaluation
from unshaken.evaluation.zero_shot import ZeroShot
from unshaken.interop.dial import between, ends
from unshaken.interop.load import load_model
from unshaken.nets.network import Encoder, frozen
from unshaken.runs.evaluate import evaluate
from unshaken.runs.workspace import Workspace
from unshaken.train.image_sets import check_images_fit

BATCH = 64


@dataclass(frozen=True)
@ranged
class Dial:
    """The settings at which an encoder is measured, and its classifier."""

    points: tuple[Unit, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Settings of the dial: 0 is the original or the clean route, 1 the robust encoder or the adversarial route."""
    original: str | None = None
    """Encoder at 0: a file of unshaken, or the file that the encoder was imported from. Without it the dial turns from
    the encoder's clean route to its adversarial one."""
    class_embeddings: Path | None = None
    """Class embeddings for zero-shot classification. By default a class is the mean embedding of some training
    images."""
    shots: Several = 50
    """Training images of each class from which these means are taken, at each setting anew."""


@in_python
def dial(
    path: Path, data: DataSource, how: Dial, evaluation: Evaluation, runtime: Runtime = Runtime(), quiet: bool = False
) -> list[dict[str, Any]]:
    """Return clean and robust accuracy at each setting, as counts with intervals. The same test images and attacks."""
    model = load_model(path)
    first, last = ends(model, how.original)
    source = replace(data, size=data.size or model.backbone.image_size)
    test = check_images_fit(source.load("test"), model.backbone)
    fixed = _fixed(how, last, test) if how.class_embeddings else None
    train = None if fixed else check_images_fit(source.load("train"), model.backbone)
    found = []
    for point in how.points:
        encoder = between(first, last, point)
        classes = fixed or class_means(encoder, train, how.shots, Key(evaluation.seed))  # pyright: ignore[reportArgumentType]
        result = evaluate(ZeroShot(encoder, classes), test, evaluation, Workspace(runtime=runtime, quiet=quiet))
        assert result is not None
        entry = {"dial": point, "clean": _score(result["standard"]), "robust": _score(result["robust"])}
        entry |= {"autoattack": _score(result["autoattack"])} if "autoattack" in result else {}
        head = "class embeddings" if fixed else "class means"
        found.append(entry | {"attack": in_words(evaluation.attack.ball), "head": head})
    return found


def _score(score: dict[str, Any]) -> dict[str, Any]:
    return {name: score[name] for name in ("correct", "n", "percent", "interval") if name in score}


def _fixed(how: Dial, encoder: Encoder, test: Images) -> ClassEmbeddings:
    """Return the class embeddings of the file, in the order of the images' classes."""
    found = read_class_embeddings(how.class_embeddings, encoder.features)  # pyright: ignore[reportArgumentType]
    index = index_of(test.names, [(name,) for name in found.names]) if found.names else None
    if index is None and len(found.weight) != len(test.names):
        raise ValueError(f"{how.class_embeddings} has {len(found.weight)} classes, and the images {len(test.names)}")
    if index is None:
        return found
    bias = None if found.bias is None else found.bias[index]
    return replace(found, weight=found.weight[index], names=tuple(test.names), bias=bias)


@torch.no_grad()
def class_means(encoder: Encoder, images: Images, shots: int, key: Key) -> ClassEmbeddings:
    """Return the directions of the mean unit embedding of each class, from `shots` training images of each."""
    if images.label is None:
        raise ValueError(f"the images of {images.name} have no labels: name class embeddings")
    order = torch.randperm(len(images), generator=(key / "shots").on("cpu"))
    weights: list[Float[Tensor, "D"]] = []
    with frozen(encoder):
        for k in range(len(images.names)):
            index = order[images.label.cpu()[order] == k][:shots]
            if not len(index):
                raise ValueError(f"class {images.names[k]!r} has no training image")
            z = torch.cat([encoder(images.floats(block)) for block in index.split(BATCH)])
            weights.append(normalize(normalize(z.float(), dim=1).mean(0), dim=0))
    return ClassEmbeddings(torch.stack(weights), tuple(images.names))
