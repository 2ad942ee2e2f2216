"""The recipes of pre-training: a paper's method on a data set, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from unshaken.attacks.pgd import PGD
from unshaken.base.schedule import Constant, MultiStep, Schedule, StepSchedule, WarmupCosine
from unshaken.base.suggest import ASIDE, did_you_mean
from unshaken.coreset.rcs import RCS
from unshaken.methods.acl import ACL
from unshaken.methods.advcl import AdvCL
from unshaken.methods.ainfonce import HN, IP, Adaptive, AsymAdvCL, AsymRoCL
from unshaken.methods.air import AIR
from unshaken.methods.base import Method
from unshaken.methods.deacl import DeACL
from unshaken.methods.dynacl import DynACL
from unshaken.methods.rocl import RoCL
from unshaken.methods.simclr import SimCLR
from unshaken.methods.supervised import AFF, SAT, ST, TRADES
from unshaken.nets.heads import Head, LinearClassifier, NoHead, Projection, ProjectionWithClassifiers
from unshaken.recipes.datasets import DATASETS, DatasetDefaults
from unshaken.recipes.lp_aff import LPAFF
from unshaken.recipes.pretrain import Pretrain
from unshaken.train.optim import LARS, SGD, Optimizer
from unshaken.transforms.views import Concat, Transform, Views
from unshaken.transforms.views import SimCLRViews as SimCLRViews


def simclr(s: DatasetDefaults) -> Pretrain:
    """Contrastive learning (CL), the baseline that does not know of attacks. Chen et al. 2020.

    unshaken pretrain simclr/imagenet32   |   14 h on one H200 (projected; reported: 147 h on RTX A5000s)   |   SA / RA
    to CIFAR-10: SLF 84.36 / 0.01, ALF 10.00 / 10.00, AFF 86.63 / 49.71 (reported; not run here)
    """
    return _pretrain("simclr", SimCLR(tau=s.tau), s)


def acl(s: DatasetDefaults) -> Pretrain:
    """Adversarial contrastive learning, dual stream. Jiang et al. 2020.

    unshaken pretrain acl/imagenet32   |   76 h on one H200 (projected; reported: 650 h on RTX A5000s)   |   no score is
    reported, and it has not been run here
    """
    return _pretrain("acl", _acl(s), s)


def dynacl(s: DatasetDefaults) -> Pretrain:
    """ACL with annealed augmentation, rising ω and a momentum encoder. Luo et al. 2023."""
    # a memory of one epoch: 1/(1 - 0.99) of CIFAR's 98 steps, 1/(1 - 0.9) of digits' 11
    method = DynACL(_dynamic(s), momentum=0.9 if s.data.name == "digits" else 0.99)
    return _pretrain("dynacl", method, s, _from(s.views, filter="bilinear"), _annealed(s))


def dynacl_plain(s: DatasetDefaults) -> Pretrain:
    """ACL with annealed augmentation and rising ω, without DynACL's momentum encoder. Luo et al. 2023."""
    return _pretrain("dynacl-plain", _dynamic(s), s, strength=_annealed(s))


def acl_air(s: DatasetDefaults) -> Pretrain:
    """ACL with adversarial invariant regularisation. Xu et al. 2023."""
    return _pretrain("acl-air", AIR(_acl(s), lambda1=0.5, lambda2=0.5), s)


def dynacl_air(s: DatasetDefaults) -> Pretrain:
    """DynACL-plain with adversarial invariant regularisation. Xu et al. 2023."""
    return _pretrain("dynacl-air", AIR(_dynamic(s), lambda1=0.5, lambda2=0.5), s, strength=_annealed(s))


def dynacl_pp(s: DatasetDefaults) -> LPAFF:
    """DynACL, then pseudo-labels, a linear probe and TRADES on them (LP-AFF). Luo et al. 2023."""
    return _plusplus(s, "dynacl", 10)


def dynacl_air_pp(s: DatasetDefaults) -> LPAFF:
    """DynACL-AIR, then the same post-processing. Xu et al. 2023."""
    return _plusplus(s, "dynacl-air", s.classes)


def rocl(s: DatasetDefaults) -> Pretrain:
    """Contrastive learning with an instance-wise adversary as a third view, one batch-norm route. Kim et al. 2020."""
    return _rocl(s, "rocl", _RoCL(s), peak=1.5)


def advcl(s: DatasetDefaults) -> Pretrain:
    """Contrast with adversarial and high-frequency views, and pseudo-labels of clusters. Fan et al. 2021."""
    return _advcl(s, "advcl", _AdvCL(s), peak=0.5, epochs=1000)


