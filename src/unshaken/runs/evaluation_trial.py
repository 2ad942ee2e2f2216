"""A trial of an evaluation: measured answers and gradients, and what they say about its time"""

from __future__ import annotations

from functools import partial

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


def evaluation_lines(subject: Classifier, images: Images, evaluation: Evaluation, runtime: Runtime) -> list[str]:
    """Measure forward passes and gradients of a classifier, and describe an evaluation's work and expected time."""
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
    stages = evaluation.stages
    calls = {stage.name: stage.calls for stage in stages}
    pgd = sum(count for name, count in calls.items() if name.startswith("pgd"))
    auto = sum(calls.values()) - pgd
    answers = forward * len(stages)
    total = (answers + gradient * pgd) * n / batch
    lines = [
        f"{amount(n, 'image')} of {images.pixels.shape[-1]} pixels ({images.name}, {images.split}); {len(stages)} "
        f"stages in blocks of {evaluation.batch_size}",
        f"measured: {batch / gradient:,.0f} gradients/s and {batch / forward:,.0f} answers/s",
        f"expected: about {format_duration(total)}"
        + (", and the time to make the corrupted images" if evaluation.corruptions else ""),
    ]
    if auto:
        most = format_duration(gradient * auto * n / batch)
        lines.append(f"AutoAttack: at most {most} more, if every image holds out to its end; wrong answers take none")
        lines.append("cheaper: --until 1.0 stops when the interval is one point wide; --autoattack-limit 1000")
    said = f"memory: {memory():.1f} GB at most in the trial, with {batch} images; a block has {evaluation.batch_size}"
    return [*lines, said]
