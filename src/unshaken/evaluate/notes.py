"""Verdicts as they come, block by block: a line each in a file, so that an exam stopped anywhere goes on there."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unshaken.base import bits as text
from unshaken.base.canon import short_hash
from unshaken.base.files import write_text
from unshaken.base.shard import Shard
from unshaken.base.types import Int
from unshaken.evaluate.verdicts import Verdicts


class Notes:
    """What was judged, in memory and, if a folder is given, on disk.

    Each process appends to a file of its own and reads those of all: whatever was judged before, by however many
    processes, is not judged again. A file is called by the identity of the exam, network, images and world whose
    verdicts it holds, and its first line says so too: another exam has other files. A line that is not whole is
    forgotten with all after it.
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
            self._begin()
            self.gather()

    def _begin(self) -> None:
        """Our own file with whole lines of this identity alone."""
        kept = _lines(self.file, self.identity) if self.file.exists() else []
        lines = [{"identity": self.identity}, *kept]
        write_text(self.file, "".join(json.dumps(line) + "\n" for line in lines))

    def gather(self) -> None:
        """Learn what other processes have noted by now."""
        for file in sorted(self.folder.glob("verdicts*.jsonl")) if self.folder is not None else ():
            for line in _lines(file, self.identity):
                place = line["part"], line["block"]
                self.bits[place] = torch.from_numpy(text.unpacked(line["bits"], line["n"]))
                self.spent[place] = line["seconds"]

    def read(self, part: str, block: int) -> Int[Tensor, "n"] | None:
        return self.bits.get((part, block))

    def collected(self, part: str, blocks: Sequence[Int[Tensor, "n"]]) -> Verdicts:
        """Of the whole set, as far as it was judged; the blocks are the places of their images."""
        verdicts = Verdicts.none(sum(map(len, blocks)))
        for block, places in enumerate(blocks):
            if (bits := self.read(part, block)) is not None:
                verdicts.bits[places], verdicts.judged[places] = bits, True
        return verdicts

    def write(self, part: str, block: int, bits: Int[Tensor, "n"], seconds: float = 0.0) -> None:
        """In one piece. Not forced to the disk: what a power failure takes is judged again."""
        self.bits[part, block], self.spent[part, block] = bits, round(seconds, 3)
        line = {"part": part, "block": block, "bits": text.packed(bits.numpy()), "n": len(bits)}
        line["seconds"] = self.spent[part, block]
        if self.file is not None:
            with open(self.file, "a") as file:
                file.write(json.dumps(line) + "\n")

    def seconds(self) -> dict[str, float]:
        """By part, of all processes together."""
        total: dict[str, float] = defaultdict(float)
        for (part, _), seconds in self.spent.items():
            total[part] += seconds
        return total


def _lines(file: Path, identity: str) -> list[dict[str, Any]]:
    """Those of this identity, up to the first that is not whole."""
    found = []
    for line in file.read_text(errors="replace").splitlines(keepends=True):
        try:
            value = json.loads(line)
        except ValueError:
            break
        if not line.endswith("\n"):
            break
        found.append(value)
    return found[1:] if found[:1] == [{"identity": identity}] else []
