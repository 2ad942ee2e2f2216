"""A cache of one epoch's attacks, one bit per pixel, for the selection that follows it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unshaken.attacks.ball import refuse_l1
from unshaken.attacks.pgd import PGD
from unshaken.base.distributed import processes
from unshaken.base.json_files import naming
from unshaken.base.shared_batch import whole_batch
from unshaken.base.types import Float, Int


class AttackCache:
    """The sign of x̃ − x in every pixel of every image, in a file on disk with one row per image.

    After some steps most pixels of x̃ − x are at ±ε, so the signs contain nearly all of an attack. An l∞ attack is
    restored as x + ε · sign, an l2 attack as a step of length ε in the direction of the signs. Each training step
    writes the rows of its own images; a repeated step writes the same bits, so a run that was killed can resume. A
    checksum ends each row.
    """

    def __init__(self, file: Path, images: int) -> None:
        self.file, self.images = file, images

    def write(self, index: Int[Tensor, "n"], x: Float[Tensor, "... n C H W"], x_adv: Tensor) -> None:
        """Store the attack x_adv on the views x of the images with these indices, from all processes by the first."""
        up = (x_adv > x) | (x_adv >= 1)  # a white pixel that is pushed up does not move
        rows = torch.from_numpy(np.packbits(_by_image(up).cpu().numpy(), axis=1)).to(x.device)
        index, rows = whole_batch(index, 0), whole_batch(rows, 0)
        processes().first(lambda: self._write(index, rows.cpu().numpy()))

    def _write(self, index: Int[Tensor, "n"], rows: np.ndarray) -> None:
        with naming(self.file), open(self.file, "r+b" if self.file.exists() else "w+b", buffering=0) as file:
            for image, row in zip(index.tolist(), rows, strict=True):
                os.pwrite(file.fileno(), _with_checksum(row.tobytes(), image), image * (len(row) + SUM))

    def read(
        self, attack: PGD, index: Int[Tensor, "n"], x: Float[Tensor, "... n C H W"]
    ) -> Float[Tensor, "... n C H W"]:
        """Restore x̃ of these images; x must be the views that were attacked."""
        refuse_l1(attack.ball, "the store of attacks")  # a sign for each pixel tells nothing of a sparse change
        if not self.file.exists():
            raise ValueError(f"{self.file} is missing, and with it the attacks that the next selection needs")
        pixels = _by_image(x).shape[1]
        rows = np.stack([np.frombuffer(row, np.uint8) for row in self._rows(index.tolist(), -(-pixels // 8))])
        bits = torch.from_numpy(np.unpackbits(rows, axis=1, count=pixels))
        shape = (len(index), *x.shape[:-4], *x.shape[-3:])
        sign = bits.view(shape).movedim(0, -4).to(x) * 2 - 1
        return attack.ball.project(attack.ball.ascend(x, sign, attack.ball.eps), x)

    def _rows(self, index: list[int], width: int) -> Iterator[bytes]:
        """Yield the rows of these images, after checking their checksums."""
        with naming(self.file), open(self.file, "rb", buffering=0) as file:
            for image in index:
                stored = os.pread(file.fileno(), width + SUM, image * (width + SUM))
                if stored != _with_checksum(stored[:width], image):
                    raise ValueError(
                        f"{self.file} was damaged, or lacks the attack on image {image}: remove checkpoint.safetensors "
                        "beside it to start the run again"
                    )
                yield stored[:width]


SUM = 8
"""The number of bytes of the checksum at the end of a row."""


def _with_checksum(row: bytes, image: int) -> bytes:
    """Append a checksum to a row; it depends on the image's index too.

    A CRC would not do: the CRC of a row of ones is all ones, so a disk block filled with one byte would look valid.
    """
    return row + blake2b(row, digest_size=SUM, salt=image.to_bytes(16, "little")).digest()


def _by_image(x: Tensor) -> Tensor:
    """Reshape (... n C H W) to (n, ...), one row per image."""
    return x.movedim(-4, 0).flatten(1)
