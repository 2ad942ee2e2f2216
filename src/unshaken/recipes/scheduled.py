"""Recipes with their own schedules: RoCL, AdvCL, A-InfoNCE, DeACL and supervised training."""

from __future__ import annotations

from dataclasses import replace

from unshaken.attacks.pgd import PGD
from unshaken.base.schedule import WarmupCosine
from unshaken.methods.advcl import AdvCL
from unshaken.methods.ainfonce import HN, IP, Adaptive, AsymAdvCL, AsymRoCL
from unshaken.methods.base import Method
from unshaken.methods.deacl import DeACL
from unshaken.methods.rocl import RoCL
from unshaken.methods.supervised import SAT, ST, TRADES
from unshaken.nets.heads import Head, LinearClassifier, NoHead, Projection, ProjectionWithClassifiers
from unshaken.recipes.datasets import DatasetDefaults, changed_views
from unshaken.recipes.pretrain import Pretrain
from unshaken.train.optim import LARS, SGD, Optimizer
from unshaken.transforms.views import Concat, Views


def rocl(defaults: DatasetDefaults) -> Pretrain:
    """Contrastive learning with an instance-wise adversary as a third view, one batch-norm route. Kim et al. 2020."""
    return rocl_recipe("rocl", rocl_method(defaults), defaults, peak=1.5)


def advcl(defaults: DatasetDefaults) -> Pretrain:
    """Contrast with adversarial and high-frequency views, and pseudo-labels of clusters. Fan et al. 2021."""
    return advcl_recipe("advcl", advcl_method(defaults), defaults, peak=0.5, epochs=1000)


def a_infonce(defaults: DatasetDefaults) -> Pretrain:
    """AdvCL with adversarial views as inferior positives and hard negatives. Yu et al. 2022."""
    cifar100 = defaults.data.name == "cifar100"  # the authors' values; other sets take those for CIFAR-10
    ip = IP(alpha=0.3, adv_weight=1.5) if cifar100 else IP(alpha=0.2, adv_weight=0.7)
    adaptive = Adaptive(epochs=20, d_min=0.5) if cifar100 else Adaptive(epochs=30, d_min=0.4)
    hn = HN(tau_plus=0.01 if cifar100 else 0.1, beta=1.0)
    if defaults.data.name == "digits":
        adaptive = replace(adaptive, epochs=3)
    method = AsymAdvCL(advcl_method(defaults), ip, hn, adaptive)
    return advcl_recipe("a-infonce", method, defaults, peak=2.0, epochs=400)


def a_infonce_rocl(defaults: DatasetDefaults) -> Pretrain:
    """RoCL with adversarial views as inferior positives and hard negatives. Yu et al. 2022."""
    cifar100 = defaults.data.name == "cifar100"
    method = AsymRoCL(rocl_method(defaults), IP(alpha=0.2), HN(tau_plus=0.1 if cifar100 else 0.12, beta=1.0))
    return rocl_recipe("a-infonce-rocl", method, defaults, peak=3.0 if cifar100 else 4.5)


def deacl(defaults: DatasetDefaults) -> Pretrain:
    """A robust student of a contrastive teacher, or by --teacher of any encoder. Zhang et al. 2022."""
    return scheduled_recipe(
        "deacl",
        DeACL(PGD(defaults.ball, steps=5), gamma=2.0),
        defaults,
        views=defaults.weak_views,
        head=NoHead(),
        optimizer=SGD(0.9, 5e-4),
        lr=WarmupCosine(0.5, warmup=10, floor=0.0),
        epochs=100,
        batch_size=256,
        teacher=f"simclr/{defaults.data.name}",
        start="teacher",
    )


def st(defaults: DatasetDefaults) -> Pretrain:
    """Standard training, with labels: the supervised baseline that does not know of attacks.

    unshaken pretrain st/imagenet32   |   4 h on one H200 (projected; reported: 67 h)   |   SA / RA to CIFAR-10:
    ALF 10.12 / 10.04, AFF 84.73 / 51.91 (reported; not run here)
    """
    return supervised_recipe("st", ST(), defaults)


def sat(defaults: DatasetDefaults) -> Pretrain:
    """Standard adversarial training, with labels. Madry et al. 2018.

    unshaken pretrain sat/imagenet32   |   27 h on one H200 (projected; reported: 342 h)   |   SA / RA to CIFAR-10:
    ALF 85.90 / 50.89, AFF 89.35 / 59.68 (reported; not run here)
    """
    attack = PGD(defaults.ball, steps=10)
    if defaults.data.name == "imagenet":
        attack = PGD(defaults.ball, steps=3, rel_step_size=2 / 3)
    return supervised_recipe("sat", SAT(attack), defaults)


