"""Tasks of a board: image sets, threat model and network, in words and as a key."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from unshaken.board.check import Result

NAMES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "stl10": "STL-10", "imagenet": "ImageNet-1K"}
NETWORKS = {
    "resnet18": "ResNet-18",
    "resnet34": "ResNet-34",
    "resnet50": "ResNet-50",
    "wrn-28-10": "WRN-28-10",
    "resnet-small": "ResNet-small",
    "vit-small": "ViT-small",
}
NORMS = {"Linf": "l∞", "L2": "l2", "L1": "l1"}


@dataclass(frozen=True)
class Task:
    """The properties that the rows of one table share.

    pretrain  the images that the encoder learned from; judged: those of the test
    threat    what the adversary may do, such as l∞ 8/255
    digest    of the test images; empty for published numbers, which do not say
    """

    pretrain: str
    judged: str
    threat: str
    network: str

    @property
    def key(self) -> str:
        words = f"{self.pretrain} {self.judged} {self.threat} {self.network}".lower().replace("l∞", "linf")
        return "-".join("".join(c if c.isalnum() or c == "." else " " for c in words).split())

    @property
    def title(self) -> str:
        return f"{self.pretrain} → {self.judged}"


def task_of(result: Result) -> Task:
    pretrain, finetune = result["pretrain"]["recipe"], result["finetune"]["recipe"]
    learned = pretrain.get("data", {}).get("name", "unknown")
    ball = result["evaluation"]["attack"]["ball"]
    threat = f"{NORMS.get(ball['type'], ball['type'])} {epsilon(ball['eps'])}"
    stated = result["pretrain"].get("said", {}).get("network", "").split(",")[0]  # of an imported encoder
    network = backbone_in(result["pretrain"]) or stated or finetune.get("name", "unknown")
    return Task(named(learned), named(result["data"]["name"]), threat, NETWORKS.get(network, network))


def backbone_in(part: Any) -> str | None:
    """Return the network's name, from the first recipe in a chain that has it."""
    if not isinstance(part, dict):
        return None
    if isinstance(part.get("backbone"), dict):
        return part["backbone"].get("name")
    return next((name for inner in part.values() if (name := backbone_in(inner))), None)


def named(data: str) -> str:
    return NAMES.get(data, data.rstrip("/").rsplit("/", 1)[-1])


def epsilon(eps: float) -> str:
    """Return ε as 8/255 if it is a multiple of 1/255, else as a number such as 0.1."""
    ratio = Fraction(eps).limit_denominator(255)
    return f"{round(eps * 255)}/255" if ratio.denominator in (51, 85, 255) and abs(ratio - eps) < 1e-9 else f"{eps:g}"


def budget(threat: str) -> float:
    """Return ε of a threat model in words: the inverse of `epsilon`."""
    return float(Fraction(threat.split()[-1]))


def attack_of(result: Result) -> dict[str, Any]:
    """Return the attack of robust accuracy; results under different attacks are in different rows."""
    attack = result["evaluation"]["attack"]
    own = {} if attack.get("type", "PGD") == "PGD" else {"attack": attack}
    return own | {
        "steps": attack.get("steps"),
        "restarts": attack.get("restarts", 1),
        "limit": result["evaluation"].get("limit"),
    }
