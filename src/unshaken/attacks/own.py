"""Attacks of a user's own in an evaluation: their names in results, and the check that they stay in the ball."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, is_dataclass
from typing import Any

import torch
from torch import Tensor

from unshaken.attacks.ball import BALLS, Ball, in_words
from unshaken.attacks.base import Attack, Model
from unshaken.base.own_code import find
from unshaken.base.rng import Key
from unshaken.base.serialize import UNSAVED, short_hash, to_json
from unshaken.base.source_digest import code_of_function
from unshaken.base.types import Bool


@dataclass(frozen=True)
class FunctionAttack(Attack):
    """A function, or an object of another library, as an attack: from (model, x, y, key) to adversarial images."""

    ball: Ball
    name: str
    """The function's name; results are named by it and by the digest of its code."""
    code: str
    function: Callable[..., Tensor] = field(repr=False, compare=False, metadata=UNSAVED)

    def __call__(self, model: Model, x: Tensor, y: Tensor | None, key: Key) -> Tensor:
        return self.function(model, x, y, key)


@dataclass(frozen=True)
class UnavailableAttack(Attack):
    """An attack that a result names and that only its author's program has."""

    ball: Ball
    saved: dict[str, Any]

    def __call__(self, model: Model, x: Tensor, y: Tensor | None, key: Key) -> Tensor:
        raise ValueError(
            f"the attack {kind_of(self.saved)} is not in this program: give it again, evaluate(attack=...)"
        )


def as_attack(attack: Any, ball: Ball) -> Attack:
    """Return an attack of the user's as an `Attack`. ValueError if it cannot be called.

    ball  the ball for an attack that has none of its own
    """
    own = getattr(attack, "ball", ball)
    if not callable(attack) or isinstance(attack, type):
        given = attack.__name__ if isinstance(attack, type) else type(attack).__name__
        raise ValueError(f"an attack is called with (model, x, y, key), and {given} cannot be: give an object of it")
    if not isinstance(own, Ball):
        raise ValueError(f"the attack's ball is Linf(eps) or L2(eps) of unshaken.attacks.ball, not {own!r}")
    if isinstance(attack, Attack) and is_dataclass(attack):
        return attack
    called = getattr(attack, "__name__", type(attack).__name__)
    return FunctionAttack(own, called, code_of_function(attack), attack)  # pyright: ignore[reportArgumentType]


def attack_named(name: str, ball: Ball) -> Attack:
    """Return the attack that a name stands for: a function, an object, or a class, which gets the ball. Runs its code.

    The name is the user's: what a file of somebody else says must never be given here.
    """
    if not re.search(r"(^|[\w.])\w+:\w+$", name):
        raise ValueError(
            f"--attack names an attack of your own, mine.py:attack, and not {name!r}; --attack.steps and so on are the "
            "fields of PGD, and --autoattack adds others"
        )
    found = find(name)
    if isinstance(found, type):
        takes_ball = "ball" in getattr(found, "__dataclass_fields__", ())
        found = found(ball=ball) if takes_ball else found()
    return as_attack(found, ball)


def given_again(attack: Attack, given: Any) -> Attack:
    """Return an attack of a result, for which its author's program gives the code. ValueError if it is another.

    given  the attack or its name; None if there is none
    """
    if not isinstance(attack, UnavailableAttack):
        if given is not None:
            raise ValueError("the result is of attacks that are known: leave --attack out")
        return attack
    kind = kind_of(attack.saved)
    if given is None:
        raise ValueError(
            f"the result is of {kind}, an attack of somebody's own, whose code is not in it: name it by --attack, such "
            f"as mine.py:{kind}"
        )
    found = attack_named(given, attack.ball) if isinstance(given, str) else as_attack(given, attack.ball)
    if name_of(found) != name_of(attack):
        raise ValueError(
            f"the result is of {name_of(attack)}, and this is {name_of(found)}: its code or its fields are not the same"
        )
    return found


def read_attack(saved: dict[str, Any], kinds: dict[str, type]) -> Attack:
    """Return the attack of a result, as far as this program has it.

    kinds  the attacks that are rebuilt from their fields, by their class's name
    """
    fields = {name: value for name, value in saved.items() if name not in ("type", "code")}
    ball = BALLS[saved["ball"]["type"]](**{k: v for k, v in saved["ball"].items() if k != "type"})
    kind = kinds.get(saved.get("type", "PGD"))
    return UnavailableAttack(ball, saved) if kind is None else kind(**fields | {"ball": ball})


def kind_of(saved: dict[str, Any]) -> str:
    """Return what an attack in JSON is called: its class, or the function."""
    return saved.get("name") or saved["type"]


def name_of(attack: Attack) -> str:
    """Return the name of an attack in results: what it is called, and a digest of its fields and its code."""
    saved = attack.saved if isinstance(attack, UnavailableAttack) else to_json(attack)
    word = "".join(c if c.isalnum() else "-" for c in kind_of(saved).lower()).strip("-")
    return f"{word or 'attack'}-{short_hash(saved)}"


def check_in_ball(name: str, x_adv: Any, x: Tensor, ball: Ball) -> Tensor:
    """Return adversarial images. ValueError if an attack of the user's returned others than those in the ball."""
    if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape:
        given = tuple(x_adv.shape) if isinstance(x_adv, Tensor) else type(x_adv).__name__
        raise ValueError(f"{name} has to return images of shape {tuple(x.shape)}, not {given}")
    x_adv = x_adv.detach().to(x.device, x.dtype)
    outside = ~within(x_adv, x, ball)
    if outside.any():
        at, valid = ball.distance(x_adv, x).max(), "and in [0, 1]"
        raise ValueError(
            f"{name} left the ball: {int(outside.sum())} of {len(x)} images are not within {in_words(ball)} {valid} "
            f"(the farthest is at {float(at):.4g}); `ball.project(x_adv, x)` brings images back"
        )
    return x_adv


def within(x_adv: Tensor, x: Tensor, ball: Ball) -> Bool[Tensor, "N"]:
    """Return which images are valid and within the ball, up to rounding in float32."""
    near = ball.distance(x_adv, x) <= ball.eps * (1 + 1e-5) + 1e-6
    return near & torch.isfinite(x_adv).flatten(1).all(1) & ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)
