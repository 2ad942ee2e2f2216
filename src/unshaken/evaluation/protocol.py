"""The evaluation protocol: a list of stages, on blocks of random images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from unshaken.attacks.apgd import APGD
from unshaken.attacks.autoattack import AutoAttack
from unshaken.attacks.ball import L1
from unshaken.attacks.base import Attack
from unshaken.attacks.fab import FAB
from unshaken.attacks.own import name_of, read_attack
from unshaken.attacks.pgd import PGD
from unshaken.attacks.square import Square
from unshaken.base.ranges import Count, Range, Whole, ranged
from unshaken.base.rng import Key
from unshaken.base.serialize import ASIDE, LATER
from unshaken.base.types import Int
from unshaken.corruptions.corruption import Corruption
from unshaken.corruptions.severity import EXTRA, FIFTEEN, SEVERITIES, check
from unshaken.data.images import Images
from unshaken.evaluation.stages import (
    CLEAN,
    EvaluationStage,
    attack_stage,
    corruption_stage,
    own_stage,
    pgd_stages,
    published_digest,
)

REBUILT = {"PGD": PGD, "APGD": APGD, "FAB": FAB, "Square": Square}
"""The attacks that a result's fields rebuild."""


@dataclass(frozen=True)
@ranged
class Evaluation:
    """Clean accuracy (SA), robust accuracy (RA) under PGD and AutoAttack, and accuracy under common corruptions.

    An image counts as robust if it is classified correctly before and after every attack. The network answers in
    float32 and in eval mode. Images are judged in blocks that are drawn at random, and each block goes through all
    stages before the next one begins: so the blocks that are judged speak for the whole set at any time.
    """

    attack: Attack = PGD(steps=20)
    """PGD on cross-entropy: by default 20 steps of ε/4 from a uniform start. AutoAttack uses the same ball. In Python
    any attack may stand here, one of your own too."""
    autoattack: Literal["none", "standard", "plus", "rand", "apgd"] = "none"
    """Version of AutoAttack. standard: APGD-CE, APGD-T, FAB-T, Square; plus: a longer list; rand: for networks with
    random outputs; apgd: APGD-CE and APGD-T, as is usual for zero-shot. Each attack gets only the images that survived
    those before it."""
    corruptions: tuple[str, ...] = ()
    """Common corruptions by name (fog, gaussian_noise, ...). fifteen: the fifteen of CIFAR-10-C; extra: its four
    additional ones."""
    severities: tuple[Annotated[int, Range(1, 5)], ...] = SEVERITIES
    """Severities of the corruptions."""
    published: str | None = field(default=None, metadata=ASIDE)
    """Unpacked folder of CIFAR-10-C or CIFAR-100-C, from which the corrupted images are read. Without it they are
    computed. Reading takes 30 MB of memory for each corruption and severity."""
    batch_size: Count = 256
    """Images per block. Each block goes through all attacks before the next block starts."""
    limit: Count | None = None
    """Evaluate only this many test images, the first ones. The result records it."""
    until: Annotated[float, Range(0, 100)] | None = None
    """Stop as soon as the 95 % interval of the accuracy under the last attack is at most this wide, in percentage
    points. The result records how many images were evaluated."""
    seed: Whole = 1
    """Seed of the blocks, of the attacks and of the corruptions."""
    autoattack_limit: Count | None = field(default=None, metadata=LATER)
    """Run AutoAttack only on the first blocks that together have at least this many images; blocks are random samples.
    Everything else uses all images. None: AutoAttack does too."""
    attacks: Literal["gradients", "queries"] = field(default="gradients", metadata=LATER)
    """gradients: PGD and AutoAttack. queries: for networks without gradients; Square replaces PGD, and AutoAttack has
    Square only."""
    queries: Count = field(default=1000, metadata=LATER)
    """Number of queries of Square per image, with --attacks queries."""

    def __post_init__(self) -> None:
        if isinstance(self.attack, PGD) and self.attack.steps < 1:
            raise ValueError(
                "an evaluation attacks with 1 step or more: 0 steps are no attack; SA is accuracy without one"
            )
        if self.autoattack != "none":
            AutoAttack(self.attack.ball, self.autoattack)  # raises a ValueError if there is no such version
        if self.queries < 1:
            raise ValueError(f"Square makes 1 query or more, not {self.queries}")
        if self.autoattack_limit is not None and (self.autoattack_limit < 1 or self.until is not None):
            raise ValueError(
                f"autoattack_limit is a number of images ≥ 1, without until, not {self.autoattack_limit}"
                + (f" with until {self.until:g}: either says when to stop" if self.until is not None else "")
            )
        if self.batch_size < 1 or (self.limit is not None and self.limit < 1):
            raise ValueError(
                f"an evaluation takes batch_size ≥ 1 and limit ≥ 1, not {self.batch_size} and {self.limit}"
            )
        if self.until is not None and not 0 <= self.until <= 100:
            raise ValueError(f"until is a width in percentage points, such as 1.0, not {self.until:g}")
        if not self.severities:
            raise ValueError("corruptions need one severity or more, of 1 to 5")
        for name in self.corruption_names or FIFTEEN[:1]:
            for severity in self.severities:
                check(name, severity)

    @classmethod
    def read(cls, saved: dict[str, Any]) -> Evaluation:
        """Return the evaluation that a result in JSON holds. ValueError if this version cannot read it."""
        fields = {name: tuple(v) if isinstance(v, list) else v for name, v in saved.items() if name != "type"}
        try:
            attack = read_attack(fields.pop("attack"), REBUILT)  # pyright: ignore[reportArgumentType]
            return cls(attack, **fields)  # pyright: ignore[reportArgumentType]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"the result's evaluation cannot be read by this version ({error}): is it newer?"
            ) from None

    @property
    def full(self) -> Evaluation:
        """The same evaluation with AutoAttack and the fifteen corruptions."""
        usual = "apgd" if isinstance(self.attack.ball, L1) else "standard"
        version = usual if self.autoattack == "none" else self.autoattack
        return replace(self, autoattack=version, corruptions=(*self.corruptions, "fifteen"), severities=SEVERITIES)

    @property
    def stages(self) -> tuple[EvaluationStage, ...]:
        """All stages in their order."""
        return (CLEAN, *self._first_attack(), *self._autoattack(), *self._corruptions())

    def _first_attack(self) -> Iterator[EvaluationStage]:
        """PGD, once for each restart, or another attack; of a network without gradients, Square in its place."""
        if self.attacks == "gradients" and isinstance(self.attack, PGD):
            yield from pgd_stages(self.attack)
        elif self.attacks == "gradients":
            yield own_stage(name_of(self.attack), self.attack)
        else:
            square = Square(self.attack.ball, self.queries, schedule=2 * self.queries)
            yield attack_stage(f"square-{self.queries}", square, "clean")

    def _autoattack(self) -> Iterator[EvaluationStage]:
        """The attacks of AutoAttack, each on the survivors of the one before it."""
        if self.autoattack == "none":
            return
        attacks = AutoAttack(self.attack.ball, self.autoattack).stages
        if self.attacks == "queries":
            attacks = [(name, attack) for name, attack in attacks if isinstance(attack, Square)]
            attacks = attacks or [("square", Square(self.attack.ball))]
        before = "clean"
        for name, attack in attacks:
            yield attack_stage(f"{self.autoattack}/{name}", attack, before)
            before = f"{self.autoattack}/{name}"

    def _corruptions(self) -> Iterator[EvaluationStage]:
        for each in self.corrupted:
            yield corruption_stage(self.corruption_name(each), each, self.seed, self.published)

    @property
    def first_attack_names(self) -> tuple[str, ...]:
        """The names of the stages of PGD, or of the attack in its place."""
        return tuple(stage.name for stage in self._first_attack())

    @property
    def autoattack_names(self) -> tuple[str, ...]:
        """The names of AutoAttack's stages in their order; () without AutoAttack."""
        return tuple(stage.name for stage in self._autoattack())

    @property
    def chain(self) -> tuple[str, ...]:
        """The names of the stages from the clean images to the last attack, which decides on robustness."""
        return ("clean", *(self.autoattack_names or self.first_attack_names))

    @property
    def corruption_names(self) -> tuple[str, ...]:
        """The names of the corruptions, each once."""
        groups = {"fifteen": FIFTEEN, "extra": EXTRA}
        return tuple(dict.fromkeys(name for word in self.corruptions for name in groups.get(word, (word,))))

    @property
    def corrupted(self) -> tuple[Corruption, ...]:
        """Every corruption at every severity."""
        return tuple(Corruption(name, severity) for name in self.corruption_names for severity in self.severities)

    def corruption_name(self, corruption: Corruption, digests: Mapping[str, str] | None = None) -> str:
        """Return the name of a corruption's stage. Published images differ from those made here: their digest is in it.

        digests  the digests of the published images by corruption, where their folder is not to be read
        """
        name = f"{corruption.name}/{corruption.severity}"
        if not self.published:
            return name
        return f"published/{(digests or {}).get(name) or published_digest(self.published, corruption)}/{name}"

    def select(self, images: Images) -> Images:
        """Return the images to judge. ValueError if they have no labels."""
        if images.label is None:
            raise ValueError(f"the images of {images.name} ({images.split}) have no labels, so accuracy means nothing")
        return images if self.limit is None else images[: self.limit]

    def blocks(self, total: int) -> tuple[Int[Tensor, "n"], ...]:
        """Return the indices of each block's images: a random partition of the set, by the seed alone."""
        return torch.randperm(total, generator=(Key(self.seed) / "order").on("cpu")).split(self.batch_size)

    def includes(self, stage: str, block: int) -> bool:
        """Return whether a stage is made on a block: AutoAttack may be limited to the first blocks."""
        if self.autoattack_limit is None or not stage.startswith(f"{self.autoattack}/"):
            return True
        return block * self.batch_size < self.autoattack_limit

    @property
    def cache_key(self) -> Evaluation:
        """The choices that the verdicts of a stage depend on: not the other stages, and not when to stop."""
        neutral = {"autoattack": "none", "autoattack_limit": None, "until": None}
        neutral |= {"attacks": "gradients", "queries": Evaluation.queries}
        return replace(self, corruptions=(), severities=SEVERITIES, published=None, **neutral)

    def merged_with(self, other: Evaluation) -> Evaluation:
        """Return this evaluation with the other one's stages too, as far as one evaluation can hold both."""
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
        merged = replace(found, corruptions=names, severities=tuple(sorted({*self.severities, *other.severities})))
        return merged if {*merged.corrupted} == both else found
