"""The field's hyper-parameters of fine-tuning, by mode, method and data set.

The rows are those of the code that AIR's numbers come from (finetuning_utils.py at 15cf0a7), which
names no validation set for them. There one object carries `epochs` from SLF into ALF into AFF, so
that DynACL-AIR on CIFAR-10 is fully fine-tuned for 5 epochs instead of 25; here nothing carries over.
"""

from __future__ import annotations

from dataclasses import dataclass

from unshaken.base.clock import Milestones


@dataclass(frozen=True)
class Preset:
    """SGD at `rate`, a tenth of it from each epoch in `at` on."""

    rate: float
    at: tuple[int, ...] = (10, 20)
    epochs: int = 25
    batch: int = 512

    @property
    def schedule(self) -> Milestones:
        return Milestones(self.rate, self.at)


_AFF_LONG = Preset(0.1, at=(40, 60), epochs=100, batch=128)
_AFF_SHORT = Preset(0.1, at=(15, 20), epochs=25, batch=128)
_STL_RESIZED = Preset(0.01, batch=128)
_ACL = {"cifar10": Preset(0.01), "cifar100": Preset(0.05), "stl10": Preset(0.1), "stl10@32": _STL_RESIZED}
_AIR = {"cifar10": Preset(0.01), "cifar100": Preset(0.1), "stl10": Preset(0.01), "stl10@32": _STL_RESIZED}
_DYNAIR = {"cifar10": Preset(0.01), "cifar100": Preset(0.1), "stl10": Preset(0.1), "stl10@32": _STL_RESIZED}

PRESETS: dict[tuple[str, str], dict[str, Preset]] = {
    ("acl", "slf"): _ACL,
    ("acl", "alf"): _ACL,
    ("acl", "aff"): {"": _AFF_LONG},
    ("dynacl-plain", "slf"): _ACL,
    ("dynacl-plain", "alf"): _ACL,
    ("dynacl-plain", "aff"): {"": _AFF_SHORT, "stl10": Preset(0.1, at=(10, 20), batch=128)},
    ("acl-air", "slf"): _AIR | {"cifar10": Preset(0.005)},
    ("acl-air", "alf"): _AIR,
    ("acl-air", "aff"): {"": _AFF_LONG},
    ("dynacl-air", "slf"): _DYNAIR | {"cifar10": Preset(0.01, epochs=5)},
    ("dynacl-air", "alf"): _DYNAIR | {"stl10": Preset(0.1, batch=128)},
    ("dynacl-air", "aff"): {"": _AFF_SHORT},
}
"""(method, mode) to presets by data set; "" is any other set."""

FALLBACK = _AFF_SHORT
"""For a method or a set that the table does not know, in every mode."""

DIGITS = {
    "slf": Preset(0.1, batch=128),
    "alf": Preset(0.1, at=(6, 8), epochs=10, batch=128),
    "aff": Preset(0.05, at=(10, 13), epochs=15, batch=128),
}
"""Chosen on a quarter held out of the training images, for accuracy within the demo's minutes."""


def preset(method: str, mode: str, data: str) -> Preset:
    """`data` is a set's name, stl10@32 for STL-10 resized to 32 pixels."""
    if data == "digits":
        return DIGITS[mode]
    rows = PRESETS.get((method, mode), {})
    return rows.get(data) or rows.get("") or FALLBACK
