"""Papers as data: what each recipe is from, where it leaves the released code, and what a run has to cite."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["inproceedings", "article", "techreport", "misc"]
PLACE: dict[Kind, str] = {"inproceedings": "booktitle", "article": "journal", "techreport": "institution"}
VENUES = {
    "AISTATS": "International Conference on Artificial Intelligence and Statistics",
    "BMVC": "British Machine Vision Conference",
    "CVPR": "IEEE/CVF Conference on Computer Vision and Pattern Recognition",
    "ECCV": "European Conference on Computer Vision",
    "ICLR": "International Conference on Learning Representations",
    "ICML": "International Conference on Machine Learning",
    "IJCV": "International Journal of Computer Vision",
    "JMLR": "Journal of Machine Learning Research",
    "NeurIPS": "Advances in Neural Information Processing Systems",
    "SODA": "ACM-SIAM Symposium on Discrete Algorithms",
}
"""In full, as a .bib file has them."""


@dataclass(frozen=True)
class Paper:
    """title and authors are written as in BibTeX; venue is short; further fields are pairs of name and value."""

    key: str
    title: str
    authors: str
    year: int
    venue: str
    arxiv: str = ""
    kind: Kind = "inproceedings"
    fields: tuple[tuple[str, str], ...] = ()

    @property
    def bibtex(self) -> str:
        """One entry of a .bib file."""
        place = {PLACE[self.kind]: VENUES.get(self.venue, self.venue)} if self.kind in PLACE else {}
        eprint = {"eprint": self.arxiv, "archiveprefix": "arXiv"} if self.arxiv else {}
        fields = {"title": self.title, "author": self.authors} | place | dict(self.fields)
        fields |= {"year": str(self.year)} | eprint
        width = max(map(len, fields))
        lines = ",\n".join(f"  {name:<{width}} = {{{value}}}" for name, value in fields.items())
        return f"@{self.kind}{{{self.key},\n{lines}\n}}"

    @property
    def heading(self) -> str:
        """The title for people."""
        return re.sub(r"[{}]", "", self.title)

    @property
    def who(self) -> str:
        """Jiang et al."""
        names = [name.partition(",")[0] for name in self.authors.split(" and ")]
        return " & ".join(names) if len(names) < 3 else f"{names[0]} et al."


_ALL = (
    # robust encoders without labels
    Paper(
        "jiang2020robust",
        "Robust Pre-Training by Adversarial Contrastive Learning",
        "Jiang, Ziyu and Chen, Tianlong and Chen, Ting and Wang, Zhangyang",
        2020,
        "NeurIPS",
        "2010.13337",
        fields=(("volume", "33"),),
    ),
    Paper(
        "luo2023dynacl",
        "Rethinking the Effect of Data Augmentation in Adversarial Contrastive Learning",
        "Luo, Rundong and Wang, Yifei and Wang, Yisen",
        2023,
        "ICLR",
        "2303.01289",
    ),
    Paper(
        "xu2023air",
        "Enhancing Adversarial Contrastive Learning via Adversarial Invariant Regularization",
        "Xu, Xilie and Zhang, Jingfeng and Liu, Feng and Sugiyama, Masashi and Kankanhalli, Mohan",
        2023,
        "NeurIPS",
        "2305.00374",
    ),
    Paper(
        "xu2023rcs",
        "Efficient Adversarial Contrastive Learning via Robustness-Aware Coreset Selection",
        "Xu, Xilie and Zhang, Jingfeng and Liu, Feng and Sugiyama, Masashi and Kankanhalli, Mohan",
        2023,
        "NeurIPS",
        "2302.03857",
    ),
    Paper(
        "kim2020rocl",
        "Adversarial Self-Supervised Contrastive Learning",
        "Kim, Minseon and Tack, Jihoon and Hwang, Sung Ju",
        2020,
        "NeurIPS",
        "2006.07589",
    ),
    Paper(
        "fan2021advcl",
        "When Does Contrastive Learning Preserve Adversarial Robustness from Pretraining to Finetuning?",
        "Fan, Lijie and Liu, Sijia and Chen, Pin-Yu and Zhang, Gaoyuan and Gan, Chuang",
        2021,
        "NeurIPS",
        "2111.01124",
    ),
    Paper(
        "yu2022ainfonce",
        "Adversarial Contrastive Learning via Asymmetric {InfoNCE}",
        "Yu, Qiying and Lou, Jieming and Zhan, Xianyuan and Li, Qizhang and Zuo, Wangmeng and Liu, Yang "
        "and Liu, Jingjing",
        2022,
        "ECCV",
        "2207.08374",
    ),
    Paper(
        "zhang2022deacl",
        "Decoupled Adversarial Contrastive Learning for Self-supervised Adversarial Robustness",
        "Zhang, Chaoning and Zhang, Kang and Zhang, Chenshuang and Niu, Axi and Feng, Jiu and Yoo, Chang D. "
        "and Kweon, In So",
        2022,
        "ECCV",
        "2207.10899",
    ),
    # what they are made of
    Paper(
        "chen2020simple",
        "A Simple Framework for Contrastive Learning of Visual Representations",
        "Chen, Ting and Kornblith, Simon and Norouzi, Mohammad and Hinton, Geoffrey",
        2020,
        "ICML",
        "2002.05709",
    ),
    Paper(
        "khosla2020supervised",
        "Supervised Contrastive Learning",
        "Khosla, Prannay and Teterwak, Piotr and Wang, Chen and Sarna, Aaron and Tian, Yonglong and Isola, Phillip "
        "and Maschinot, Aaron and Liu, Ce and Krishnan, Dilip",
        2020,
        "NeurIPS",
        "2004.11362",
    ),
    Paper(
        "robinson2021contrastive",
        "Contrastive Learning with Hard Negative Samples",
        "Robinson, Joshua and Chuang, Ching-Yao and Sra, Suvrit and Jegelka, Stefanie",
        2021,
        "ICLR",
        "2010.04592",
    ),
    Paper(
        "xie2020adversarial",
        "Adversarial Examples Improve Image Recognition",
        "Xie, Cihang and Tan, Mingxing and Gong, Boqing and Wang, Jiang and Yuille, Alan L. and Le, Quoc V.",
        2020,
        "CVPR",
        "1911.09665",
    ),
    # attacks, and training with labels
    Paper(
        "madry2018towards",
        "Towards Deep Learning Models Resistant to Adversarial Attacks",
        "Madry, Aleksander and Makelov, Aleksandar and Schmidt, Ludwig and Tsipras, Dimitris and Vladu, Adrian",
        2018,
        "ICLR",
        "1706.06083",
    ),
    Paper(
        "zhang2019theoretically",
        "Theoretically Principled Trade-off between Robustness and Accuracy",
        "Zhang, Hongyang and Yu, Yaodong and Jiao, Jiantao and Xing, Eric P. and El Ghaoui, Laurent "
        "and Jordan, Michael I.",
        2019,
        "ICML",
        "1901.08573",
    ),
    Paper(
        "xu2024autolora",
        "{AutoLoRa}: An Automated Robust Fine-Tuning Framework",
        "Xu, Xilie and Zhang, Jingfeng and Kankanhalli, Mohan",
        2024,
        "ICLR",
        "2310.01818",
    ),
    Paper(
        "hu2022lora",
        "{LoRA}: Low-Rank Adaptation of Large Language Models",
        "Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and Li, Yuanzhi and Wang, Shean "
        "and Wang, Lu and Chen, Weizhu",
        2022,
        "ICLR",
        "2106.09685",
    ),
    Paper(
        "croce2020reliable",
        "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks",
        "Croce, Francesco and Hein, Matthias",
        2020,
        "ICML",
        "2003.01690",
    ),
    Paper(
        "croce2020minimally",
        "Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack",
        "Croce, Francesco and Hein, Matthias",
        2020,
        "ICML",
        "1907.02044",
    ),
    Paper(
        "andriushchenko2020square",
        "Square Attack: A Query-Efficient Black-Box Adversarial Attack via Random Search",
        "Andriushchenko, Maksym and Croce, Francesco and Flammarion, Nicolas and Hein, Matthias",
        2020,
        "ECCV",
        "1912.00049",
    ),
    Paper(
        "hendrycks2019benchmarking",
        "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
        "Hendrycks, Dan and Dietterich, Thomas",
        2019,
        "ICLR",
        "1903.12261",
    ),
    # networks
    Paper(
        "he2016deep",
        "Deep Residual Learning for Image Recognition",
        "He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian",
        2016,
        "CVPR",
        "1512.03385",
    ),
    Paper(
        "zagoruyko2016wide",
        "Wide Residual Networks",
        "Zagoruyko, Sergey and Komodakis, Nikos",
        2016,
        "BMVC",
        "1605.07146",
    ),
    Paper(
        "dosovitskiy2021image",
        "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
        "Dosovitskiy, Alexey and Beyer, Lucas and Kolesnikov, Alexander and Weissenborn, Dirk and Zhai, Xiaohua "
        "and Unterthiner, Thomas and Dehghani, Mostafa and Minderer, Matthias and Heigold, Georg and Gelly, Sylvain "
        "and Uszkoreit, Jakob and Houlsby, Neil",
        2021,
        "ICLR",
        "2010.11929",
    ),
    Paper(
        "wightman2019timm",
        "{PyTorch} Image Models",
        "Wightman, Ross",
        2019,
        "GitHub",
        kind="misc",
        fields=(
            ("howpublished", r"\url{https://github.com/huggingface/pytorch-image-models}"),
            ("doi", "10.5281/zenodo.4414861"),
        ),
    ),
    # optimisers
    Paper(
        "you2017large",
        "Large Batch Training of Convolutional Networks",
        "You, Yang and Gitman, Igor and Ginsburg, Boris",
        2017,
        "arXiv",
        "1708.03888",
        kind="misc",
    ),
    Paper(
        "loshchilov2019decoupled",
        "Decoupled Weight Decay Regularization",
        "Loshchilov, Ilya and Hutter, Frank",
        2019,
        "ICLR",
        "1711.05101",
    ),
    # clusters
    Paper(
        "arthur2007kmeans",
        "k-means++: The Advantages of Careful Seeding",
        "Arthur, David and Vassilvitskii, Sergei",
        2007,
        "SODA",
        fields=(("pages", "1027--1035"),),
    ),
    Paper(
        "pedregosa2011scikit",
        "Scikit-learn: Machine Learning in {Python}",
        'Pedregosa, Fabian and Varoquaux, Ga{\\"e}l and Gramfort, Alexandre and Michel, Vincent and Thirion, Bertrand '
        "and Grisel, Olivier and Blondel, Mathieu and Prettenhofer, Peter and Weiss, Ron and Dubourg, Vincent "
        "and Vanderplas, Jake and Passos, Alexandre and Cournapeau, David and Brucher, Matthieu and Perrot, Matthieu "
        "and Duchesnay, {\\'E}douard",
        2011,
        "JMLR",
        kind="article",
        fields=(("volume", "12"), ("pages", "2825--2830")),
    ),
    # images
    Paper(
        "krizhevsky2009learning",
        "Learning Multiple Layers of Features from Tiny Images",
        "Krizhevsky, Alex",
        2009,
        "University of Toronto",
        kind="techreport",
    ),
    Paper(
        "coates2011analysis",
        "An Analysis of Single-Layer Networks in Unsupervised Feature Learning",
        "Coates, Adam and Ng, Andrew and Lee, Honglak",
        2011,
        "AISTATS",
        fields=(("volume", "15"), ("pages", "215--223")),
    ),
    Paper(
        "alpaydin1998digits",
        "Optical Recognition of Handwritten Digits",
        "Alpaydin, Ethem and Kaynak, Cenk",
        1998,
        "UCI",
        kind="misc",
        fields=(("howpublished", "UCI Machine Learning Repository"), ("doi", "10.24432/C50P49")),
    ),
    Paper(
        "russakovsky2015imagenet",
        "{ImageNet} Large Scale Visual Recognition Challenge",
        "Russakovsky, Olga and Deng, Jia and Su, Hao and Krause, Jonathan and Satheesh, Sanjeev and Ma, Sean "
        "and Huang, Zhiheng and Karpathy, Andrej and Khosla, Aditya and Bernstein, Michael and Berg, Alexander C. "
        "and Fei-Fei, Li",
        2015,
        "IJCV",
        "1409.0575",
        "article",
        (("volume", "115"), ("number", "3"), ("pages", "211--252")),
    ),
    Paper(
        "chrabaszcz2017downsampled",
        "A Downsampled Variant of {ImageNet} as an Alternative to the {CIFAR} datasets",
        "Chrabaszcz, Patryk and Loshchilov, Ilya and Hutter, Frank",
        2017,
        "arXiv",
        "1707.08819",
        "misc",
    ),
    Paper(
        "deng2009imagenet",
        "{ImageNet}: A Large-Scale Hierarchical Image Database",
        "Deng, Jia and Dong, Wei and Socher, Richard and Li, Li-Jia and Li, Kai and Fei-Fei, Li",
        2009,
        "CVPR",
        fields=(("pages", "248--255"),),
    ),
)
BIBLIOGRAPHY = {paper.key: paper for paper in _ALL}
"""By key, in the order in which a run's papers are printed."""


