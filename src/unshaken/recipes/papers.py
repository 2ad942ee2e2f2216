"""The recipes of pre-training: a paper's method on a data set, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches

from unshaken.base.clock import Stairs
from unshaken.methods.acl import ACL
from unshaken.methods.air import AIR
from unshaken.methods.method import Method
from unshaken.methods.simclr import SimCLR
from unshaken.recipes.pretrain import Pretrain
from unshaken.recipes.settings import SETTINGS, Setting
from unshaken.threat.pgd import PGD


def simclr(s: Setting) -> Pretrain:
    """Contrastive learning (CL), the baseline that does not know of attacks. Chen et al. 2020."""
    return _pretrain("simclr", SimCLR(tau=0.5), s)


def acl(s: Setting) -> Pretrain:
    """Adversarial contrastive learning, dual stream. Jiang et al. 2020."""
    return _pretrain("acl", _acl(s), s)


def dynacl_plain(s: Setting) -> Pretrain:
    """ACL with annealed augmentation and rising ω, without DynACL's momentum encoder. Luo et al. 2023."""
    return _pretrain("dynacl-plain", _dynamic(s), s, annealed=True)


def acl_air(s: Setting) -> Pretrain:
    """ACL with adversarial invariant regularisation. Xu et al. 2023."""
    return _pretrain("acl-air", AIR(_acl(s), lambda1=0.5, lambda2=0.5), s)


def dynacl_air(s: Setting) -> Pretrain:
    """DynACL-plain with adversarial invariant regularisation. Xu et al. 2023."""
    return _pretrain("dynacl-air", AIR(_dynamic(s), lambda1=0.5, lambda2=0.5), s, annealed=True)


PAPERS: dict[str, Callable[[Setting], Pretrain]] = {
    "simclr": simclr,
    "acl": acl,
    "dynacl-plain": dynacl_plain,
    "acl-air": acl_air,
    "dynacl-air": dynacl_air,
}


def recipe(name: str) -> Pretrain:
    """METHOD/SET, such as acl/cifar10; METHOD alone means cifar10, the papers' main setting."""
    method, _, data = name.partition("/")
    if method not in PAPERS:
        raise ValueError(f"there is no method {method!r}{_nearest(method, PAPERS)}; there are {', '.join(PAPERS)}")
    if (data or "cifar10") not in SETTINGS:
        raise ValueError(
            f"there is no recipe {name!r}{_nearest(data, SETTINGS)}; {method} goes with {', '.join(SETTINGS)} "
            "(for images of your own: --data PATH)"
        )
    return PAPERS[method](SETTINGS[data or "cifar10"])


def _nearest(word: str, known: dict[str, object]) -> str:
    close = get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _acl(s: Setting) -> ACL:
    return ACL(PGD(s.ball, steps=5), tau=0.5)


def _dynamic(s: Setting) -> ACL:
    return ACL(PGD(s.ball, steps=5), tau=0.5, omega=Stairs(0.0, 2 / 3, every=s.every))


def _pretrain(name: str, method: Method, s: Setting, annealed: bool = False) -> Pretrain:
    base = Pretrain(
        name,
        method,
        s.data,
        s.split,
        s.backbone,
        views=s.views,
        optimizer=s.optimizer,
        rate=s.rate,
        epochs=s.epochs,
        batch=s.batch,
    )
    return replace(base, strength=Stairs(1.0, 0.0, every=s.every)) if annealed else base
