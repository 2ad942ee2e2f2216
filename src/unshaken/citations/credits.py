"""What each recipe, part and image set comes from, and where a recipe leaves the released code"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Credit:
    """What a recipe or a mode owes to others.

    papers   keys of what a method comes from, its own first; none if no paper introduced it
    differs  where the recipe leaves the released code, by default
    """

    papers: tuple[str, ...]
    differs: str


METHODS = {
    "simclr": Credit(
        ("chen2020simple",),
        "As the ACL family's code trains it without attacks, LARS on all tensors and bicubic crops included; no "
        "probe on test images on the way, and it runs (AIR's copy stops after one step).",
    ),
    "acl": Credit(
        ("jiang2020robust",),
        "The two terms are added, not averaged (under LARS this is half the weight decay); the attack starts at "
        "a valid image; dual stream alone (A2A and A2S are not in their code either).",
    ),
    "dynacl": Credit(
        ("luo2023dynacl", "jiang2020robust"),
        "ω climbs when the augmentation weakens (released: an epoch before), the rate falls per step, not per "
        "epoch, the momentum encoder follows between steps, not within one, and there is a seed.",
    ),
    "dynacl-plain": Credit(
        ("luo2023dynacl", "jiang2020robust"),
        "The DynACL in AIR's code: the schedules without the momentum encoder, bicubic crops and the loss not halved.",
    ),
    "dynacl++": Credit(
        ("luo2023dynacl", "jiang2020robust"),
        "k-means is seeded, by k-means++ (released: anew at each run, at random), and the attack of TRADES "
        "starts beside the image (released: on it, where the gradient is rounding noise).",
    ),
    "acl-air": Credit(
        ("xu2023air", "jiang2020robust"),
        "The KL of the equation. Released: p for log p, and the arguments reversed, so it is negative and nearly "
        "blind to one view; the published numbers rest on that (--method.divergence released).",
    ),
    "dynacl-air": Credit(
        ("xu2023air", "luo2023dynacl", "jiang2020robust"),
        "As acl-air, on dynacl-plain: AIR's code has no momentum encoder either.",
    ),
    "dynacl-air++": Credit(
        ("xu2023air", "luo2023dynacl", "jiang2020robust"),
        "As dynacl-air; the inner target of TRADES comes from the route that learns (released: from the other, "
        "left behind), and it runs (released: a TypeError before the clusters).",
    ),
    "rocl": Credit(
        ("kim2020rocl",),
        "The equation: one view is the anchor, its positives share a logarithm. Released: all three views are "
        "anchors, each positive has a logarithm of its own, no gradient to the other side (--method.form "
        "released).",
    ),
    "advcl": Credit(
        ("fan2021advcl",),
        "Clusters of a SimCLR encoder of the same images (released: of one trained on ImageNet); the attack is "
        "in eval mode and the loss not multiplied by τ/0.07 (both: --method.form released); one device is "
        "enough.",
    ),
    "a-infonce": Credit(
        ("yu2022ainfonce", "fan2021advcl", "robinson2021contrastive"),
        "On advcl as it is here; hard negatives are weighed by their own row (released: by the column), and no "
        "matrix is overwritten while it is read (--method.advcl.form released).",
    ),
    "a-infonce-rocl": Credit(
        ("yu2022ainfonce", "kim2020rocl", "robinson2021contrastive"),
        "Gradient to both sides of clean pairs, hard negatives weighed by their own row, adversarial pairs not "
        "halved (released form of all three: --method.rocl.form released).",
    ),
    "deacl": Credit(
        ("zhang2022deacl",),
        "The teacher is simclr as it is here, not solo-learn's, and gets no gradients; the stem is padded by 1, "
        "not by 2; ImageNet's normalisation, not CIFAR's.",
    ),
    "acl-rcs": Credit(
        ("xu2023rcs", "jiang2020robust"),
        "Inner products over the whole head (released: averaged over outputs), one move of the head a pick (two), "
        "all of the validation images, attacked once (half, anew for each pick), the exact budget; and it runs.",
    ),
    "dynacl-rcs": Credit(
        ("xu2023rcs", "luo2023dynacl", "jiang2020robust"),
        "As acl-rcs; candidates are weighed with the ω of their epoch (released: without it), and validation images "
        "stay aside (released: they come back with the first reload).",
    ),
    "sat-rcs": Credit(
        ("xu2023rcs", "madry2018towards"),
        "As acl-rcs. Released: gradients averaged over all classes are 0 but for rounding, so noise selects; at 32 "
        "pixels it stops in the fourth epoch, at 224 one random subset is trained on.",
    ),
    "trades-rcs": Credit(
        ("xu2023rcs", "zhang2019theoretically"),
        "Not in the released code: the selection of sat-rcs, by the loss of trades.",
    ),
    "st": Credit(
        (),
        "Settings of the coreset papers' supervised training, without the attack; but on ImageNet on a ResNet-18, not "
        "on their WRN-28-10.",
    ),
    "sat": Credit(
        ("madry2018towards",),
        "Settings of the coreset papers' code, all images in each epoch; but on ImageNet on a ResNet-18, not on their "
        "WRN-28-10; the attack differentiates pixels alone.",
    ),
    "trades": Credit(
        ("zhang2019theoretically",),
        "β 6 (its script: 1), ε 8/255 in steps of 2/255 (0.031 and 0.007), the target computed once, not at each step "
        "of the attack; the other settings are those of sat.",
    ),
    "slf": Credit(
        (),
        "No weights chosen on test images, and no epochs that leak from one mode into the next (AIR's: "
        "--protocol leaked).",
    ),
    "alf": Credit(
        ("madry2018towards",),
        "As slf; the attack starts at a valid image.",
    ),
    "aff": Credit(
        ("zhang2019theoretically",),
        "As slf; the dual network is loaded whole (AIR's: its batch norms stay random), --method.beta counts "
        "(released: ignored), and the attack's target is computed once.",
    ),
    "autolora": Credit(
        ("xu2024autolora", "hu2022lora"),
        "Images kept aside decide on rate and epoch (released: those trained on, and the test images); the loss is "
        "weighed by the accuracy of the low-rank branch (released: without it), which every network has whole.",
    ),
}
"""By recipe of pre-training, and mode of fine-tuning."""

ROUTES = ("xie2020adversarial",)
CLUSTERS = ("arthur2007kmeans", "pedregosa2011scikit")
OF_TYPE: dict[str, tuple[str, ...]] = {
    "SimCLR": ("chen2020simple",),
    "SimCLRViews": ("chen2020simple",),
    "ACL": ("jiang2020robust", "chen2020simple", *ROUTES),
    "DynACL": ("luo2023dynacl",),
    "LPAFF": ("luo2023dynacl",),
    "AIR": ("xu2023air",),
    "RCS": ("xu2023rcs",),
    "RoCL": ("kim2020rocl",),
    "AdvCL": ("fan2021advcl", "khosla2020supervised", *ROUTES),
    "AsymAdvCL": ("yu2022ainfonce",),
    "AsymRoCL": ("yu2022ainfonce",),
    "HN": ("robinson2021contrastive",),
    "DeACL": ("zhang2022deacl",),
    "ST": (),
    "SAT": ("madry2018towards",),
    "TRADES": ("zhang2019theoretically",),
    "SLF": (),
    "ALF": ("madry2018towards",),
    "AFF": ("zhang2019theoretically",),
    "AutoLoRa": ("xu2024autolora", "hu2022lora"),
    "AutoRate": ("croce2020reliable",),
    "PGD": ("madry2018towards",),
    "AutoAttack": ("croce2020reliable", "croce2020minimally", "andriushchenko2020square"),
    "Corruption": ("hendrycks2019benchmarking",),
    "LARS": ("you2017large",),
    "AdamW": ("loshchilov2019decoupled",),
    "SGD": (),
}
"""What a part of a recipe comes from, by its class."""

OF_NETWORK = {r"resnet": "he2016deep", r"wrn-|wide_resnet": "zagoruyko2016wide", r"vit[-_]": "dosovitskiy2021image"}
"""What a family of networks comes from, by how its names begin."""

OF_DATA = {
    "cifar10": ("krizhevsky2009learning",),
    "cifar100": ("krizhevsky2009learning",),
    "stl10": ("coates2011analysis",),
    "digits": ("alpaydin1998digits", "pedregosa2011scikit"),
    "imagenet": ("russakovsky2015imagenet", "deng2009imagenet"),
    "imagenet32": ("chrabaszcz2017downsampled", "russakovsky2015imagenet", "deng2009imagenet"),
}
