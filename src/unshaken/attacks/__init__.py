"""Attacks: what an adversary may change, and how it searches."""

from unshaken.base.lazy_names import lazy_names

__getattr__, __dir__, __all__ = lazy_names(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {
        "Linf": "ball",
        "L2": "ball",
        "L1": "ball",
        "Attack": "base",
        "Model": "base",
        "loss_of": "base",
        "PGD": "pgd",
        "input_gradient": "pgd",
        "APGD": "apgd",
        "FAB": "fab",
        "Square": "square",
        "AutoAttack": "autoattack",
        "TargetedPGD": "targeted",
    },
)
