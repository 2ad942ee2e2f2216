"""Sources of each recipe and component, and how a recipe differs from the released code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Credit:
    """The sources of a recipe or of a fine-tuning mode.

    papers   keys of the papers that the method comes from, its own paper first; none if no paper introduced it
    differs  how the recipe differs by default from the released code
    """

    papers: tuple[str, ...]
    differs: str


METHODS = {
    "simclr": Credit(
        ("chen2020simple",),
        "As in the ACL family's code, but without attacks; with LARS on all tensors and bicubic crops. No linear probe "
        "on test images during training; AIR's copy of the code stops after one step.",
    ),
    "acl": Credit(
        ("jiang2020robust",),
        "The two terms are added, not averaged (with LARS this is half the weight decay); the attack starts at "
        "a valid image; only the dual-stream form (the released code has no A2A and A2S either).",
    ),
    "dynacl": Credit(
        ("luo2023dynacl", "jiang2020robust"),
        "ω rises when the augmentation weakens (released: an epoch before); the learning rate falls in each step, not "
        "in each epoch; the momentum encoder is updated between steps, not within one; the run has a seed.",
    ),
    "dynacl-plain": Credit(
        ("luo2023dynacl", "jiang2020robust"),
        "DynACL as in AIR's code: the schedules without the momentum encoder, bicubic crops, and the loss not halved.",
    ),
    "dynacl++": Credit(
        ("luo2023dynacl", "jiang2020robust"),
        "k-means starts from k-means++ with a seed (released: at random, differently in each run); TRADES' attack "
        "starts near the image (released: at the image, where the gradient is rounding noise).",
    ),
    "acl-air": Credit(
        ("xu2023air", "jiang2020robust"),
        "The KL divergence of the equation. Released: p instead of log p, and the arguments reversed, so that it is "
        "negative and nearly ignores one view; the published numbers come from it (--method.divergence released).",
    ),
    "dynacl-air": Credit(
        ("xu2023air", "luo2023dynacl", "jiang2020robust"),
        "As acl-air, on the base of dynacl-plain: AIR's code has no momentum encoder either.",
    ),
    "dynacl-air++": Credit(
        ("xu2023air", "luo2023dynacl", "jiang2020robust"),
        "As dynacl-air; the target of TRADES' attack comes from the route that is trained (released: from the other "
        "route, which is no longer trained). The released code stops with a TypeError before the clusters.",
    ),
    "rocl": Credit(
        ("kim2020rocl",),
        "The equation: one view is the anchor, and its positives share one logarithm. Released: all three views are "
        "anchors, each positive has its own logarithm, and the other side gets no gradient (--method.form released).",
    ),
    "advcl": Credit(
        ("fan2021advcl",),
        "Clusters by a SimCLR encoder trained on the same images (released: trained on ImageNet); the attack runs "
        "in eval mode, and the loss is not multiplied by τ/0.07 (--method.form released changes both); it runs on one "
        "device.",
    ),
    "a-infonce": Credit(
        ("yu2022ainfonce", "fan2021advcl", "robinson2021contrastive"),
        "On the base of advcl as it is here; hard negatives are weighted by their own row (released: by the column); "
        "no matrix is overwritten while it is read (--method.advcl.form released).",
    ),
    "a-infonce-rocl": Credit(
        ("yu2022ainfonce", "kim2020rocl", "robinson2021contrastive"),
        "Clean pairs have gradients on both sides, hard negatives are weighted by their own row, and adversarial pairs "
        "are not halved (--method.rocl.form released changes all three).",
    ),
    "deacl": Credit(
        ("zhang2022deacl",),
        "The teacher is simclr as it is here, not solo-learn's, and gets no gradients; the first convolution has "
        "padding 1, not 2; ImageNet's normalisation, not CIFAR's.",
    ),
    "fare": Credit(
        ("schlarmann2024robust",),
        "The teacher is any encoder, not CLIP; the attack starts at a valid image; weight decay on matrices only; the "
        "recipe has a weak augmentation, frozen batch norms, averaged weights, and rates for small networks.",
    ),
    "lore": Credit(
        ("khodabandeh2025lore", "schlarmann2024robust"),
        "Written from the paper; the authors' code was not read. As fare; two updates on each batch (paper: five), "
        "and the multiplier learns at the encoder's rate (paper: at fifty times that).",
    ),
    "profeat": Credit(
        ("addepalli2024profeat",),
        "Without a projector, because an encoder's file has none: the distances are those of the features alone; "
        "colour jitter and crops instead of AutoAugment.",
    ),
    "acl-rcs": Credit(
        ("xu2023rcs", "jiang2020robust"),
        "Inner products over all weights of the head (released: averaged over outputs); one update of the head per "
        "batch (two); all validation images, attacked once (half, again for each batch). The released code fails.",
    ),
    "dynacl-rcs": Credit(
        ("xu2023rcs", "luo2023dynacl", "jiang2020robust"),
        "As acl-rcs; images are weighted with the ω of their epoch (released: without it), and validation images are "
        "never trained on (released: they are, after the first selection).",
    ),
    "sat-rcs": Credit(
        ("xu2023rcs", "madry2018towards"),
        "As acl-rcs. Released: gradients are averaged over all classes and so are 0 up to rounding, which makes the "
        "selection random; at 32 pixels it stops in the fourth epoch, at 224 it trains on one random subset.",
    ),
    "trades-rcs": Credit(
        ("xu2023rcs", "zhang2019theoretically"),
        "Not in the released code: the selection of sat-rcs with the loss of trades.",
    ),
    "st": Credit(
        (),
        "Hyper-parameters of the coreset papers' supervised training, without the attack; on ImageNet a ResNet-18, not "
        "their WRN-28-10.",
    ),
    "sat": Credit(
        ("madry2018towards",),
        "Hyper-parameters of the coreset papers' code, all images in each epoch; on ImageNet a ResNet-18, not their "
        "WRN-28-10; the attack computes gradients only for pixels.",
    ),
    "trades": Credit(
        ("zhang2019theoretically",),
        "β is 6 (its script: 1); ε is 8/255 with steps of 2/255 (0.031 and 0.007); the target is computed once, not in "
        "each step of the attack; the other hyper-parameters are those of sat.",
    ),
    "slf": Credit(
        (),
        "No weights are chosen on test images, and the number of epochs does not leak from one mode into the next "
        "(as in AIR's code: --protocol leaked).",
    ),
    "alf": Credit(
        ("madry2018towards",),
        "As slf; the attack starts at a valid image.",
    ),
    "aff": Credit(
        ("zhang2019theoretically",),
        "As slf; all weights of the dual network are loaded (AIR's: its batch norms stay random), --method.beta has an "
        "effect (released: ignored), and the attack's target is computed once.",
    ),
    "autolora": Credit(
        ("xu2024autolora", "hu2022lora"),
        "Held-out images decide on learning rate and epoch (released: training images and test images); the loss is "
        "weighted by the accuracy of the low-rank branch (released: without this branch), which all layers have.",
    ),
}
"""The sources by recipe of pre-training and mode of fine-tuning."""

ROUTES = ("xie2020adversarial",)
CLUSTERS = ("arthur2007kmeans", "pedregosa2011scikit")
GHOST_BATCH = ("hoffer2017longer",)
OF_TYPE: dict[str, tuple[str, ...]] = {
    "SimCLR": ("chen2020simple",),
    "SimCLRViews": ("chen2020simple",),
    "ACL": ("jiang2020robust", "chen2020simple", *ROUTES),
    "DynACL": ("luo2023dynacl",),
    "LPAFF": ("luo2023dynacl",),
    "AIR": ("xu2023air",),
    "RCS": ("xu2023rcs",),
    "KMeansMargin": ("ghosh2025improving", *CLUSTERS),
    "RoCL": ("kim2020rocl",),
    "AdvCL": ("fan2021advcl", "khosla2020supervised", *ROUTES),
    "AsymAdvCL": ("yu2022ainfonce",),
    "AsymRoCL": ("yu2022ainfonce",),
    "HN": ("robinson2021contrastive",),
    "DeACL": ("zhang2022deacl",),
    "FARE": ("schlarmann2024robust",),
    "LORE": ("khodabandeh2025lore", "schlarmann2024robust"),
    "ProFeAT": ("addepalli2024profeat",),
    "EMA": ("gowal2020uncovering",),
    "SWA": ("izmailov2018averaging",),
    "Best": ("rice2020overfitting",),
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
    "TorchOptimizer": (),
}
"""Papers of a recipe's components, by their class."""

OF_NETWORK = {r"resnet": "he2016deep", r"wrn-|wide_resnet": "zagoruyko2016wide", r"vit[-_]": "dosovitskiy2021image"}
"""Papers of network families, by the beginning of their names."""

OF_DATA = {
    "cifar10": ("krizhevsky2009learning",),
    "cifar100": ("krizhevsky2009learning",),
    "stl10": ("coates2011analysis",),
    "digits": ("alpaydin1998digits", "pedregosa2011scikit"),
    "imagenet": ("russakovsky2015imagenet", "deng2009imagenet"),
    "imagenet32": ("chrabaszcz2017downsampled", "russakovsky2015imagenet", "deng2009imagenet"),
}