def a_infonce(s: DatasetDefaults) -> Pretrain:
    """AdvCL with adversarial views as inferior positives and hard negatives. Yu et al. 2022."""
    of_100 = s.data.name == "cifar100"  # the authors' values for each set; others take CIFAR-10's
    ip = IP(alpha=0.3, adv_weight=1.5) if of_100 else IP(alpha=0.2, adv_weight=0.7)
    adaptive = Adaptive(epochs=20, d_min=0.5) if of_100 else Adaptive(epochs=30, d_min=0.4)
    hn = HN(tau_plus=0.01 if of_100 else 0.1, beta=1.0)
    if s.data.name == "digits":
        adaptive = replace(adaptive, epochs=3)
    return _advcl(s, "a-infonce", AsymAdvCL(_AdvCL(s), ip, hn, adaptive), peak=2.0, epochs=400)


def a_infonce_rocl(s: DatasetDefaults) -> Pretrain:
    """RoCL with adversarial views as inferior positives and hard negatives. Yu et al. 2022."""
    of_100 = s.data.name == "cifar100"
    method = AsymRoCL(_RoCL(s), IP(alpha=0.2), HN(tau_plus=0.1 if of_100 else 0.12, beta=1.0))
    return _rocl(s, "a-infonce-rocl", method, peak=3.0 if of_100 else 4.5)


def deacl(s: DatasetDefaults) -> Pretrain:
    """A robust student of a contrastive teacher, or by --teacher of any encoder. Zhang et al. 2022."""
    method, optimizer = DeACL(PGD(s.ball, steps=5), gamma=2.0), SGD(0.9, 5e-4)
    lr = WarmupCosine(0.5, warmup=10, floor=0.0)
    base = _scheduled(s, "deacl", method, s.weak, NoHead(), optimizer, lr, 100, 256, f"simclr/{s.data.name}")
    return replace(base, start="teacher")


def acl_rcs(s: DatasetDefaults) -> Pretrain:
    """ACL on a robustness-aware coreset, a fifth of the images at a time. Xu et al. 2023.

    unshaken pretrain acl-rcs/imagenet32   |   a twentieth at a time; 12 to 16 h on one H200 (projected; reported: 112 h
    on RTX A5000s, 650 h for all images)   |   SA / RA to CIFAR-10: SLF 70.02 / 22.45, ALF 63.94 / 31.13, AFF 85.23 /
    52.21, to CIFAR-100: 40.28 / 14.55, 33.15 / 14.89, 60.25 / 28.24 (all reported; not run here)
    """
    return _on_coresets(acl(s), "acl-rcs", s)


def dynacl_rcs(s: DatasetDefaults) -> Pretrain:
    """DynACL-plain on a robustness-aware coreset, a fifth of the images at a time. Xu et al. 2023."""
    return _on_coresets(dynacl_plain(s), "dynacl-rcs", s)


def sat_rcs(s: DatasetDefaults) -> Pretrain:
    """SAT, with labels, on a robustness-aware coreset, a tenth of the images at a time. Xu et al. 2023.

    unshaken pretrain sat-rcs/imagenet32   |   3 to 6 h on one H200 (projected; reported: 82 h, 342 h for all images)
    |   SA / RA to CIFAR-10: ALF 81.92 / 45.10, AFF 88.87 / 57.69 (reported; not run here)
    unshaken pretrain sat-rcs/imagenet   |   at 224 pixels; neither cost nor scores are reported; not run here
    """
    return _supervised_rcs(sat(s), "sat-rcs", s)


def trades_rcs(s: DatasetDefaults) -> Pretrain:
    """TRADES, with labels, on a robustness-aware coreset, a tenth of the images at a time; in no paper."""
    return _supervised_rcs(trades(s), "trades-rcs", s)


def st(s: DatasetDefaults) -> Pretrain:
    """Standard training, with labels: the supervised baseline that does not know of attacks.

    unshaken pretrain st/imagenet32   |   4 h on one H200 (projected; reported: 67 h)   |   SA / RA to CIFAR-10:
    ALF 10.12 / 10.04, AFF 84.73 / 51.91 (reported; not run here)
    """
    return _supervised(s, "st", ST())


def sat(s: DatasetDefaults) -> Pretrain:
    """Standard adversarial training, with labels. Madry et al. 2018.

    unshaken pretrain sat/imagenet32   |   27 h on one H200 (projected; reported: 342 h)   |   SA / RA to CIFAR-10:
    ALF 85.90 / 50.89, AFF 89.35 / 59.68 (reported; not run here)
    """
    attack = PGD(s.ball, steps=3, rel_step_size=2 / 3) if s.data.name == "imagenet" else PGD(s.ball, steps=10)
    return _supervised(s, "sat", SAT(attack))


