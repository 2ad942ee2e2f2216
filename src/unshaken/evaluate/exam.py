"""Clean images, PGD, AutoAttack, corruptions: eval mode, float32, block by block, over every image, counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from unshaken.base.canon import ASIDE
from unshaken.base.keys import Key
from unshaken.base.ranges import Count, Range, Whole, ranged
from unshaken.base.types import Float, Int
from unshaken.data.corrupted import corrupted
from unshaken.data.images import Images
from unshaken.evaluate.live import live
from unshaken.evaluate.notes import Notes
from unshaken.evaluate.verdicts import Verdicts
from unshaken.nets.embed import Network, frozen
from unshaken.pixels.corrupt import Corruption
from unshaken.pixels.severity import EXTRA, FIFTEEN, SEVERITIES, check
from unshaken.threat.attack import Model
from unshaken.threat.autoattack import AutoAttack
from unshaken.threat.ball import L2, Ball, Linf
from unshaken.threat.pgd import PGD

Tamper = Callable[[Model, Tensor, Tensor, Key, Tensor], Tensor]
"""A model, images, their labels, a key and their places in the set to images that may be harder."""


@dataclass(frozen=True)
class Part:
    """One row of verdicts: images are tampered with, and the answers counted.

    after  the row whose wrong answers stay wrong and are not tried again: no attack makes a wrong answer right
    ball   what the tampered images have to lie in, if it is an attack
    """

    name: str
    tamper: Tamper
    after: str | None = None
    ball: Ball | None = None


@dataclass(frozen=True)
@ranged
class Exam:
    """SA, RA under PGD and AutoAttack, and accuracy under common corruptions.

    An image counts as robust if it is classified correctly before and after every attack. All answers are float32,
    in eval mode. The images are taken in blocks of random ones, so that the blocks judged so far speak for all; each
    block goes through everything that is asked.
    """

    attack: PGD = PGD(steps=20)
    """PGD-20 on cross-entropy, ε/4 a step, from a uniform start. AutoAttack takes its ball."""
    autoattack: Literal["none", "standard", "plus", "rand"] = "none"
    """AutoAttack in its standard version (APGD-CE, APGD-T, FAB-T, Square), the longer plus, or rand for networks that
    answer at random; each attack on the survivors of the last."""
    corruptions: tuple[str, ...] = ()
    """Common corruptions by name (fog, gaussian_noise, ...), each at the severities; fifteen stands for CIFAR-10-C's
    fifteen, extra for its four others."""
    severities: tuple[Annotated[int, Range(1, 5)], ...] = SEVERITIES
    """At which the corruptions are."""
    published: str | None = field(default=None, metadata=ASIDE)
    """The unpacked folder of CIFAR-10-C or CIFAR-100-C, to take the corrupted images from there; they are made here if
    it is not given. 30 MB of memory for each corruption and severity."""
    batch: Count = 256
    """Images at a time: a block."""
    limit: Count | None = None
    """Only the first so many test images; the result then says so."""
    until: Annotated[float, Range(0, 100)] | None = None
    """Stop after the block that makes the 95 % interval of the last attack's final value at most so many percentage
    points wide, from end to end; the result then says how many images were judged."""
    seed: Whole = 1

    def __post_init__(self) -> None:
        if self.batch < 1 or (self.limit is not None and self.limit < 1):
            raise ValueError(f"an exam takes batch ≥ 1 and limit ≥ 1, not {self.batch} and {self.limit}")
        if self.until is not None and not 0 <= self.until <= 100:
            raise ValueError(f"until is a width in percentage points, such as 1.0, not {self.until:g}")
        if not self.severities:
            raise ValueError("corruptions need one severity or more, of 1 to 5")
        for name in self.names or FIFTEEN[:1]:
            for severity in self.severities:
                check(name, severity)

    @classmethod
    def read(cls, saved: dict[str, Any]) -> Exam:
        """The exam that a result in JSON was made by. ValueError if this version knows no such exam."""
        fields = {name: tuple(v) if isinstance(v, list) else v for name, v in saved.items() if name != "type"}
        try:
            attack = {name: value for name, value in fields.pop("attack").items() if name != "type"}
            ball = {"Linf": Linf, "L2": L2}[attack["ball"]["type"]](attack["ball"]["eps"])
            return cls(PGD(**attack | {"ball": ball}), **fields)
        except (KeyError, TypeError) as error:
            raise ValueError(f"the result's exam cannot be read by this version ({error}): is it newer?") from None

    @property
    def full(self) -> Exam:
        """All that there is: AutoAttack and the fifteen corruptions too."""
        version = "standard" if self.autoattack == "none" else self.autoattack
        return replace(self, autoattack=version, corruptions=(*self.corruptions, "fifteen"), severities=SEVERITIES)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the corruptions, each once."""
        groups = {"fifteen": FIFTEEN, "extra": EXTRA}
        return tuple(dict.fromkeys(name for word in self.corruptions for name in groups.get(word, (word,))))

    @property
    def place(self) -> Exam:
        """What the verdicts of a part depend on: not which others are asked, nor when to stop."""
        return replace(self, autoattack="none", corruptions=(), severities=SEVERITIES, published=None, until=None)

    def beside(self, other: Exam) -> Exam:
        """With what another asked that this one does not ask."""
        found = self
        if self.autoattack == "none":
            found = replace(found, autoattack=other.autoattack)
        if not self.corruptions:
            how = {name: getattr(other, name) for name in ("corruptions", "severities", "published")}
            found = replace(found, **how)
        return found

    @property
    def stages(self) -> tuple[str, ...]:
        """The parts of AutoAttack, in their order; none if it is not asked."""
        return tuple(part.name for part in self._stages())

    @property
    def chain(self) -> tuple[str, ...]:
        """The parts from the clean images to the attack that has the last word on robustness."""
        return ("clean", *(self.stages or (part.name for part in self._pgd())))

    def parts(self) -> tuple[Part, ...]:
        clean = Part("clean", lambda model, x, y, key, index: x)
        return (clean, *self._pgd(), *self._stages(), *self._corrupted())

    def _pgd(self) -> Iterator[Part]:
        once = replace(self.attack, restarts=1)

        def climb(model: Model, x: Tensor, y: Tensor, key: Key, index: Tensor) -> Tensor:
            return once(lambda x: cross_entropy(model.search(x), y, reduction="sum"), x, key.on(x.device))

        names = [*(f"pgd/{start + 1}" for start in range(self.attack.restarts - 1)), "pgd"]
        for before, name in zip(("clean", *names), names, strict=False):
            yield Part(name, climb, before, self.attack.ball)

    def _stages(self) -> Iterator[Part]:
        if self.autoattack == "none":
            return
        before = "clean"
        for stage, attack in AutoAttack(self.attack.ball, self.autoattack).stages:

            def tamper(model: Model, x: Tensor, y: Tensor, key: Key, index: Tensor, attack: Any = attack) -> Tensor:
                return attack(model, x, y, key)

            name = f"{self.autoattack}/{stage}"
            yield Part(name, tamper, before, self.attack.ball)
            before = name

    @property
    def corrupted(self) -> tuple[Corruption, ...]:
        return tuple(Corruption(name, severity) for name in self.names for severity in self.severities)

    def part_of(self, corruption: Corruption) -> str:
        """The name of its part: published images are others than those made here."""
        return f"{'published/' if self.published else ''}{corruption.name}/{corruption.severity}"

    def _corrupted(self) -> Iterator[Part]:
        made = Key(self.seed) / "corruptions"  # not by block: an image is corrupted alike wherever it stands
        for each in self.corrupted:

            def tamper(model: Model, x: Tensor, y: Tensor, key: Key, index: Tensor, each: Any = each) -> Tensor:
                return each(x, made, index)

            yield Part(self.part_of(each), _taken(self.published, each) if self.published else tamper)

    def of(self, images: Images) -> Images:
        """Those that are judged. ValueError without labels."""
        if images.label is None:
            raise ValueError(f"the images of {images.name} ({images.split}) have no labels, so accuracy means nothing")
        return images if self.limit is None else images[: self.limit]

    def blocks(self, total: int) -> tuple[Int[Tensor, "n"], ...]:
        """The places of the images in each block: a partition of the set that depends on the seed alone."""
        return torch.randperm(total, generator=(Key(self.seed) / "order").on("cpu")).split(self.batch)

    def judge(
        self,
        net: Network,
        images: Images,
        notes: Notes | None = None,
        quiet: bool = True,
        search: Network | None = None,
        chosen: Sequence[int] | None = None,
    ) -> dict[str, Verdicts]:
        """Verdicts by the names of the parts, saved as they come; what the notes hold is not judged again.

        search  the network on which attacks look for adversarial images, if it is another: what they find is judged
                by `net`
        chosen  which blocks; all if it is not given
        """
        images, notes = self.of(images), notes or Notes()
        parts, blocks = self.parts(), self.blocks(len(images))
        chosen = range(len(blocks)) if chosen is None else chosen
        names = [part.name for part in parts]
        model = Model(through(search or net), through(net) if search else None)
        with frozen(net), frozen(search or net), live(names, self.chain, notes, blocks, chosen, quiet) as tell:
            for block in chosen:
                if self._enough(notes, blocks):
                    break
                for part in parts:
                    if notes.read(part.name, block) is None:
                        begun = time.monotonic()
                        bits = self._verdicts(part, model, net, images, blocks[block], notes, block)
                        notes.write(part.name, block, bits, time.monotonic() - begun)
                        tell(block, part.name)
        return self.collected(notes, len(images))

    def _verdicts(
        self, part: Part, model: Model, net: Network, images: Images, places: Tensor, notes: Notes, block: int
    ) -> Int[Tensor, "n"]:
        held = torch.ones(len(places), dtype=torch.bool) if part.after is None else notes.read(part.after, block)
        if not held.any():
            return held
        index = places[held].to(images.pixels.device)
        x, y = images.floats(index), images.label[index]
        x_new = part.tamper(model, x, y, Key(self.seed) / part.name / block, index)
        if part.ball is not None:
            assert inside(x_new, x, part.ball), f"{part.name} left the ball"
        verdicts = held.clone()
        verdicts[held] = correct(net, x_new, y).cpu()
        return verdicts

    def collected(self, notes: Notes, total: int) -> dict[str, Verdicts]:
        """What the notes hold of each part by now."""
        blocks = self.blocks(total)
        return {part.name: notes.collected(part.name, blocks) for part in self.parts()}

    def _enough(self, notes: Notes, blocks: Sequence[Tensor]) -> bool:
        if self.until is None:
            return False
        judged = notes.collected(self.chain[-1], blocks)
        low, high = judged.forecast()
        return len(judged) > 0 and 100 * (high - low) <= self.until


