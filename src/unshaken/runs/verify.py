"""Verification: attack images of a result again, or compare a network's fingerprint."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any

import torch

from unshaken.attacks.own import given_again
from unshaken.base.python_words import in_python
from unshaken.base.rng import Key
from unshaken.compute.runtime import Runtime
from unshaken.data.images import Images
from unshaken.data.source import DataSource
from unshaken.evaluation.classifier import Classifier
from unshaken.evaluation.judge import judge
from unshaken.evaluation.result import VERSION, evaluation_of, scores_that_disagree, verdicts_by_stage
from unshaken.evaluation.result_file import read_result
from unshaken.evaluation.verdicts import Verdicts
from unshaken.evaluation.zero_shot import STORED, zero_shot_classifier
from unshaken.interop.fingerprint import Comparison, verify_fingerprint

TOLERANCE = 0.02
"""The share of images whose verdicts may differ in another environment, where rounding and random numbers differ; one
image always may. In the same environment none may."""


@dataclass(frozen=True)
class Recheck:
    """How many verdicts agree with a result.

    n      number of images that are judged again: complete blocks, drawn with the seed
    same   the versions, the machine and the program are the same as the result's
    agree  by stage, the number of verdicts that agree
    fewer  by stage, the number of images, where the result does not have all n of them
    """

    n: int
    seed: int
    same: bool
    agree: dict[str, int]
    fewer: dict[str, int] = field(default_factory=dict)

    @property
    def allowed(self) -> int:
        """The number of verdicts of a stage that may differ."""
        return 0 if self.same else ceil(TOLERANCE * self.n)

    def fails(self, stage: str) -> bool:
        """Return whether too many verdicts of a stage differ."""
        n = self.fewer.get(stage, self.n)
        return n - self.agree[stage] > (0 if self.same else ceil(TOLERANCE * n))

    @property
    def holds(self) -> bool:
        """The verdicts agree, up to the number that may differ."""
        return not any(map(self.fails, self.agree))

    def lines(self) -> Iterator[str]:
        world = "the same environment" if self.same else "another environment (versions, machine or program)"
        yield f"{self.n} images (--seed {self.seed}) were judged again, in {world}, where {self.allowed} may differ"
        for stage, agree in self.agree.items():
            yield f"{stage}: {agree} of {self.fewer.get(stage, self.n)} agree{', too few' if self.fails(stage) else ''}"


def recheck(
    file: Path,
    sample: int = 100,
    seed: int | None = None,
    run: Path | None = None,
    data: str | None = None,
    runtime: Runtime = Runtime(),
    quiet: bool = False,
    attack: Any = None,
) -> Recheck:
    """Judge random blocks of a result's images again, with at least `sample` images, and compare the verdicts.

    Blocks are judged as a unit, since the random starts of an attack are drawn for a block: so in the same environment
    the same block gives the same bits.

    seed    seed of the random blocks; by default a new one, which is printed
    run     the folder of the classifier's run, if the result's file is not in it
    data    the name of the set, if it is not in the run
    attack  for a result of an attack of your own: the attack, or its name, mine.py:attack

    Raises ValueError if the weights or the images are not the result's.
    """
    if sample < 1:
        raise ValueError(f"a sample has at least 1 image, not {sample}")
    result, seed = read_result(file), secrets.randbelow(1 << 31) if seed is None else seed
    evaluation = evaluation_of(result)
    evaluation = replace(evaluation, until=None, attack=given_again(evaluation.attack, attack))
    classifier, images = _subject(file, result, run, data)
    if wrong := scores_that_disagree(result):
        raise ValueError(f"{file} was altered: the numbers of {wrong[0]} are not those of its verdicts")
    recorded = verdicts_by_stage(evaluation, result)
    blocks = evaluation.blocks(len(evaluation.select(images)))
    drawn = _drawn(blocks, recorded, sample, seed)
    runtime = replace(runtime, precision=result["world"].get("search", "float32"))
    with classifier.prepared(images, runtime) as model:
        found = judge(evaluation, model.net, model.images, quiet=quiet, search=model.search, only=drawn)
        same = result.get("version") == VERSION and result["world"] == model.world
    if gone := next((stage for stage in recorded if stage not in found), None):
        raise ValueError(
            f"{file} has {gone}, and {evaluation.published} has other images now: put back those that were judged"
        )
    at = torch.cat([blocks[block] for block in drawn])
    return Recheck(len(at), seed, same, *_agreement(at, recorded, found))


def _agreement(
    at: torch.Tensor, recorded: dict[str, Verdicts], found: Mapping[str, Verdicts]
) -> tuple[dict[str, int], dict[str, int]]:
    """Return by stage how many verdicts agree, and on how many images, where these are fewer than all of `at`."""
    agree, fewer = {}, {}
    for stage, before in recorded.items():
        both = at[before.judged[at] & found[stage].judged[at]]
        agree[stage] = int((found[stage].bits[both] == before.bits[both]).sum())
        fewer |= {stage: len(both)} if len(both) < len(at) else {}
    return agree, fewer


def _subject(file: Path, result: dict[str, Any], run: Path | None, data: str | None) -> tuple[Classifier, Images]:
    """Return the classifier and the images that a result is about."""
    if run is None and result["method"].startswith(("timm/", "torchvision/")):
        classifier, size = Classifier.of_name(result["method"])
        if data is None:
            raise ValueError(f"the result does not say where the images of {result['method']} are: name them by --data")
        source = DataSource(data, size=size)
        if classes := result["finetune"]["recipe"].get("classes"):
            classifier = classifier.with_logits(classes)
    elif "zero_shot" in result["finetune"]["recipe"]:
        classifier, source = _zero_shot(file, result, run, data)
    else:
        classifier = Classifier.of_run(run or file.parent)
        source = replace(classifier.source, name=data, size=None, given=None) if data else classifier.source
    if classifier.weights != result["weights"]:
        raise ValueError(
            f"{file} is of weights {result['weights']}, and these have {classifier.weights}: name their run by --run"
        )
    images = classifier.images(source, held_out=result["data"]["split"] == "held-out")
    if images.digest != result["data"]["digest"]:
        raise ValueError(
            f"{file} is of images with digest {result['data']['digest']}, and these have {images.digest}: name them "
            "by --data"
        )
    return classifier, images


def _zero_shot(file: Path, result: dict[str, Any], run: Path | None, data: str | None) -> tuple[Classifier, DataSource]:
    """Return the zero-shot classifier of a result, which lies in a folder beside its encoder, and its images."""
    folder = file.parent.parent
    above = folder.parent.with_name(f"{folder.parent.name}.safetensors")
    encoder = run or (folder.parent if folder.parent.is_dir() and not above.is_file() else above)
    classifier, backbone = zero_shot_classifier(encoder, folder / STORED, any_encoder=True)
    if data is None:
        raise ValueError("the result does not say where its images are: name them by --data")
    if classes := result["finetune"]["recipe"].get("classes"):
        classifier = classifier.with_logits(classes)
    return classifier, DataSource(data, size=backbone.image_size)


def _drawn(blocks: tuple[torch.Tensor, ...], recorded: dict[str, Verdicts], sample: int, seed: int) -> list[int]:
    """Return the numbers of random blocks that the result has verdicts of, until they hold enough images.

    If a stage includes only some blocks, one of these is drawn too.
    """
    order = torch.randperm(len(blocks), generator=(Key(seed) / "receipt").on("cpu")).tolist()
    has = {stage: [b for b in order if bool(found.judged[blocks[b]].all())] for stage, found in recorded.items()}
    drawn = list(dict.fromkeys(mine[0] for mine in has.values() if mine and len(mine) < len(has["clean"])))
    for block in has["clean"]:
        if sum(len(blocks[each]) for each in drawn) >= sample:
            break
        drawn += [block] if block not in drawn else []
    if not drawn:
        raise ValueError("the result has no block of images with all verdicts, so there is nothing to judge again")
    return drawn


@in_python
def verify(file: Path | str, **how: Any) -> Recheck | Comparison:
    """Check a result, or a network. The answer's `.holds` is the verdict, and `.lines()` give the reasons.

    file  a result, NAME.json: some of its images are attacked again (`how`: see `recheck`); or an encoder, a classifier
          or a run: its network's answers are compared with its fingerprint

    Raises ValueError if a network has no fingerprint.
    """
    path = Path(file)
    if path.suffix == ".json":
        return recheck(path, **how)
    proof = verify_fingerprint(path)
    if proof is None:
        raise ValueError(f"{path} has no fingerprint, so nothing was compared; `unshaken verify --write` takes one")
    return proof
