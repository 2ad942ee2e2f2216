"""A result as a receipt: some of its images are attacked again, as they were, and their verdicts held against it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any

import torch

from unshaken.base.rng import Key
from unshaken.compute.runtime import Runtime
from unshaken.data.images import Images
from unshaken.data.source import DataSource
from unshaken.evaluation.classifier import Classifier
from unshaken.evaluation.result import VERSION, by_part, evaluation_of, misstated
from unshaken.evaluation.result_file import read_result
from unshaken.evaluation.verdicts import Verdicts
from unshaken.interop.fingerprint import Comparison, verify_fingerprint

TOLERANCE = 0.02
"""What part of the images may get other verdicts in another world, where sums round and generators draw otherwise;
one image may in any case. In the same world none may."""


@dataclass(frozen=True)
class Recheck:
    """What judging again found.

    n      images, in whole blocks, drawn with the seed
    same   whether versions, machine and program are those of the result
    agree  by part, how many verdicts are those of the result
    fewer  of how many, by part, where the result has not all of these images
    """

    n: int
    seed: int
    same: bool
    agree: dict[str, int]
    fewer: dict[str, int] = field(default_factory=dict)

    @property
    def allowed(self) -> int:
        """How many verdicts of a part may differ."""
        return 0 if self.same else ceil(TOLERANCE * self.n)

    def lacking(self, part: str) -> bool:
        """Whether too many verdicts of a part differ."""
        n = self.fewer.get(part, self.n)
        return n - self.agree[part] > (0 if self.same else ceil(TOLERANCE * n))

    @property
    def holds(self) -> bool:
        return not any(map(self.lacking, self.agree))

    def lines(self) -> Iterator[str]:
        world = "the same world" if self.same else "another world (versions, machine or program)"
        yield f"{self.n} images (--seed {self.seed}) were judged again, in {world}, where {self.allowed} may differ"
        for part, agree in self.agree.items():
            yield f"{part}: {agree} of {self.fewer.get(part, self.n)} agree{', too few' if self.lacking(part) else ''}"


def recheck(
    file: Path,
    sample: int = 100,
    seed: int | None = None,
    run: Path | None = None,
    data: str | None = None,
    runtime: Runtime = Runtime(),
    quiet: bool = False,
) -> Recheck:
    """Judge again whole blocks of a result's images, drawn at random, of together at least `sample` images.

    An image's verdict depends on the block that it was attacked in, where its random starts are drawn; so in the same
    world a block has the same bits again.

    seed  of the draw of blocks; a fresh one if it is not given, which is then said
    run   the classifier's, if the result does not lie in it; data names the images if the run does not
    Raises ValueError if weights or images are not those of the result.
    """
    if sample < 1:
        raise ValueError(f"a sample has at least 1 image, not {sample}")
    result, seed = read_result(file), secrets.randbelow(1 << 31) if seed is None else seed
    evaluation, candidate, images = evaluation_of(result), *_subject(file, result, run, data)
    evaluation = replace(evaluation, until=None)
    if wrong := misstated(result):
        raise ValueError(f"{file} was altered: the numbers of {wrong[0]} are not those of its verdicts")
    recorded = by_part(evaluation, result)
    blocks = evaluation.blocks(len(evaluation.of(images)))
    drawn = _drawn(blocks, recorded, sample, seed)
    runtime = replace(runtime, precision=result["world"].get("search", "float32"))
    with candidate.prepared(images, runtime) as seat:
        found = evaluation.judge(seat.net, seat.images, quiet=quiet, search=seat.search, chosen=drawn)
        same = result.get("version") == VERSION and result["world"] == seat.world
    if gone := next((part for part in recorded if part not in found), None):
        raise ValueError(
            f"{file} has {gone}, and {evaluation.published} has other images now: put back those that were judged"
        )
    at = torch.cat([blocks[block] for block in drawn])
    agree, fewer = {}, {}
    for part, known in recorded.items():
        both = at[known.judged[at] & found[part].judged[at]]
        agree[part] = int((found[part].bits[both] == known.bits[both]).sum())
        fewer |= {part: len(both)} if len(both) < len(at) else {}
    return Recheck(len(at), seed, same, agree, fewer)


def _subject(file: Path, result: dict[str, Any], run: Path | None, data: str | None) -> tuple[Classifier, Images]:
    """The classifier and the images that a result speaks of."""
    if run is None and result["method"].startswith(("timm/", "torchvision/")):
        candidate, side = Classifier.of_name(result["method"])
        if data is None:
            raise ValueError(f"which images {result['method']} was judged on is not in the result: name them by --data")
        source = DataSource(data, size=side)
        if classes := result["finetune"]["recipe"].get("classes"):
            candidate = candidate.answering(classes)
    else:
        candidate = Classifier.of_run(run or file.parent)
        source = replace(candidate.source, name=data, size=None) if data else candidate.source
    if candidate.weights != result["weights"]:
        raise ValueError(
            f"{file} is of weights {result['weights']}, and these have {candidate.weights}: name their run by --run"
        )
    images = candidate.images(source, held_out=result["data"]["split"] == "held-out")
    if images.digest != result["data"]["digest"]:
        raise ValueError(
            f"{file} is of images with digest {result['data']['digest']}, and these have {images.digest}: name them "
            "by --data"
        )
    return candidate, images


def _drawn(blocks: tuple[torch.Tensor, ...], recorded: dict[str, Verdicts], sample: int, seed: int) -> list[int]:
    """Blocks at random, of those that the result has verdicts of, until they hold enough images.

    Of a part that is for some blocks alone, one of these is among them.
    """
    order = torch.randperm(len(blocks), generator=(Key(seed) / "receipt").on("cpu")).tolist()
    has = {part: [b for b in order if bool(known.judged[blocks[b]].all())] for part, known in recorded.items()}
    drawn = list(dict.fromkeys(mine[0] for mine in has.values() if mine and len(mine) < len(has["clean"])))
    for block in has["clean"]:
        if sum(len(blocks[each]) for each in drawn) >= sample:
            break
        drawn += [block] if block not in drawn else []
    if not drawn:
        raise ValueError("the result has no block of images with all verdicts, so there is nothing to judge again")
    return drawn


def verify(file: Path | str, **how: Any) -> Recheck | Comparison:
    """Check that a result, or a network, is what it says. `.holds` tells whether, `.lines()` tell why.

    file  a result, NAME.json, some of whose images are then attacked again (see recheck for `how`); or an encoder or
          classifier file or a run, whose answers are held against its fingerprint

    Raises ValueError if a network has no fingerprint.
    """
    path = Path(file)
    if path.suffix == ".json":
        return recheck(path, **how)
    proof = verify_fingerprint(path)
    if proof is None:
        raise ValueError(f"{path} has no fingerprint, so nothing was compared; `unshaken verify --write` takes one")
    return proof
