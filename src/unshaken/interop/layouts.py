"""How published files name their weights, and what each of them does not say: one row a layout."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from unshaken.nets.backbone import IMAGENET_MEAN, IMAGENET_STD

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]

IMAGENET: Normalisation = (IMAGENET_MEAN, IMAGENET_STD)
CIFAR: Normalisation = ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))
NONE: Normalisation = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

ACL_ROUTES = ("clean", "adv")
ACL_HEAD = (("projection head", r"^fc\.(fc|bn)\d"),)
LORA = (("LoRA", r"\.lora_[AB]_(nat|adv)$"),)
RESNET_BLOCK, WRN_BLOCK = r"^layer1\.0\.conv1\.", r"^block1\.layer\.0\.conv1\."

RENAMES = (
    (r"^(layer\d+\.\d+)\.shortcut\.", r"\1.downsample."),
    (r"\bdownsample\.conv\.", "downsample.0."),
    (r"\bdownsample\.bn\.", "downsample.1."),
    (r"\b(conv\d|downsample\.0)\.conv\.", r"\1."),
)
"""To torchvision's names from those that others have for the same parts, one after the other."""


@dataclass(frozen=True)
class Layout:
    """What weights are called, and what is known of those who call them so. Names are without the prefix.

    signs          found in some name each, or it is another layout
    outer          the same, of names that do not have the prefix
    entries        the file has these entries beside the weights, or it is another layout
    within         what the prefix ends in, or it is another layout
    passes         what the prefix of another copy of the network ends in, which is not taken
    drops          what is left out, by what it is; names outside of the prefix are matched without what they share
    renames        before RENAMES
    routes         what the branches of `bn_list` are for, by their number
    only           the number of the branch that is taken alone
    normalisation  where the file holds none; None if it has to be asked for
    padding        of a 3x3 stem; None if it has to be asked for
    wide           the side in pixels that a 7x7 stem is for
    methods        recipes whose code writes such files: with one, it is that one's
    data           what it was trained on, where no other set was
    """

    name: str
    what: str
    signs: tuple[str, ...]
    outer: tuple[str, ...] = ()
    entries: tuple[str, ...] = ()
    within: str = ""
    passes: str | None = None
    drops: tuple[tuple[str, str], ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    routes: tuple[str, ...] = ()
    only: int | None = None
    normalisation: Normalisation | None = None
    padding: Literal[1, 2] | None = 1
    wide: Literal[96, 224] = 224
    methods: tuple[str, ...] = ()
    data: str | None = None

    def fits(self, names: Iterable[str], others: Iterable[str], prefix: str, entries: Iterable[str]) -> bool:
        names, others = list(names), list(others)
        return (
            bool(re.search(self.within + r"$", prefix))
            and set(self.entries) <= set(entries)
            and all(any(re.search(sign, name) for name in names) for sign in self.signs)
            and all(any(re.search(sign, name) for name in others) for sign in self.outer)
        )

    def dropped(self, name: str) -> str | None:
        """What a weight belongs to that is left out."""
        if (branch := re.search(r"\.bn_list\.(\d+)\.", name)) and self.only not in (None, int(branch[1])):
            return "other branches"
        return next((what for what, pattern in self.drops if re.search(pattern, name)), None)

    def renamed(self, name: str) -> str | None:
        """To torchvision's name, with our own for routes; None if this layout has no such weight."""
        for old, new in (*self.renames, *RENAMES):
            name = re.sub(old, new, name)
        branch = re.search(r"\.bn_list\.(\d+)\.", name)
        if branch is None:
            return name
        at = int(branch[1])
        if self.only is not None:
            return name.replace(branch[0], ".")
        return name.replace(branch[0], f".routes.{self.routes[at]}.") if at < len(self.routes) else None


_OF_ACL = ("acl", "acl-air", "acl-rcs", "dynacl", "dynacl-air", "dynacl-rcs", "simclr")
LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            "dynacl",
            "DynACL's two encoders (Luo et al. 2023): `encoder_k`, the momentum one, is taken",
            signs=(r"\.bn_list\.",),
            outer=(r"encoder_q\.",),
            within=r"encoder_k\.",
            passes=r"encoder_q\.",
            drops=(("encoder_q", r"^encoder_q\."), *ACL_HEAD),
            routes=ACL_ROUTES,
            normalisation=IMAGENET,
            wide=96,
            methods=("dynacl", "dynacl-air", "dynacl-rcs"),
        ),
        Layout(
            "acl-old",
            "ACL before its release (Jiang et al. 2020): `bn` and `bn_adv`",
            signs=(r"^layer1\.0\.bn1_adv\.",),
            drops=ACL_HEAD,
            renames=(
                (r"downsample\.bn_adv\.", "downsample.1.bn_list.1."),
                (r"downsample\.bn\.", "downsample.1.bn_list.0."),
                (r"\b(bn\d)_adv\.", r"\1.bn_list.1."),
                (r"\b(bn\d)\.(?!bn_list)", r"\1.bn_list.0."),
            ),
            routes=ACL_ROUTES,
            normalisation=IMAGENET,
            wide=96,
            methods=("acl",),
        ),
        Layout(
            "advcl",
            "AdvCL (Fan et al. 2021) and A-InfoNCE on it (Yu et al. 2022): three branches, no normalisation",
            signs=(r"^layer1\.0\.bn1\.bn_list\.2\.",),
            drops=(("heads", r"^(fc_\d+|head_(ce|proj|pred))\."),),
            routes=("clean", "adv", "adv_ce"),
            normalisation=NONE,
            methods=("advcl", "a-infonce"),
        ),
        Layout(
            "acl-wrn",
            "ACL and RCS on ImageNet-32 (Xu et al. 2023), a wide ResNet: branch 0 is the adversarial one",
            signs=(WRN_BLOCK, r"\.bn_list\."),
            drops=(("projection head", r"^linear\.(fc|bn)\d\."),),
            routes=("adv", "clean"),
            normalisation=NONE,
            methods=("acl", "acl-rcs"),
            data="imagenet32",
        ),
        Layout(
            "deacl-wrn",
            "DeACL's and solo-learn's wide ResNet: convolutions with biases, leaky ReLUs",
            signs=(WRN_BLOCK, r"^conv1\.bias$"),
            passes=r"momentum_backbone\.",
            drops=(
                ("teacher", r"^momentum_(backbone|projector|classifier)\."),
                ("heads", r"^(classifier(_adv)?|projector|predictor)\."),
            ),
        ),
        Layout(
            "sat-wrn", "a wide ResNet with one branch in TRADES' names, as RCS and many others have it", (WRN_BLOCK,)
        ),
        Layout(
            "autolora-dual",
            "AutoLoRa (Xu et al. 2024) with two branches: the convolutions without LoRA, and the adversarial branch",
            signs=(r"^layer1\.0\.conv1\.conv\.", r"\.lora_A_nat$", r"\.bn_list\.1\."),
            drops=LORA,
            only=1,
            wide=96,
        ),
        Layout(
            "acl",
            "ACL, AIR, RCS and DynACL's encoder, fine-tuned with both branches or not: 0 is clean, 1 adversarial",
            signs=(r"^layer1\.0\.bn1\.bn_list\.",),
            drops=ACL_HEAD,
            routes=ACL_ROUTES,
            normalisation=IMAGENET,
            wide=96,
            methods=_OF_ACL,
        ),
        Layout(
            "rocl",
            "a ResNet whose shortcut is called so: RoCL, A-InfoNCE on it, pytorch-cifar and many others",
            signs=(r"^layer\d\.0\.shortcut\.0\.",),
        ),
        Layout(
            "deacl",
            "DeACL (Zhang et al. 2022): two online classifiers beside the network; a 3x3 stem has padding 2",
            signs=(RESNET_BLOCK,),
            outer=(r"classifier_adv\.",),
            within=r"backbone\.",
            passes=r"momentum_backbone\.",
            drops=(
                ("teacher", r"^momentum_(backbone|projector|classifier)\."),
                ("heads", r"^(classifier(_adv)?|projector|predictor)\."),
                ("teacher's queue", r"^queue"),
            ),
            padding=2,
            methods=("deacl",),
        ),
        Layout(
            "solo-learn",
            "solo-learn (da Costa et al. 2022): its options lie beside the weights; a 3x3 stem has padding 2",
            signs=(RESNET_BLOCK,),
            entries=("hyper_parameters.num_large_crops",),
            within=r"backbone\.",
            padding=2,
        ),
        Layout(
            "lightning",
            "`backbone` beside an online `classifier`: solo-learn's 3x3 stem has padding 2, that of others 1",
            signs=(RESNET_BLOCK,),
            outer=(r"^classifier\.weight$",),
            within=r"backbone\.",
            padding=None,
        ),
        Layout(
            "autolora",
            "AutoLoRa (Xu et al. 2024): the convolutions without LoRA, which are the adversarial branch",
            signs=(r"^layer1\.0\.conv1\.conv\.", r"\.lora_A_nat$"),
            drops=LORA,
            wide=96,
        ),
        Layout(
            "finetuned",
            "a ResNet with its normalisation inside, as exports of ACL, AIR, RCS, DynACL(++) after fine-tuning have it",
            signs=(RESNET_BLOCK, r"^normalize\.(mean|std)$"),
            wide=96,
        ),
        Layout(
            "sat",
            "adversarial training with RCS on ImageNet (Xu et al. 2023), a ResNet-50 with no normalisation",
            signs=(RESNET_BLOCK,),
            entries=("test_natloss_list", "test_natacc_list"),
            normalisation=NONE,
            methods=("sat", "sat-rcs"),
            data="imagenet",
        ),
        Layout(
            "torchvision",
            "a ResNet in torchvision's and timm's names, of anybody",
            signs=(RESNET_BLOCK,),
        ),
        Layout("timm", "any other network of timm's: say which by --network timm/NAME", signs=(r"(?!)",)),
    )
}
"""By name, the more particular ones first: the first that fits is taken."""

NORMALISATIONS = {"imagenet": IMAGENET, "cifar": CIFAR, "none": NONE}


def normalisation_of(layout: Layout, network: str) -> Normalisation | None:
    """Of a file that holds none. DeACL's ResNet-18 and wide ResNet have CIFAR's inside, its ResNet-50 has none."""
    if layout.name == "deacl":
        return {"resnet50": NONE}.get(network, CIFAR)
    return layout.normalisation