def trades(s: DatasetDefaults) -> Pretrain:
    """TRADES as pre-training, with labels. Zhang et al. 2019."""
    return _supervised(s, "trades", TRADES(PGD(s.ball, steps=10, init="gaussian"), beta=6.0))


RECIPES: dict[str, Callable[[DatasetDefaults], Pretrain | LPAFF]] = {
    "simclr": simclr,
    "acl": acl,
    "dynacl": dynacl,
    "dynacl-plain": dynacl_plain,
    "dynacl++": dynacl_pp,
    "acl-air": acl_air,
    "dynacl-air": dynacl_air,
    "dynacl-air++": dynacl_air_pp,
    "rocl": rocl,
    "advcl": advcl,
    "a-infonce": a_infonce,
    "a-infonce-rocl": a_infonce_rocl,
    "deacl": deacl,
    "acl-rcs": acl_rcs,
    "dynacl-rcs": dynacl_rcs,
    "sat-rcs": sat_rcs,
    "trades-rcs": trades_rcs,
    "st": st,
    "sat": sat,
    "trades": trades,
}


def recipe(name: str) -> Pretrain | LPAFF:
    """METHOD/SET, such as acl/cifar10; METHOD alone means cifar10, the papers' main setting."""
    method, _, data = name.partition("/")
    if method not in RECIPES:
        hint = did_you_mean(method, RECIPES, ASIDE)
        raise ValueError(f"there is no method {method!r}{hint}; there are {', '.join(RECIPES)}")
    if (data or "cifar10") not in DATASETS:
        hint = did_you_mean(data, DATASETS, ASIDE)
        raise ValueError(
            f"there is no recipe {name!r}{hint}; {method} goes with {', '.join(DATASETS)} "
            "(for images of your own: --data PATH)"
        )
    setting = DATASETS[data or "cifar10"]
    if setting.methods and method not in setting.methods:
        raise ValueError(
            f"there is no recipe {name!r}, for no paper says how: {data} goes with {', '.join(setting.methods)} "
            f"(or take {method}'s choices for another set: {method} --data {data})"
        )
    return RECIPES[method](setting)


