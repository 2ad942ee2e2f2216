"""The log of verdicts: a line for each block and stage, so that an evaluation can resume."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import finalize

import torch
from torch import Tensor

from unshaken.base.json_files import Lines
from unshaken.base.json_shapes import Number, Whole
from unshaken.base.locks import Busy, Lock
from unshaken.base.packed_bits import bytes_of, pack_bits, unpack_bits
from unshaken.base.serialize import short_hash
from unshaken.base.shard import Shard
from unshaken.base.types import Bool, Int
from unshaken.evaluation.verdicts import Verdicts

VERDICT = {"part": str, "block": Whole(0), "bits": str, "n": Whole(1), "seconds": Number(0)}
"""A line with the verdicts of a block; "part" is the stage."""
LINE = {"identity?": str} | {f"{name}?": shape for name, shape in VERDICT.items()}
"""A line of the file: the identity of the evaluation, or verdicts."""


class VerdictLog:
    """The verdicts reached so far, in memory and, if a folder is given, on disk.

    Each process appends to its own file and reads the files of all processes, so no verdict is computed twice. A file
    is named by the identity of its evaluation, network, images and environment, and its first line holds the identity
    too: another evaluation has other files. Damaged lines are ignored, and their blocks are judged again.
    """

    def __init__(self, folder: Path | None = None, *identity: object, label: str = "", shard: Shard = Shard()) -> None:
        self.identity = short_hash([str(part) for part in identity])
        self.folder = folder
        self.file = None
        self.bits: dict[tuple[str, int], Tensor] = {}
        self.spent: dict[tuple[str, int], float] = {}
        if folder is not None:
            part = "" if shard.count == 1 else f"-{shard.rank}of{shard.count}"
            self.file = folder / f"verdicts{label}-{self.identity[:8]}{part}.jsonl"
            self._lock()
            self._begin()
            self.reload()

    def _lock(self) -> None:
        """Lock the file: ValueError if another process has it. It is unlocked once this object is gone."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = Lock(self.file.with_name(f".{self.file.stem}.lock"), again=True)
        except Busy:
            raise ValueError(
                f"another process is at work on the same evaluation in {self.folder}: wait for it, or share the work "
                "by --shard 1/2 and 2/2"
            ) from None
        finalize(self, lock.close)

    def _begin(self) -> None:
        """Write this process's file again with its valid lines only."""
        self._lines = Lines(self.file, LINE)  # pyright: ignore[reportArgumentType]
        if aside := self._lines.set_aside():
            _warn(f"{self._lines.fault}; what is damaged is judged again, and the damaged file is {aside.name} now")
        self._lines.rewrite([{"identity": self.identity}, *_verdicts(self._lines, self.identity)])

    def reload(self) -> None:
        """Read what all processes have written by now."""
        for file in sorted(self.folder.glob("verdicts*.jsonl")) if self.folder is not None else ():
            lines = Lines(file, LINE)
            if lines.fault:
                _warn(f"{lines.fault}; what is damaged is judged again")
            for line in _verdicts(lines, self.identity):
                key = line["part"], line["block"]
                self.bits[key] = torch.from_numpy(unpack_bits(line["bits"], line["n"]))
                self.spent[key] = line["seconds"]

    def read(self, stage: str, block: int) -> Bool[Tensor, "n"] | None:
        """Return the verdicts of a stage on a block, or None if there are none yet."""
        return self.bits.get((stage, block))

    def verdicts(self, stage: str, blocks: Sequence[Int[Tensor, "n"]]) -> Verdicts:
        """Return a stage's verdicts on the whole set, as far as there are any.

        blocks  the indices of the images of each block
        """
        verdicts = Verdicts.none(sum(map(len, blocks)))
        for block, index in enumerate(blocks):
            if (bits := self.read(stage, block)) is not None:
                if len(bits) != len(index):
                    raise ValueError(
                        f"the verdicts of {stage} in {self.folder} are of {len(bits)} images in block {block}, "
                        f"and it has {len(index)}: move verdicts*.jsonl away to judge anew"
                    )
                verdicts.bits[index], verdicts.judged[index] = bits, True
        return verdicts

    def write(self, stage: str, block: int, bits: Bool[Tensor, "n"], seconds: float = 0.0) -> None:
        """Append a line. It is not forced to the disk: what a power failure takes is judged again."""
        self.bits[stage, block], self.spent[stage, block] = bits, round(seconds, 3)
        line = {"part": stage, "block": block, "bits": pack_bits(bits.numpy()), "n": len(bits)}
        line["seconds"] = self.spent[stage, block]
        if self.file is not None:
            self._lines.append(line)

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each stage, of all processes together."""
        total: dict[str, float] = defaultdict(float)
        for (stage, _), seconds in self.spent.items():
            total[stage] += seconds
        return total


def _verdicts(lines: Lines, identity: str) -> list[dict[str, Any]]:
    """Return the verdicts of this identity; none if the first line does not say whose they are."""
    if lines.values[:1] != [{"identity": identity}]:
        return []
    found = [line for line in lines.values[1:] if line.keys() == VERDICT.keys()]
    return [line for line in found if _has_valid_bits(line)]


def _has_valid_bits(line: dict[str, Any]) -> bool:
    try:
        return bytes_of(line["bits"], line["n"]) is not None
    except ValueError:
        return False


def _warn(line: str) -> None:
    """Print a line on stderr, once in the life of a process."""
    if line not in _WARNED:
        _WARNED.add(line)
        print(line, file=sys.stderr)


_WARNED: set[str] = set()
