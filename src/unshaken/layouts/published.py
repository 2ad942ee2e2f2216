"""Layouts of published checkpoints: how they name weights, and what the files do not say."""

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
"""Substitutions, applied in this order, that turn other names of a ResNet's modules into torchvision's."""


@dataclass(frozen=True)
class Layout:
    """The names of weights in files of one kind, and facts about such files. Names are those after the prefix.

    The file has this layout if all of these match:
    signs          patterns, each found in the name of some weight
    outer          patterns, each found in the name of some weight without the prefix
    entries        names of entries beside the weights
    within         pattern of the end of the prefix

    How the weights are read:
    skips          pattern of the end of the prefix of a second network in the file, which is not imported
    drops          weights to leave out: what they are, and a pattern of their names. A weight without the prefix is
                   matched by its name after the modules that it has in common with the prefix
    renames        substitutions before RENAMES
    routes         the route of each branch of `bn_list`
    only           the number of the only branch that is imported

    What the file does not say:
    normalisation  the normalisation if the file holds none; None: the user is asked
    padding        the padding of a 3x3 first convolution; None: the user is asked
    image_size     the image size that a 7x7 first convolution is for
    methods        recipes whose code writes such files; if it is one, the file is assumed to be of that one
    data           the image set that such networks are trained on, if it is always the same
    """

    name: str
    what: str
    signs: tuple[str, ...]
    outer: tuple[str, ...] = ()
    entries: tuple[str, ...] = ()
    within: str = ""
    skips: str | None = None
    drops: tuple[tuple[str, str], ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    routes: tuple[str, ...] = ()
    only: int | None = None
    normalisation: Normalisation | None = None
    padding: Literal[1, 2] | None = 1
    image_size: Literal[96, 224] = 224
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
        """Return what a weight belongs to if it is left out, else None."""
        if (branch := re.search(r"\.bn_list\.(\d+)\.", name)) and self.only not in (None, int(branch[1])):
            return "other branches"
        return next((what for what, pattern in self.drops if re.search(pattern, name)), None)

    def renamed(self, name: str) -> str | None:
        """Return torchvision's name of a weight, with the route inserted; None if this layout has no such weight."""
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
            "DynACL's two encoders (Luo et al. 2023): `encoder_k`, the momentum encoder, is imported",
            signs=(r"\.bn_list\.",),
            outer=(r"encoder_q\.",),
            within=r"encoder_k\.",
            skips=r"encoder_q\.",
            drops=(("encoder_q", r"^encoder_q\."), *ACL_HEAD),
            routes=ACL_ROUTES,
            normalisation=IMAGENET,
            image_size=96,
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
            image_size=96,
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
            skips=r"momentum_backbone\.",
            drops=(
                ("teacher", r"^momentum_(backbone|projector|classifier)\."),
                ("heads", r"^(classifier(_adv)?|projector|predictor)\."),
            ),
        ),
        Layout(
            "sat-wrn", "a wide ResNet with one branch, named as in TRADES' code; also RCS and many others", (WRN_BLOCK,)
        ),
        Layout(
            "autolora-dual",
            "AutoLoRa (Xu et al. 2024) with two branches: without LoRA, only the adversarial branch is imported",
            signs=(r"^layer1\.0\.conv1\.conv\.", r"\.lora_A_nat$", r"\.bn_list\.1\."),
            drops=LORA,
            only=1,
            image_size=96,
        ),
        Layout(
            "acl",
            "ACL, AIR, RCS and DynACL's encoder, fine-tuned or not: branch 0 is clean, branch 1 adversarial",
            signs=(r"^layer1\.0\.bn1\.bn_list\.",),
            drops=ACL_HEAD,
            routes=ACL_ROUTES,
            normalisation=IMAGENET,
            image_size=96,
            methods=_OF_ACL,
        ),
        Layout(
            "rocl",
            "a ResNet with modules named `shortcut`: RoCL, A-InfoNCE on it, pytorch-cifar and many others",
            signs=(r"^layer\d\.0\.shortcut\.0\.",),
        ),
        Layout(
            "deacl",
            "DeACL (Zhang et al. 2022): two online classifiers; a 3x3 first convolution has padding 2",
            signs=(RESNET_BLOCK,),
            outer=(r"classifier_adv\.",),
            within=r"backbone\.",
            skips=r"momentum_backbone\.",
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
            "solo-learn (da Costa et al. 2022), with its options; a 3x3 first convolution has padding 2",
            signs=(RESNET_BLOCK,),
            entries=("hyper_parameters.num_large_crops",),
            within=r"backbone\.",
            padding=2,
        ),
        Layout(
            "lightning",
            "`backbone` and an online `classifier`; a 3x3 first convolution has padding 2 in solo-learn, else 1",
            signs=(RESNET_BLOCK,),
            outer=(r"^classifier\.weight$",),
            within=r"backbone\.",
            padding=None,
        ),
        Layout(
            "autolora",
            "AutoLoRa (Xu et al. 2024): without LoRA, the convolutions are the adversarial branch",
            signs=(r"^layer1\.0\.conv1\.conv\.", r"\.lora_A_nat$"),
            drops=LORA,
            image_size=96,
        ),
        Layout(
            "finetuned",
            "a ResNet with a normalisation module: ACL, AIR, RCS and DynACL(++) after fine-tuning",
            signs=(RESNET_BLOCK, r"^normalize\.(mean|std)$"),
            image_size=96,
        ),
        Layout(
            "sat",
            "adversarial training with RCS on ImageNet (Xu et al. 2023), a ResNet-50 without normalisation",
            signs=(RESNET_BLOCK,),
            entries=("test_natloss_list", "test_natacc_list"),
            normalisation=NONE,
            methods=("sat", "sat-rcs"),
            data="imagenet",
        ),
        Layout(
            "torchvision",
            "any other ResNet with torchvision's and timm's names",
            signs=(RESNET_BLOCK,),
        ),
        Layout("timm", "any other network of timm: name it with --network timm/NAME", signs=(r"(?!)",)),
    )
}
"""Layouts by name, special ones before general ones: the first that matches is used."""

NORMALISATIONS = {"imagenet": IMAGENET, "cifar": CIFAR, "none": NONE}


def normalisation_of(layout: Layout, network: str) -> Normalisation | None:
    """Return the normalisation of a layout whose files do not hold it; None if the user has to be asked.

    DeACL's code normalises by CIFAR's mean in its ResNet-18 and wide ResNet, and not at all in its ResNet-50.
    """
    if layout.name == "deacl":
        return {"resnet50": NONE}.get(network, CIFAR)
    return layout.normalisation