def rcs(s: DatasetDefaults, epochs: int) -> RCS:
    """A tenth of the epochs of warm-up; a selection every fiftieth of them, as 100 and 20 are of 1,000."""
    if s.data.name == "imagenet32":
        attack = PGD(s.ball, 1, rel_step_size=5 / 4, init="gaussian")
        return RCS(0.05, warmup=20, every=10, validation=0.005, steps=1, attack=attack)
    attack = PGD(s.ball, steps=3, rel_step_size=5 / 12)
    if s.data.name == "digits":  # few images: more for U than 1 %, smaller mini-batches to choose, chosen more often
        return RCS(0.2, epochs // 5, max(1, epochs // 20), validation=0.1, batch_size=16, steps=1, attack=attack)
    return RCS(0.2, epochs // 10, max(1, epochs // 50), attack=attack)


def _on_coresets(base: Pretrain, name: str, s: DatasetDefaults) -> Pretrain:
    """On digits a fifth of the images is two steps an epoch in the demo's time: more epochs, and smaller batches."""
    if s.data.name == "digits":
        base = replace(base, epochs=100, batch_size=64)
    return replace(base, name=name, coreset=rcs(s, base.epochs))


def _acl(s: DatasetDefaults) -> ACL:
    return ACL(PGD(s.ball, steps=5), tau=s.tau)


def _dynamic(s: DatasetDefaults) -> ACL:
    return ACL(PGD(s.ball, steps=5), tau=s.tau, omega=StepSchedule(0.0, 2 / 3, every=s.every))


def _annealed(s: DatasetDefaults) -> StepSchedule:
    return StepSchedule(1.0, 0.0, every=s.every)


def _pretrain(
    name: str, method: Method, s: DatasetDefaults, views: Views | None = None, strength: Schedule = Constant(1.0)
) -> Pretrain:
    """With what the ACL family does on the set."""
    return Pretrain(
        name,
        method,
        s.data,
        s.split,
        s.backbone,
        s.head,
        views or s.views,
        strength,
        s.optimizer,
        s.lr,
        s.epochs,
        s.batch_size,
    )


def _scheduled(
    s: DatasetDefaults,
    name: str,
    method: Method,
    views: Views,
    head: Head,
    optimizer: Optimizer,
    lr: WarmupCosine,
    epochs: int,
    batch: int,
    teacher: str | None = None,
    clusters: tuple[int, ...] = (),
) -> Pretrain:
    """With a method's own head, views and schedule; on digits in the demo's time, at the rate chosen for it."""
    if s.data.name == "digits":
        peak = DIGITS_RATES[name]
        lr = WarmupCosine(peak, min(lr.warmup, 3), lr.floor * peak / lr.peak)
        epochs, batch = s.epochs, s.batch_size
    return Pretrain(
        name,
        method,
        s.data,
        s.split,
        s.backbone,
        head,
        views,
        Constant(1.0),
        optimizer,
        lr,
        epochs,
        batch,
        teacher=teacher,
        clusters=clusters,
    )


DIGITS_RATES = {
    "rocl": 5.0,
    "advcl": 1.0,
    "a-infonce": 1.5,
    "a-infonce-rocl": 5.0,
    "deacl": 0.5,
    "st": 0.1,
    "sat": 0.1,
    "trades": 0.1,
}
"""Peaks of the learning rate on digits, chosen on a quarter held out of the training images (docs/log.md)."""


def _supervised(s: DatasetDefaults, name: str, method: Method) -> Pretrain:
    """As the coreset papers train on ImageNet, for all sets at 32 pixels; of STL-10 only the train split has labels."""
    optimizer, lr = SGD(0.9, 5e-4, nesterov=True), WarmupCosine(0.1, warmup=0)
    base = replace(_scheduled(s, name, method, s.weak, LinearClassifier(), optimizer, lr, 100, 256), split="train")
    if s.data.name != "imagenet":
        return base
    return replace(base, optimizer=s.optimizer, lr=s.lr, epochs=s.epochs)


def _supervised_rcs(base: Pretrain, name: str, s: DatasetDefaults) -> Pretrain:
    """An epoch of all images, and a selection every tenth of the epochs; on U, one step farther than ε."""
    if s.data.name == "digits":
        return replace(base, name=name, coreset=rcs(s, s.epochs))
    warmup, stride = (10, 3.0) if s.data.name == "imagenet" else (1, 5 / 2)
    large = s.data.name.startswith("imagenet")
    part, steps = (0.005, 1) if large else (0.01, None)
    attack = PGD(s.ball, 1, stride, init="gaussian")
    chosen = RCS(0.1, warmup, every=10, validation=part, steps=steps, attack=attack)
    return replace(base, name=name, coreset=chosen)


def _RoCL(s: DatasetDefaults) -> RoCL:
    return RoCL(PGD(s.ball, steps=7, rel_step_size=0.007 / 0.0314), tau=0.5, weight=1 / 256)


def _rocl(s: DatasetDefaults, name: str, method: Method, peak: float) -> Pretrain:
    head, lr = Projection(2, hidden=2048, out=128, norm="none"), WarmupCosine(peak, warmup=10, floor=0.0)
    views = _from(s.views, min_area=0.08, filter="bilinear")
    return _unnormalised(_scheduled(s, name, method, views, head, LARS(), lr, 1000, 512))


def _AdvCL(s: DatasetDefaults) -> AdvCL:
    """The high-pass radius is a quarter of the image's side."""
    return AdvCL(PGD(s.ball, steps=5), tau=0.5, ce_weight=0.2, radius=s.backbone.image_size / 4)


def _advcl(s: DatasetDefaults, name: str, method: Method, peak: float, epochs: int) -> Pretrain:
    views = Concat(_from(s.views, min_area=0.2, filter="bilinear"), s.weak)
    lr, clusters = WarmupCosine(peak, warmup=10, floor=peak / 1000), (2, 10, 50, 100, 500)
    teacher = f"simclr/{s.data.name}"
    base = _scheduled(
        s, name, method, views, ProjectionWithClassifiers(), SGD(0.9, 1e-4), lr, epochs, 512, teacher, clusters
    )
    return _unnormalised(base)


def _from(views: Transform, **changes: Any) -> Transform:
    """The set's views, with a method's own choices where it has any to make."""
    return replace(views, **changes) if isinstance(views, SimCLRViews) else views


def _unnormalised(base: Pretrain) -> Pretrain:
    """The authors' network reads pixels in [0, 1] as they are; on digits all methods have the set's network."""
    if base.data.name == "digits":
        return base
    channels = base.backbone.channels
    return replace(base, backbone=replace(base.backbone, mean=(0.0,) * channels, std=(1.0,) * channels))


def _plusplus(s: DatasetDefaults, method: str, clusters: int) -> LPAFF:
    attack = PGD(s.ball, steps=10, init="gaussian")
    base = LPAFF(f"{method}++", f"{method}/{s.data.name}", s.data, s.split, clusters, s.weak)
    base = replace(base, tune=replace(base.tune, method=AFF(attack, beta=6.0, natural="adv")))
    if s.data.name != "digits":
        return base
    probe = replace(base.probe, lr=Constant(0.1), batch_size=128)
    return replace(
        base, probe=probe, tune=replace(base.tune, lr=MultiStep(0.05, at=(8, 12)), epochs=15, batch_size=128)
    )
