"""Clean images, PGD, AutoAttack, corruptions: eval mode, float32, block by block, over every image, counted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from unshaken.attacks.autoattack import AutoAttack
from unshaken.attacks.ball import L2, Linf
from unshaken.attacks.base import Attack, Model
from unshaken.attacks.pgd import PGD
from unshaken.attacks.square import Square
from unshaken.base.ranges import Count, Range, Whole, ranged
from unshaken.base.rng import Key
from unshaken.base.serialize import ASIDE, LATER
from unshaken.base.types import Bool, Int
from unshaken.corruptions.corruption import Corruption
from unshaken.corruptions.severity import EXTRA, FIFTEEN, SEVERITIES, check
from unshaken.data.images import Images
from unshaken.evaluation.progress import live
from unshaken.evaluation.stages import EvaluationStage, calls_of, correct, inside, published, published_digest, through
from unshaken.evaluation.verdict_log import VerdictLog
from unshaken.evaluation.verdicts import Verdicts
from unshaken.nets.network import Network, frozen


@dataclass(frozen=True)
@ranged
class Evaluation:
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
    batch_size: Count = 256
    """Images at a time: a block."""
    limit: Count | None = None
    """Only the first so many test images; the result then says so."""
    until: Annotated[float, Range(0, 100)] | None = None
    """Stop after the block that makes the 95 % interval of the last attack's final value at most so many percentage
    points wide, from end to end; the result then says how many images were judged."""
    seed: Whole = 1
    autoattack_limit: Count | None = field(default=None, metadata=LATER)
    """AutoAttack is for whole blocks with at least so many images in all, random ones as every block's are, and
    everything else for all images. None: for all images, like everything else."""
    attacks: Literal["gradients", "queries"] = field(default="gradients", metadata=LATER)
    """queries: for networks that give no gradient. Square takes the place of PGD, and of AutoAttack there is Square
    alone."""
    queries: Count = field(default=1000, metadata=LATER)
    """Of each image to Square where it takes the place of PGD."""

    def __post_init__(self) -> None:
        if self.attack.steps < 1:
            raise ValueError(
                "an evaluation attacks with 1 step or more: 0 steps are no attack; SA is accuracy without one"
            )
        if self.queries < 1:
            raise ValueError(f"Square makes 1 query or more, not {self.queries}")
        if self.autoattack_limit is not None and (self.autoattack_limit < 1 or self.until is not None):
            raise ValueError(
                f"autoattack_limit is a number of images ≥ 1, without until, not {self.autoattack_limit}"
                + (f" with until {self.until:g}: either says when to stop" if self.until is not None else "")
            )
        if self.batch_size < 1 or (self.limit is not None and self.limit < 1):
            raise ValueError(f"an evaluation takes batch ≥ 1 and limit ≥ 1, not {self.batch_size} and {self.limit}")
        if self.until is not None and not 0 <= self.until <= 100:
            raise ValueError(f"until is a width in percentage points, such as 1.0, not {self.until:g}")
        if not self.severities:
            raise ValueError("corruptions need one severity or more, of 1 to 5")
        for name in self.names or FIFTEEN[:1]:
            for severity in self.severities:
                check(name, severity)

    @classmethod
    def read(cls, saved: dict[str, Any]) -> Evaluation:
        """The evaluation that a result in JSON was made by. ValueError if this version knows no such evaluation."""
        fields = {name: tuple(v) if isinstance(v, list) else v for name, v in saved.items() if name != "type"}
        try:
            attack = {name: value for name, value in fields.pop("attack").items() if name != "type"}  # pyright: ignore[reportAttributeAccessIssue]
            ball = {"Linf": Linf, "L2": L2}[attack["ball"]["type"]](attack["ball"]["eps"])
            return cls(PGD(**attack | {"ball": ball}), **fields)  # pyright: ignore[reportArgumentType]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"the result's evaluation cannot be read by this version ({error}): is it newer?"
            ) from None

    @property
    def full(self) -> Evaluation:
        """All that there is: AutoAttack and the fifteen corruptions too."""
        version = "standard" if self.autoattack == "none" else self.autoattack
        return replace(self, autoattack=version, corruptions=(*self.corruptions, "fifteen"), severities=SEVERITIES)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the corruptions, each once."""
        groups = {"fifteen": FIFTEEN, "extra": EXTRA}
        return tuple(dict.fromkeys(name for word in self.corruptions for name in groups.get(word, (word,))))

    @property
    def place(self) -> Evaluation:
        """What the verdicts of a part depend on: not which others are asked, nor when to stop."""
        alone = {"autoattack": "none", "autoattack_limit": None, "until": None}
        alone |= {"attacks": "gradients", "queries": Evaluation.queries}
        return replace(self, corruptions=(), severities=SEVERITIES, published=None, **alone)

    def beside(self, other: Evaluation) -> Evaluation:
        """With what another asked that this one does not ask, as far as one evaluation can ask both."""
        found = self
        if self.autoattack == "none":
            found = replace(found, autoattack=other.autoattack, autoattack_limit=other.autoattack_limit)
        elif self.autoattack == other.autoattack:
            limits = (self.autoattack_limit, other.autoattack_limit)
            found = replace(found, autoattack_limit=None if None in limits else max(limits))  # pyright: ignore[reportArgumentType]
        if not self.corruptions:
            how = {name: getattr(other, name) for name in ("corruptions", "severities", "published")}
            return replace(found, **how)
        if not other.corruptions or self.published != other.published:
            return found
        both = {*self.corrupted, *other.corrupted}
        names = tuple(dict.fromkeys((*other.corruptions, *self.corruptions)))
        joined = replace(found, corruptions=names, severities=tuple(sorted({*self.severities, *other.severities})))
        return joined if {*joined.corrupted} == both else found

    @property
    def answered(self) -> tuple[str, ...]:
        """The parts of the attack that goes without saying: PGD, or what takes its place."""
        return tuple(part.name for part in self._first())

    @property
    def stages(self) -> tuple[str, ...]:
        """The parts of AutoAttack, in their order; none if it is not asked."""
        return tuple(part.name for part in self._stages())

    @property
    def chain(self) -> tuple[str, ...]:
        """The parts from the clean images to the attack that has the last word on robustness."""
        return ("clean", *(self.stages or self.answered))

    def parts(self) -> tuple[EvaluationStage, ...]:
        clean = EvaluationStage("clean", lambda model, x, y, key, index: x)
        return (clean, *self._first(), *self._stages(), *self._corrupted())

    def _first(self) -> Iterator[EvaluationStage]:
        if self.attacks == "gradients":
            yield from self._pgd()
        else:
            search = Square(self.attack.ball, self.queries, schedule=2 * self.queries)
            yield self._searched(f"square-{self.queries}", search, "clean")

    def _searched(self, name: str, attack: Attack, before: str) -> EvaluationStage:
        def tamper(model: Model, x: Tensor, y: Tensor, key: Key, index: Tensor) -> Tensor:
            return attack(model, x, y, key)

        return EvaluationStage(name, tamper, before, self.attack.ball, calls_of(attack))

    def _pgd(self) -> Iterator[EvaluationStage]:
        once = replace(self.attack, restarts=1)

        def climb(model: Model, x: Tensor, y: Tensor, key: Key, index: Tensor) -> Tensor:
            return once(lambda x: cross_entropy(model.search(x), y, reduction="sum"), x, key.on(x.device))

        names = [*(f"pgd/{start + 1}" for start in range(self.attack.restarts - 1)), "pgd"]
        for before, name in zip(("clean", *names), names, strict=False):
            yield EvaluationStage(name, climb, before, self.attack.ball, self.attack.steps)

    def _stages(self) -> Iterator[EvaluationStage]:
        if self.autoattack == "none":
            return
        before, asked = "clean", AutoAttack(self.attack.ball, self.autoattack).stages
        if self.attacks == "queries":
            asked = [(stage, attack) for stage, attack in asked if isinstance(attack, Square)]
            asked = asked or [("square", Square(self.attack.ball))]
        for stage, attack in asked:
            name = f"{self.autoattack}/{stage}"
            yield self._searched(name, attack, before)
            before = name

    @property
    def corrupted(self) -> tuple[Corruption, ...]:
        return tuple(Corruption(name, severity) for name in self.names for severity in self.severities)

    def part_of(self, corruption: Corruption, digests: Mapping[str, str] | None = None) -> str:
        """The name of its part: published images are others than those made here, and are named by their digest.

        digests  of the published images by corruption, if they are not to be read from the folder
        """
        name = f"{corruption.name}/{corruption.severity}"
        if not self.published:
            return name
        return f"published/{(digests or {}).get(name) or published_digest(self.published, corruption)}/{name}"

    def asks(self, part: str, block: int) -> bool:
        """Whether a part is for a block: AutoAttack may be for the first ones alone."""
        if self.autoattack_limit is None or not part.startswith(f"{self.autoattack}/"):
            return True
        return block * self.batch_size < self.autoattack_limit

    def whole(self, verdicts: Mapping[str, Verdicts]) -> bool:
        """Whether all that is asked was judged."""
        blocks = self.blocks(len(next(iter(verdicts.values())).judged))
        return all(
            len(found) == sum(len(places) for block, places in enumerate(blocks) if self.asks(name, block))
            for name, found in verdicts.items()
        )

    def _corrupted(self) -> Iterator[EvaluationStage]:
        made = Key(self.seed) / "corruptions"  # not by block: an image is corrupted alike wherever it stands
        for each in self.corrupted:

            def tamper(model: Model, x: Tensor, y: Tensor, key: Key, index: Tensor, each: Any = each) -> Tensor:
                return each(x, made, index)

            yield EvaluationStage(self.part_of(each), published(self.published, each) if self.published else tamper)

    def of(self, images: Images) -> Images:
        """Those that are judged. ValueError without labels."""
        if images.label is None:
            raise ValueError(f"the images of {images.name} ({images.split}) have no labels, so accuracy means nothing")
        return images if self.limit is None else images[: self.limit]

    def blocks(self, total: int) -> tuple[Int[Tensor, "n"], ...]:
        """The places of the images in each block: a partition of the set that depends on the seed alone."""
        return torch.randperm(total, generator=(Key(self.seed) / "order").on("cpu")).split(self.batch_size)

    def judge(
        self,
        net: Network,
        images: Images,
        notes: VerdictLog | None = None,
        quiet: bool = True,
        search: Network | None = None,
        chosen: Sequence[int] | None = None,
    ) -> dict[str, Verdicts]:
        """Verdicts by the names of the parts, saved as they come; what the notes hold is not judged again.

        search  the network on which attacks look for adversarial images, if it is another: what they find is judged
                by `net`
        chosen  which blocks; all if it is not given
        """
        images, notes = self.of(images), notes or VerdictLog()
        parts, blocks = self.parts(), self.blocks(len(images))
        chosen = range(len(blocks)) if chosen is None else chosen
        shown = live({part.name: part.calls for part in parts}, self, notes, blocks, chosen, quiet)
        with frozen(net), frozen(search or net), shown as tell:
            model = Model(tell.counted(through(search or net)), through(net) if search else None)
            for block in chosen:
                if self._enough(notes, blocks):
                    break
                for part in parts:
                    if self.asks(part.name, block) and notes.read(part.name, block) is None:
                        tell.begin(block, part.name)
                        begun = time.monotonic()
                        bits = self._verdicts(part, model, net, images, blocks[block], notes, block)
                        notes.write(part.name, block, bits, time.monotonic() - begun)
                        tell.end(block, part.name)
        return self.collected(notes, len(images))

    def _verdicts(
        self,
        part: EvaluationStage,
        model: Model,
        net: Network,
        images: Images,
        places: Tensor,
        notes: VerdictLog,
        block: int,
    ) -> Bool[Tensor, "n"]:
        held = torch.ones(len(places), dtype=torch.bool) if part.after is None else notes.read(part.after, block)
        if not held.any():
            return held  # pyright: ignore[reportReturnType]
        index = places[held].to(images.pixels.device)
        x, y = images.floats(index), images.label[index]
        x_new = part.tamper(model, x, y, Key(self.seed) / part.name / block, index)
        if part.ball is not None:
            assert inside(x_new, x, part.ball), f"{part.name} left the ball"
        verdicts = held.clone()
        verdicts[held] = correct(net, x_new, y).cpu()
        return verdicts

    def collected(self, notes: VerdictLog, total: int) -> dict[str, Verdicts]:
        """What the notes hold of each part by now."""
        blocks = self.blocks(total)
        return {part.name: notes.collected(part.name, blocks) for part in self.parts()}

    def _enough(self, notes: VerdictLog, blocks: Sequence[Tensor]) -> bool:
        if self.until is None:
            return False
        judged = notes.collected(self.chain[-1], blocks)
        low, high = judged.forecast()
        return len(judged) > 0 and 100 * (high - low) <= self.until
