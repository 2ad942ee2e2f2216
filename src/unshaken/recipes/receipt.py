"""A result as a receipt: some of its images are attacked again, as they were, and their verdicts held against it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import torch

from unshaken.base.keys import Key
from unshaken.data.images import Images
from unshaken.data.source import Source
from unshaken.evaluate.exam import Exam
from unshaken.evaluate.reading import read_result
from unshaken.evaluate.result import VERSION, by_part, misstated
from unshaken.evaluate.verdicts import Verdicts
from unshaken.recipes.candidate import Candidate
from unshaken.train.runtime import Runtime

TOLERANCE = 0.02
"""What part of the images may get other verdicts in another world, where sums round and generators draw otherwise;
one image may in any case. In the same world none may."""


@dataclass(frozen=True)
class Receipt:
    """What judging again found.

    n      images, in whole blocks, drawn with the seed
    same   whether versions, machine and program are those of the result
    agree  by part, how many verdicts are those of the result
    """

    n: int
    seed: int
    same: bool
    agree: dict[str, int]

    @property
    def allowed(self) -> int:
        """How many verdicts of a part may differ."""
        return 0 if self.same else ceil(TOLERANCE * self.n)

    @property
    def holds(self) -> bool:
        return all(self.n - agree <= self.allowed for agree in self.agree.values())

    def lines(self) -> Iterator[str]:
        world = "the same world" if self.same else "another world (versions, machine or program)"
        yield f"{self.n} images (--seed {self.seed}) were judged again, in {world}, where {self.allowed} may differ"
        for part, agree in self.agree.items():
            yield f"{part}: {agree} of {self.n} agree{'' if self.n - agree <= self.allowed else ', too few'}"


def receipt(
    file: Path,
    sample: int = 100,
    seed: int | None = None,
    run: Path | None = None,
    data: str | None = None,
    runtime: Runtime = Runtime(),
    quiet: bool = False,
) -> Receipt:
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
    exam, candidate, images = Exam.read(result["exam"]), *_subject(file, result, run, data)
    exam = replace(exam, until=None)
    if wrong := misstated(result):
        raise ValueError(f"{file} was altered: the numbers of {wrong[0]} are not those of its verdicts")
    recorded = by_part(exam, result)
    blocks = exam.blocks(len(exam.of(images)))
    drawn = _drawn(blocks, recorded, sample, seed)
    runtime = replace(runtime, precision=result["world"].get("search", "float32"))
    with candidate.seated(images, runtime) as seat:
        found = exam.judge(seat.net, seat.images, quiet=quiet, search=seat.search, chosen=drawn)
        same = result.get("version") == VERSION and result["world"] == seat.world
    at = torch.cat([blocks[block] for block in drawn])
    agree = {part: int((found[part].bits[at] == recorded[part].bits[at]).sum()) for part in recorded}
    return Receipt(len(at), seed, same, agree)


def _subject(file: Path, result: dict[str, Any], run: Path | None, data: str | None) -> tuple[Candidate, Images]:
    """The classifier and the images that a result speaks of."""
    if run is None and result["method"].startswith(("timm/", "torchvision/")):
        candidate, side = Candidate.of_name(result["method"])
        if data is None:
            raise ValueError(f"which images {result['method']} was judged on is not in the result: name them by --data")
        source = Source(data, size=side)
    else:
        candidate = Candidate.of_run(run or file.parent)
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
    """Blocks at random, of those that the result has all verdicts of, until they hold enough images."""
    drawn: list[int] = []
    for block in torch.randperm(len(blocks), generator=(Key(seed) / "receipt").on("cpu")).tolist():
        if sum(len(blocks[each]) for each in drawn) >= sample:
            break
        if all(bool(verdicts.judged[blocks[block]].all()) for verdicts in recorded.values()):
            drawn.append(block)
    if not drawn:
        raise ValueError("the result has no block of images with all verdicts, so there is nothing to judge again")
    return drawn
