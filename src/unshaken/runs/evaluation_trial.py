"""A trial of an evaluation: measured answers and gradients, and what they say about its time"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from unshaken.attacks.pgd import PGD
from unshaken.base.amounts import amount
from unshaken.base.progress import format_duration
from unshaken.base.rng import Key
from unshaken.compute.runtime import Runtime, measured_memory
from unshaken.data.images import Images
from unshaken.evaluation.classifier import Classifier
from unshaken.evaluation.protocol import Evaluation
from unshaken.nets.network import frozen
from unshaken.train.throughput import seconds_of


def evaluation_record(subject: Classifier, images: Images, evaluation: Evaluation, runtime: Runtime) -> dict[str, Any]:
    """Measure forward passes and gradients of a classifier, and return an evaluation's work as plain numbers."""
    memory = measured_memory(runtime.open().device)
    with subject.prepared(images, runtime) as model:
        judged = evaluation.select(model.images)
        n = len(judged)
        batch = min(evaluation.batch_size, n, 64)
        x = judged.floats(slice(0, batch))
        answer = partial(model.net, x, "adv")
        with torch.no_grad():
            seconds_of(answer)  # the first one allocates memory
            forward = seconds_of(answer)
        each = PGD(evaluation.attack.ball, steps=2)
        climb = partial(each.maximise, lambda x: model.net(x, "adv").square().sum(), x, Key(1).on(x.device))
        with frozen(model.net):
            seconds_of(climb)
            gradient = seconds_of(climb) / each.steps
    calls = {stage.name: stage.calls for stage in evaluation.stages}
    pgd = sum(count for name, count in calls.items() if name.startswith("pgd"))
    auto = sum(calls.values()) - pgd
    return {
        "data": f"{images.name}, {images.split}",
        "images": n,
        "pixels": images.pixels.shape[-1],
        "stages": [stage.name for stage in evaluation.stages],
        "batch_size": evaluation.batch_size,
        "batch_size_of_trial": batch,
        "gradients_per_second": batch / gradient,
        "answers_per_second": batch / forward,
        "seconds": (forward * len(evaluation.stages) + gradient * pgd) * n / batch,
        "autoattack_seconds_at_most": gradient * auto * n / batch if auto else None,
        "memory_gb": memory(),
    }


def evaluation_lines(found: dict[str, Any], evaluation: Evaluation) -> list[str]:
    """Describe an evaluation's work and its expected time."""
    lines = [
        f"{amount(found['images'], 'image')} of {found['pixels']} pixels ({found['data']}); {len(found['stages'])} "
        f"stages in blocks of {found['batch_size']}",
        f"measured: {found['gradients_per_second']:,.0f} gradients/s and {found['answers_per_second']:,.0f} answers/s",
        f"expected: about {format_duration(found['seconds'])}"
        + (", and the time to make the corrupted images" if evaluation.corruptions else ""),
    ]
    if found["autoattack_seconds_at_most"] is not None:
        most = format_duration(found["autoattack_seconds_at_most"])
        lines.append(f"AutoAttack: at most {most} more, if every image holds out to its end; wrong answers take none")
        lines.append("cheaper: --until 1.0 stops when the interval is one point wide; --autoattack-limit 1000")
    memory = f"memory: {found['memory_gb']:.1f} GB at most in the trial, with {found['batch_size_of_trial']} images"
    return [*lines, f"{memory}; a block has {found['batch_size']}"]