@dataclass(frozen=True)
class Credit:
    """papers  keys of what a method comes from, its own first; none if no paper introduced it
    differs  from the released code, by default
    """

    papers: tuple[str, ...]
    differs: str

    @property
    def year(self) -> int | None:
        return BIBLIOGRAPHY[self.papers[0]].year if self.papers else None


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

_ROUTES, _CLUSTERS = ("xie2020adversarial",), ("arthur2007kmeans", "pedregosa2011scikit")
OF_TYPE: dict[str, tuple[str, ...]] = {
    "SimCLR": ("chen2020simple",),  # the method, and the views of that name
    "ACL": ("jiang2020robust", "chen2020simple", *_ROUTES),
    "DynACL": ("luo2023dynacl",),
    "PlusPlus": ("luo2023dynacl",),
    "AIR": ("xu2023air",),
    "RCS": ("xu2023rcs",),
    "RoCL": ("kim2020rocl",),
    "AdvCL": ("fan2021advcl", "khosla2020supervised", *_ROUTES),
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

OF_DATA = {
    "cifar10": ("krizhevsky2009learning",),
    "cifar100": ("krizhevsky2009learning",),
    "stl10": ("coates2011analysis",),
    "digits": ("alpaydin1998digits", "pedregosa2011scikit"),
    "imagenet": ("russakovsky2015imagenet", "deng2009imagenet"),
    "imagenet32": ("chrabaszcz2017downsampled", "russakovsky2015imagenet", "deng2009imagenet"),
}


def of_method(name: str) -> tuple[str, ...]:
    """Of a recipe or mode, with or without a data set after it; none if it is neither."""
    credit = METHODS.get(name.partition("/")[0])
    return credit.papers if credit else ()


def of_network(name: str) -> tuple[str, ...]:
    """Of a backbone by its name; of timm's, the package and the family if it is one of these."""
    families = {r"resnet": "he2016deep", r"wrn-|wide_resnet": "zagoruyko2016wide", r"vit[-_]": "dosovitskiy2021image"}
    bare = name.removeprefix("timm/")
    known = tuple(key for family, key in families.items() if re.match(rf"(?:{family})(?!v2)", bare))
    return known + (("wightman2019timm",) if bare != name or bare == "vit-small" else ())


def cited(recipe: dict[str, Any]) -> list[Paper]:
    """What a run used, each paper once, in the bibliography's order.

    recipe  plain JSON: a recipe, or whatever holds some: recipe.json, the header of a file, a result
    """
    keys = set(_keys(recipe))
    return [paper for key, paper in BIBLIOGRAPHY.items() if key in keys]


def _keys(node: Any, place: str = "") -> Iterator[str]:
    """Of a part and all parts in it; `place` is the name of the field that it is in."""
    if isinstance(node, list):
        for item in node:
            yield from _keys(item, place)
    elif isinstance(node, dict):
        yield from _own(node, place)
        for name, part in node.items():
            yield from _keys(part, name)
    elif isinstance(node, str) and place in ("teacher", "start"):
        yield from of_method(node)


def _own(part: dict[str, Any], place: str) -> Iterator[str]:
    """Of one part by itself. What others trained has a method's name instead of a method, and a mode's as its type."""
    kind, name = str(part.get("type", "")), str(part.get("name", ""))
    yield from OF_TYPE.get(kind, ()) or of_method(kind)
    if kind == "Imported" or place in ("teacher", "start"):
        yield from of_method(name)
    if kind == "Stairs" and place in ("strength", "omega"):
        yield from OF_TYPE["DynACL"]
    if kind == "Source":
        called = Path(name).stem.lower()  # a folder called digits holds somebody's own
        yield from OF_DATA.get(name if called == "digits" else called, ())
    if kind == "Backbone":
        yield from of_network(name)
    if kind == "Exam":
        asked = {"AutoAttack": part.get("autoattack", "none") != "none", "Corruption": part.get("corruptions")}
        yield from (key for attack, is_asked in asked.items() if is_asked for key in OF_TYPE[attack])
    if part.get("clusters"):
        yield from _CLUSTERS
    if isinstance(part.get("routes"), list) and len(part["routes"]) > 1:  # what import says of them is a sentence
        yield from _ROUTES
