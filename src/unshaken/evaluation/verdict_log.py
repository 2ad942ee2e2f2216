"""Verdicts as they come, block by block: a line each in a file, so that an evaluation stopped anywhere goes on there."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import finalize

import torch
from torch import Tensor

from unshaken.base import packed_bits as text
from unshaken.base.json_files import Lines
from unshaken.base.json_shapes import Number, Whole
from unshaken.base.locks import Busy, Lock
from unshaken.base.serialize import short_hash
from unshaken.base.shard import Shard
from unshaken.base.types import Bool, Int
from unshaken.evaluation.verdicts import Verdicts

VERDICT = {"part": str, "block": Whole(0), "bits": str, "n": Whole(1), "seconds": Number(0)}
LINE = {"identity?": str} | {f"{name}?": shape for name, shape in VERDICT.items()}
"""What a line says: whose verdicts these are, or the verdicts of a block."""


class VerdictLog:
    """What was judged, in memory and, if a folder is given, on disk.

    Each process appends to a file of its own and reads those of all: whatever was judged before, by however many
    processes, is not judged again. A file is called by the identity of the evaluation, network, images and world whose
    verdicts it holds, and its first line says so too: another evaluation has other files. What was damaged in a file is not
    believed, and is judged again.
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
            self.gather()

    def _lock(self) -> None:
        """One process at a time writes a file: ValueError if another one is at it. It is free when these notes are."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = Lock(self.file.with_name(f".{self.file.stem}.lock"), again=True)
        except Busy:
            raise ValueError(
                f"another process is at work on the same evaluation in {self.folder}: wait for it, or share the work by "
                "--shard 1/2 and 2/2"
            ) from None
        finalize(self, lock.close)

    def _begin(self) -> None:
        """Our own file with sound lines of this identity alone."""
        self._lines = Lines(self.file, LINE)  # pyright: ignore[reportArgumentType]
        if aside := self._lines.set_aside():
            _say(f"{self._lines.fault}; what is damaged is judged again, and the damaged file is {aside.name} now")
        self._lines.rewrite([{"identity": self.identity}, *_verdicts(self._lines, self.identity)])

    def gather(self) -> None:
        """Learn what other processes have noted by now."""
        for file in sorted(self.folder.glob("verdicts*.jsonl")) if self.folder is not None else ():
            lines = Lines(file, LINE)
            if lines.fault:
                _say(f"{lines.fault}; what is damaged is judged again")
            for line in _verdicts(lines, self.identity):
                place = line["part"], line["block"]
                self.bits[place] = torch.from_numpy(text.unpack_bits(line["bits"], line["n"]))
                self.spent[place] = line["seconds"]

    def read(self, part: str, block: int) -> Bool[Tensor, "n"] | None:
        return self.bits.get((part, block))

    def collected(self, part: str, blocks: Sequence[Int[Tensor, "n"]]) -> Verdicts:
        """Of the whole set, as far as it was judged; the blocks are the places of their images."""
        verdicts = Verdicts.none(sum(map(len, blocks)))
        for block, places in enumerate(blocks):
            if (bits := self.read(part, block)) is not None:
                if len(bits) != len(places):
                    raise ValueError(
                        f"the verdicts of {part} in {self.folder} are of {len(bits)} images in block {block}, "
                        f"and it has {len(places)}: move verdicts*.jsonl away to judge anew"
                    )
                verdicts.bits[places], verdicts.judged[places] = bits, True
        return verdicts

    def write(self, part: str, block: int, bits: Bool[Tensor, "n"], seconds: float = 0.0) -> None:
        """In one piece. Not forced to the disk: what a power failure takes is judged again."""
        self.bits[part, block], self.spent[part, block] = bits, round(seconds, 3)
        line = {"part": part, "block": block, "bits": text.pack_bits(bits.numpy()), "n": len(bits)}
        line["seconds"] = self.spent[part, block]
        if self.file is not None:
            self._lines.append(line)

    def seconds(self) -> dict[str, float]:
        """By part, of all processes together."""
        total: dict[str, float] = defaultdict(float)
        for (part, _), seconds in self.spent.items():
            total[part] += seconds
        return total


def _verdicts(lines: Lines, identity: str) -> list[dict[str, Any]]:
    """Those of this identity; none if it is not certain whose they are."""
    if lines.values[:1] != [{"identity": identity}]:
        return []
    found = [line for line in lines.values[1:] if line.keys() == VERDICT.keys()]
    return [line for line in found if _sound(line)]


def _sound(line: dict[str, Any]) -> bool:
    try:
        return text.bytes_of(line["bits"], line["n"]) is not None
    except ValueError:
        return False


def _say(line: str) -> None:
    """On stderr, once in the life of a process."""
    if line not in _SAID:
        _SAID.add(line)
        print(line, file=sys.stderr)


_SAID: set[str] = set()
