"""How published files name their weights, and what each of them does not say: one row a layout."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from unshaken.nets.backbone import IMAGENET_MEAN, IMAGENET_STD

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]

IMAGENET: Normalisation = (IMAGENET_MEAN, IMAGENET_STD)
CIFAR: Normalisation = ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))
NONE: Normalisation = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

ACL_ROUTES = ("clean", "adv")
DUAL_SHORTCUT = ((r"downsample\.conv\.", "downsample.0."), (r"downsample\.bn\.", "downsample.1."))
ACL_HEAD = {"projection head": r"^fc\.(fc|bn)\d\."}
RESNET_BLOCK, WRN_BLOCK = r"^layer1\.0\.conv1\.", r"^block1\.layer\.0\.conv1\."


@dataclass(frozen=True)
class Layout:
    """What weights are called, and what is known of those who call them so. Names are without `module.`.

    signs          found in some name each, or it is another layout
    beside         found beside the weights in the file, all of them, or it is another layout
    drops          what is left out, by what it is; matched against the whole name
    prefix         cut off; without it a name is not known
    renames        to torchvision's names with `bn_list.i`, one after the other
    routes         what the branches of `bn_list` are for, by their number
    normalisation  where the file holds none; None if it cannot be known
    padding        of a 3x3 stem
    wide           the side in pixels that a 7x7 stem is for
    method, data   which paper's presets go with it, and what it was trained on, unless the user knows better
    """

    name: str
    what: str
    signs: tuple[str, ...]
    beside: tuple[str, ...] = ()
    drops: tuple[tuple[str, str], ...] = ()
    prefix: str = ""
    renames: tuple[tuple[str, str], ...] = ()
    routes: tuple[str, ...] = ()
    normalisation: Normalisation | None = None
    padding: Literal[1, 2] = 1
    wide: Literal[96, 224] = 224
    method: str = "imported"
    data: str = "cifar10"

    def fits(self, names: list[str], beside: tuple[str, ...]) -> bool:
        there = set(self.beside) <= set(beside)
        return there and all(any(re.search(sign, name) for name in names) for sign in self.signs)

    def dropped(self, name: str) -> str | None:
        """What a weight belongs to that is left out."""
        return next((what for what, pattern in self.drops if re.search(pattern, name)), None)

    def renamed(self, name: str) -> str | None:
        """To torchvision's name, with our own for routes; None if this layout has no such weight."""
        if not name.startswith(self.prefix):
            return None
        name = name.removeprefix(self.prefix)
        for old, new in self.renames:
            name = re.sub(old, new, name)
        branch = re.search(r"\.bn_list\.(\d+)\.", name)
        if branch is None:
            return name
        at = int(branch[1])
        return name.replace(branch[0], f".routes.{self.routes[at]}.") if at < len(self.routes) else None


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            "dynacl",
            "DynACL's two encoders (Luo et al. 2023): `encoder_k`, the momentum one, is taken",
            signs=(r"^encoder_k\.", r"\.bn_list\."),
            drops=(("encoder_q", r"^encoder_q\."), ("projection head", r"^encoder_k\.fc\.(fc|bn)\d\.")),
            prefix="encoder_k.",
            renames=DUAL_SHORTCUT,
            routes=ACL_ROUTES,
            normalisation=IMAGENET,
            wide=96,
            method="dynacl",
        ),
        Layout(
            "acl-old",
            "ACL before its release (Jiang et al. 2020): `bn` and `bn_adv`",
            signs=(r"^layer1\.0\.bn1_adv\.",),
            drops=tuple({"projection head": r"^fc\.(fc|bn)\d"}.items()),
            renames=(
                (r"downsample\.conv\.", "downsample.0."),
                (r"downsample\.bn_adv\.", "downsample.1.bn_list.1."),
                (r"downsample\.bn\.", "downsample.1.bn_list.0."),
                (r"\b(bn\d)_adv\.", r"\1.bn_list.1."),
                (r"\b(bn\d)\.(?!bn_list)", r"\1.bn_list.0."),
            ),
            routes=ACL_ROUTES,
            normalisation=IMAGENET,
            wide=96,
            method="acl",
        ),
        Layout(
            "advcl",
            "AdvCL (Fan et al. 2021) and A-InfoNCE on it (Yu et al. 2022): three branches, no normalisation",
            signs=(r"^layer1\.0\.bn1\.bn_list\.2\.",),
            drops=(("heads", r"^(fc_\d+|head_(ce|proj|pred))\."),),
            renames=DUAL_SHORTCUT,
            routes=("clean", "adv", "adv_ce"),
            normalisation=NONE,
            method="advcl",
        ),
        Layout(
            "acl-wrn",
            "ACL and RCS on ImageNet-32 (Xu et al. 2023), a wide ResNet: branch 0 is the adversarial one",
            signs=(WRN_BLOCK, r"\.bn_list\."),
            drops=(("projection head", r"^linear\.(fc|bn)\d\."),),
            routes=("adv", "clean"),
            normalisation=NONE,
            method="acl",
            data="imagenet32",
        ),
        Layout(
            "sat-wrn",
            "adversarial training with RCS on ImageNet-32 (Xu et al. 2023), a wide ResNet with one branch",
            signs=(WRN_BLOCK,),
            normalisation=NONE,
            method="sat",
            data="imagenet32",
        ),
        Layout(
            "acl",
            "ACL, AIR, RCS and DynACL's encoder, fine-tuned with both branches or not: 0 is clean, 1 adversarial",
            signs=(r"^layer1\.0\.bn1\.bn_list\.",),
            drops=tuple(ACL_HEAD.items()),
            renames=DUAL_SHORTCUT,
            routes=ACL_ROUTES,
            normalisation=IMAGENET,
            wide=96,
            method="acl",
        ),
        Layout(
            "rocl",
            "RoCL (Kim et al. 2020) and A-InfoNCE on it, and other ResNets whose shortcut is called so",
            signs=(r"^layer\d\.0\.shortcut\.0\.",),
            renames=((r"\.shortcut\.", ".downsample."),),
            normalisation=NONE,
            method="rocl",
        ),
        Layout(
            "deacl",
            "DeACL (Zhang et al. 2022) and others by Lightning or solo-learn; a 3x3 stem has padding 2",
            signs=(r"^backbone\.layer1\.0\.conv1\.",),
            drops=(
                ("teacher", r"^momentum_(backbone|projector|classifier)\."),
                ("heads", r"^(classifier(_adv)?|projector|predictor)\."),
                ("teacher's queue", r"^queue"),
            ),
            prefix="backbone.",
            normalisation=CIFAR,
            padding=2,
            method="deacl",
        ),
        Layout(
            "autolora",
            "AutoLoRa (Xu et al. 2024): the convolutions without LoRA, which are the adversarial branch",
            signs=(r"^layer1\.0\.conv1\.conv\.", r"\.lora_A_nat$"),
            drops=(("LoRA", r"\.lora_[AB]_(nat|adv)$"),),
            renames=((r"\b(conv\d|downsample\.0)\.conv\.", r"\1."),),
            wide=96,
        ),
        Layout(
            "finetuned",
            "exports of ACL, AIR, RCS, DynACL(++) after fine-tuning: one branch, and its normalisation with it",
            signs=(RESNET_BLOCK, r"^normalize\.(mean|std)$"),
            wide=96,
            method="acl",
        ),
        Layout(
            "sat",
            "adversarial training with RCS on ImageNet (Xu et al. 2023), a ResNet-50 with no normalisation",
            signs=(RESNET_BLOCK,),
            beside=("test_natloss_list", "test_natacc_list"),
            normalisation=NONE,
            method="sat",
            data="imagenet",
        ),
        Layout(
            "torchvision",
            "a ResNet of torchvision or timm: --mean and --std, or --normalisation, must be given",
            signs=(RESNET_BLOCK,),
        ),
    )
}
"""By name, the more particular ones first: the first that fits is taken."""

NORMALISATIONS = {"imagenet": IMAGENET, "cifar": CIFAR, "none": NONE}
