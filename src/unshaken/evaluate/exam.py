"""Clean accuracy and PGD-20: eval mode, float32, in order, over every image, counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from unshaken.base.canon import short_hash
from unshaken.base.files import read_json, write_json
from unshaken.base.keys import Key
from unshaken.base.progress import progress
from unshaken.base.types import Float, Int
from unshaken.data.images import Images
from unshaken.evaluate.verdicts import Verdicts
from unshaken.nets.embed import Network, evaluating
from unshaken.threat.pgd import PGD


@dataclass(frozen=True)
class Exam:
    """SA, and RA under PGD: an image counts as robust if it is classified correctly before and after every restart."""

    attack: PGD = PGD(steps=20)
    """PGD-20 on cross-entropy, ε/4 a step, from a uniform start."""
    batch: int = 256
    """Images at a time."""
    limit: int | None = None
    """Only the first so many test images; the result then says so."""
    seed: int = 1

    def __post_init__(self) -> None:
        if self.batch < 1 or (self.limit is not None and self.limit < 1):
            raise ValueError(f"an exam takes batch ≥ 1 and limit ≥ 1, not {self.batch} and {self.limit}")

    def judge(self, net: Network, images: Images, notes: Notes, quiet: bool = True) -> dict[str, Verdicts]:
        """Verdicts by name, "clean" and "pgd"; saved batch by batch, so a stopped exam goes on where it was."""
        images = images if self.limit is None else images[: self.limit]
        if images.label is None:
            raise ValueError(f"the images of {images.name} ({images.split}) have no labels, so accuracy means nothing")
        with evaluating(net):
            clean = self._each(images, "clean", notes, quiet, lambda at, x, y: correct(net, x, y))
            pgd = self._each(
                images, "pgd", notes, quiet, lambda at, x, y: self._robust(net, x, y, clean.bits[at].to(y.device), at)
            )
        return {"clean": clean, "pgd": pgd}

    def _each(self, images: Images, name: str, notes: Notes, quiet: bool, verdict: Callable) -> Verdicts:
        verdicts = notes.read(name)
        with progress(name, len(images), "images", len(verdicts), quiet) as advance:
            while len(verdicts) < len(images):
                at = slice(len(verdicts), min(len(verdicts) + self.batch, len(images)))
                verdicts = verdicts.followed_by(verdict(at, images.floats(at), images.label[at]))
                notes.write(name, verdicts)
                advance(at.stop - at.start, f"{verdicts.correct} of {len(verdicts)} correct")
        return verdicts

    def _robust(self, net: Network, x: Tensor, y: Tensor, held: Tensor, at: slice) -> Int[Tensor, "n"]:
        """An attack never makes a wrong answer right: what was wrong before stays wrong."""
        for restart in range(self.attack.restarts):
            rng = (Key(self.seed) / "pgd" / at.start / restart).on(x.device)
            once = PGD(self.attack.ball, self.attack.steps, self.attack.stride, self.attack.start)
            x_adv = once(lambda x: cross_entropy(net(x, "adv"), y, reduction="sum"), x, rng)
            held = held & correct(net, x_adv, y)
        return held


@torch.no_grad()
def correct(net: Network, x: Float[Tensor, "N C H W"], y: Int[Tensor, "N"]) -> Int[Tensor, "N"]:
    """Whether the highest logit is the label's. A logit that is no number is a wrong answer."""
    logits = net(x, "adv")
    return (logits.argmax(-1) == y) & logits.isfinite().all(-1)


class Notes:
    """Verdicts so far and the seconds they took, on disk; those of another exam, network or set are not used."""

    def __init__(self, path: Path | None = None, *identity: object) -> None:
        self.path, self.identity = path, short_hash([str(part) for part in identity])
        self.bits: dict[str, dict] = {}
        self.seconds, self._since = 0.0, time.monotonic()
        if path is not None and path.exists():
            found = read_json(path)
            if found.get("identity") == self.identity:
                self.bits, self.seconds = found["bits"], found["seconds"]

    def read(self, name: str) -> Verdicts:
        saved = self.bits.get(name)
        return Verdicts.none() if saved is None else Verdicts.unpacked(saved["packed"], saved["n"])

    def write(self, name: str, verdicts: Verdicts) -> None:
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now
        self.bits[name] = {"packed": verdicts.packed(), "n": len(verdicts)}
        if self.path is not None:
            write_json(self.path, {"identity": self.identity, "seconds": self.seconds, "bits": self.bits})