def _taken(root: str, corruption: Corruption) -> Tamper:
    """The published images of the same places. ValueError if their labels are others."""
    images = cache(lambda: corrupted(Path(root).expanduser(), corruption.name, corruption.severity))

    def tamper(model: Model, x: Tensor, y: Tensor, key: Key, index: Tensor) -> Tensor:
        at = index.cpu()
        if images().pixels.shape[1:] != x.shape[1:]:
            sizes = [" x ".join(map(str, each.shape[1:])) for each in (images().pixels, x)]
            raise ValueError(f"the images in {root} are {sizes[0]}, the test images {sizes[1]}: leave --published out")
        if int(at.max()) >= len(images()) or not torch.equal(images().label[at], y.cpu()):
            raise ValueError(f"the images in {root} have other labels than the test images: they are of another set")
        return images().floats(at).to(x.device)

    return tamper


def through(net: Network) -> Callable[[Tensor], Tensor]:
    """A classifier's logits; of one with routes, by the adversarial one."""
    return lambda x: net(x, "adv")


@torch.no_grad()
def correct(net: Network, x: Float[Tensor, "N C H W"], y: Int[Tensor, "N"]) -> Int[Tensor, "N"]:
    """Whether the highest logit is the label's. A logit that is no number is a wrong answer."""
    logits = net(x, "adv")
    return (logits.argmax(-1) == y) & logits.isfinite().all(-1)


def inside(x_adv: Tensor, x: Tensor, ball: Ball) -> bool:
    """Whether the images are valid ones of the ball, but for what float32 rounds."""
    near = ball.distance(x_adv, x) <= ball.eps * (1 + 1e-5) + 1e-6
    return bool(near.all() and (x_adv >= 0).all() and (x_adv <= 1).all())