def trades(defaults: DatasetDefaults) -> Pretrain:
    """TRADES as pre-training, with labels. Zhang et al. 2019."""
    attack = PGD(defaults.ball, steps=10, init="gaussian")
    return supervised_recipe("trades", TRADES(attack, beta=6.0), defaults)


DIGITS_PEAKS = {
    "rocl": 5.0,
    "advcl": 1.0,
    "a-infonce": 1.5,
    "a-infonce-rocl": 5.0,
    "deacl": 0.5,
    "st": 0.1,
    "sat": 0.1,
    "trades": 0.1,
}
"""Peak learning rates on digits, chosen on a quarter of the training images that was set aside (docs/log.md)."""


def scheduled_recipe(
    name: str,
    method: Method,
    defaults: DatasetDefaults,
    *,
    views: Views,
    head: Head,
    optimizer: Optimizer,
    lr: WarmupCosine,
    epochs: int,
    batch_size: int,
    teacher: str | None = None,
    start: str | None = None,
    clusters: tuple[int, ...] = (),
) -> Pretrain:
    """A method with its own head, views and schedule. On digits: the demo's epochs, and the peak in DIGITS_PEAKS."""
    if defaults.data.name == "digits":
        peak = DIGITS_PEAKS[name]
        lr = WarmupCosine(peak, warmup=min(lr.warmup, 3), floor=lr.floor * peak / lr.peak)
        epochs, batch_size = defaults.epochs, defaults.batch_size
    return Pretrain(
        name=name,
        method=method,
        data=defaults.data,
        split=defaults.split,
        backbone=defaults.backbone,
        head=head,
        views=views,
        optimizer=optimizer,
        lr=lr,
        epochs=epochs,
        batch_size=batch_size,
        teacher=teacher,
        start=start,
        clusters=clusters,
    )


def supervised_recipe(name: str, method: Method, defaults: DatasetDefaults) -> Pretrain:
    """Training as the coreset papers do it on ImageNet, for every set at 32 pixels.

    STL-10 has labels in its train split alone.
    """
    recipe = scheduled_recipe(
        name,
        method,
        defaults,
        views=defaults.weak_views,
        head=LinearClassifier(),
        optimizer=SGD(0.9, 5e-4, nesterov=True),
        lr=WarmupCosine(0.1, warmup=0),
        epochs=100,
        batch_size=256,
    )
    recipe = replace(recipe, split="train")
    if defaults.data.name != "imagenet":
        return recipe
    return replace(recipe, optimizer=defaults.optimizer, lr=defaults.lr, epochs=defaults.epochs)


def rocl_method(defaults: DatasetDefaults) -> RoCL:
    return RoCL(PGD(defaults.ball, steps=7, rel_step_size=0.007 / 0.0314), tau=0.5, weight=1 / 256)


def rocl_recipe(name: str, method: Method, defaults: DatasetDefaults, peak: float) -> Pretrain:
    recipe = scheduled_recipe(
        name,
        method,
        defaults,
        views=changed_views(defaults.views, min_area=0.08, filter="bilinear"),
        head=Projection(2, hidden=2048, out=128, norm="none"),
        optimizer=LARS(),
        lr=WarmupCosine(peak, warmup=10, floor=0.0),
        epochs=1000,
        batch_size=512,
    )
    return without_normalisation(recipe)


def advcl_method(defaults: DatasetDefaults) -> AdvCL:
    """The high-pass radius is a quarter of the image's side."""
    return AdvCL(PGD(defaults.ball, steps=5), tau=0.5, ce_weight=0.2, radius=defaults.backbone.image_size / 4)


def advcl_recipe(name: str, method: Method, defaults: DatasetDefaults, peak: float, epochs: int) -> Pretrain:
    recipe = scheduled_recipe(
        name,
        method,
        defaults,
        views=Concat(changed_views(defaults.views, min_area=0.2, filter="bilinear"), defaults.weak_views),
        head=ProjectionWithClassifiers(),
        optimizer=SGD(0.9, 1e-4),
        lr=WarmupCosine(peak, warmup=10, floor=peak / 1000),
        epochs=epochs,
        batch_size=512,
        teacher=f"simclr/{defaults.data.name}",
        clusters=(2, 10, 50, 100, 500),
    )
    return without_normalisation(recipe)


def without_normalisation(recipe: Pretrain) -> Pretrain:
    """The authors' network reads pixels in [0, 1] as they are; on digits all methods use the set's network."""
    if recipe.data.name == "digits":
        return recipe
    channels = recipe.backbone.channels
    return replace(recipe, backbone=replace(recipe.backbone, mean=(0.0,) * channels, std=(1.0,) * channels))
