"""The field's hyper-parameters of fine-tuning, by mode, method and data set.

The rows come from the code behind AIR's numbers (finetuning_utils.py at 15cf0a7), which names no validation set for
them. There one object carries `epochs` from SLF to ALF to AFF, so DynACL-AIR on CIFAR-10 is fully fine-tuned for 5
epochs instead of 25. Here nothing carries over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from unshaken.base.schedule import MultiStep, Schedule, WarmupCosine
from unshaken.train.optim import SGD


@dataclass(frozen=True)
class Preset:
    """SGD at rate `lr`, divided by ten at each epoch in `at`; or, with `cosine`, falling to 0 by half a cosine."""

    lr: float
    at: tuple[int, ...] = (10, 20)
    epochs: int = 25
    batch_size: int = 512
    optimizer: SGD = SGD(0.9, 2e-4)
    cosine: bool = False

    @property
    def schedule(self) -> Schedule:
        return WarmupCosine(self.lr, warmup=0) if self.cosine else MultiStep(self.lr, self.at)


_LONG = {"": Preset(0.1, at=(40, 60), epochs=100, batch_size=128)}
_SHORT = {"": Preset(0.1, at=(15, 20), batch_size=128)}
_STL_RESIZED = {"stl10@32": Preset(0.01, batch_size=128)}
_ACL = {"cifar10": Preset(0.01), "cifar100": Preset(0.05), "stl10": Preset(0.1)} | _STL_RESIZED
_AIR = {"cifar10": Preset(0.01), "cifar100": Preset(0.1), "stl10": Preset(0.01)} | _STL_RESIZED
_DYNAIR = {"cifar10": Preset(0.01), "cifar100": Preset(0.1), "stl10": Preset(0.1)} | _STL_RESIZED
_PLUS = {
    "cifar10": Preset(0.01),
    "cifar100": Preset(0.1),
    "stl10": Preset(0.1),
    "stl10@32": Preset(0.1, batch_size=128),
}
_DYN = {"slf": _ACL, "alf": _ACL, "aff": _SHORT | {"stl10": Preset(0.1, at=(10, 20), batch_size=128)}}
_OTHERS = {"slf": {"": Preset(0.01, at=(15, 20))}, "alf": {"": Preset(0.01, at=(15, 20))}, "aff": _SHORT}

PRESETS: dict[str, dict[str, dict[str, Preset]]] = {
    "acl": {"slf": _ACL, "alf": _ACL, "aff": _LONG},
    "acl-rcs": {"slf": _ACL, "alf": _ACL, "aff": _LONG},
    "dynacl": _DYN,
    "dynacl-rcs": _DYN,
    "dynacl-plain": _DYN,
    "dynacl++": _DYN,
    "acl-air": {"slf": _AIR | {"cifar10": Preset(0.005)}, "alf": _AIR, "aff": _LONG},
    "dynacl-air": {
        "slf": _DYNAIR | {"cifar10": Preset(0.01, epochs=5)},
        "alf": _DYNAIR | {"stl10": Preset(0.1, batch_size=128)},
        "aff": _SHORT,
    },
    "dynacl-air++": {
        "slf": _PLUS,
        "alf": _PLUS | {"cifar10": Preset(0.01, epochs=4), "stl10": Preset(0.1, batch_size=128)},
        "aff": _SHORT,
    },
    "advcl": _OTHERS,
    "a-infonce": _OTHERS,
    "deacl": _OTHERS,
}
"""Presets by method, mode and data set ("" is any other set).

AFF of DynACL-AIR++ on CIFAR-10 was meant to have 19 epochs, but a typo (`args.epoch`) left it at 25.
"""

LEAKED = {
    ("dynacl-air", "cifar10"): {"slf": 5, "alf": 5, "aff": 5},
    ("dynacl-air++", "cifar10"): {"slf": 25, "alf": 4, "aff": 4},
}
"""The epochs in fact, if one command runs the three modes: a setting of SLF or ALF stays for the modes after it."""

_COSINE = Preset(0.01, (), epochs=30, batch_size=128, optimizer=SGD(0.9, 5e-4, nesterov=True), cosine=True)
_OF_32 = {"slf": replace(_COSINE, batch_size=64), "alf": _COSINE, "aff": replace(_COSINE, lr=0.1)}
_OF_SAT = _OF_32 | {"aff": _COSINE}
TRANSFER: dict[str, dict[str, dict[str, Preset]]] = {
    "imagenet32": {"": _OF_32, "sat": _OF_SAT, "sat-rcs": _OF_SAT},
    "imagenet": {"": {"slf": Preset(0.01, at=(50, 100), epochs=150, batch_size=64, optimizer=SGD(0.9, 5e-4))}},
}
"""Presets for transfer, by the set of the pre-training, method ("" is any other) and mode.

They come from the scripts of the coreset papers (GodXuxilie/Efficient_ACL_via_RCS at 6fc9aef); the papers' text has a
rate of 0.1 for ALF and AFF. For ImageNet at 224 pixels the scripts have standard training alone.
"""

FALLBACK = _SHORT[""]
"""The preset of every mode for a method or a set without a row."""

DIGITS = {
    "slf": Preset(0.1, batch_size=128),
    "alf": Preset(0.1, at=(6, 8), epochs=10, batch_size=128),
    "aff": Preset(0.05, at=(10, 13), epochs=15, batch_size=128),
}
"""Chosen on a quarter of the training images that was held out, for accuracy within the demo's minutes."""


def preset(method: str, mode: str, data: str, leaked: bool = False, origin: str = "") -> Preset:
    """Return the hyper-parameters of a mode.

    data    name of the set to fine-tune on; stl10@32 is STL-10 resized to 32 pixels
    leaked  with the epochs of LEAKED; raises ValueError if it has none
    origin  name of the set of the pre-training
    """
    if leaked:
        if (method, data) not in LEAKED:
            known = " and ".join(f"{method} on {data}" for method, data in LEAKED)
            raise ValueError(f"epochs leaked only for {known}, not for {method} on {data}; leave --protocol out")
        epochs = LEAKED[method, data][mode]
        return replace(preset(method, mode, data), epochs=epochs)
    if data == "digits":
        return DIGITS[mode]
    moved = TRANSFER.get(origin, {})
    if row := moved.get(method, moved.get("", {})).get(mode):
        return row
    rows = PRESETS.get(method, {}).get(mode, {})
    return rows.get(data) or rows.get("") or FALLBACK


def single(method: str, origin: str, target: str) -> bool:
    """Return True if the authors' AFF has one batch-norm route, the adversarial one."""
    one = origin == "imagenet32" or (origin, target) == ("cifar10", "stl10@32")
    return method in ("advcl", "a-infonce", "deacl") or one
