"""Severities: the constants of CIFAR-10-C and ImageNet-C, by corruption and severity.

Hendrycks and Dietterich (ICLR 2019, arXiv:1903.12261) give no constants. These made the published files; they are from
the authors' github.com/hendrycks/robustness: CIFAR of ImageNet-C/create_c/make_cifar_c.py (commit ca36008), IMAGENET of
ImageNet-C/imagenet_c/imagenet_c/corruptions.py (commit 20caed9).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from unshaken.base.suggest import did_you_mean

FIFTEEN = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
"""The corruptions of the benchmark, whose mean is reported: noise, blur, weather, digital."""
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""The extra corruptions, published for choosing hyper-parameters."""
SEVERITIES = (1, 2, 3, 4, 5)

Which = Literal["cifar", "imagenet"]


class px(float):
    """A length in pixels of an image of 32 (CIFAR) or 224 (IMAGENET) pixels; it scales with the side of the image."""


Table = Mapping[str, tuple[tuple[float, ...], ...]]

CIFAR: Table = {
    "gaussian_noise": ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,)),
    "shot_noise": ((500,), (250,), (100,), (75,), (50,)),
    "impulse_noise": ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,)),
    "speckle_noise": ((0.06,), (0.1,), (0.12,), (0.16,), (0.2,)),
    "gaussian_blur": ((px(0.4),), (px(0.6),), (px(0.7),), (px(0.8),), (px(1),)),
    "defocus_blur": (
        *((px(0.3), px(0.4)), (px(0.4), px(0.5)), (px(0.5), px(0.6))),
        *((px(1), px(0.2)), (px(1.5), px(0.1))),
    ),
    "glass_blur": (
        *((px(0.05), px(1), 1), (px(0.25), px(1), 1), (px(0.4), px(1), 1)),
        *((px(0.25), px(1), 2), (px(0.4), px(1), 2)),
    ),
    "motion_blur": ((px(6), px(1)), (px(6), px(1.5)), (px(6), px(2)), (px(8), px(2)), (px(9), px(2.5))),
    "zoom_blur": ((7, 0.01), (12, 0.01), (16, 0.01), (21, 0.01), (26, 0.01)),
    "snow": (
        (0.1, 0.2, px(1), 0.6, px(8), px(3), 0.95),
        (0.1, 0.2, px(1), 0.5, px(10), px(4), 0.9),
        (0.15, 0.3, px(1.75), 0.55, px(10), px(4), 0.9),
        (0.25, 0.3, px(2.25), 0.6, px(12), px(6), 0.85),
        (0.3, 0.3, px(1.25), 0.65, px(14), px(12), 0.8),
    ),
    "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "brightness": ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,)),
    "contrast": ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,)),
    "elastic_transform": (
        *((0, 0, 0.08), (0.05 / 32, 0.2, 0.07), (0.08 / 32, 0.06, 0.06)),
        *((0.1 / 32, 0.04, 0.05), (0.1 / 32, 0.03, 0.03)),
    ),
    "pixelate": ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,)),
    "jpeg_compression": ((80,), (65,), (58,), (50,), (40,)),
    "spatter": (
        (0.62, px(0.1), px(0.7), 0.7, 0.5, 0),
        (0.65, px(0.1), px(0.8), 0.7, 0.5, 0),
        (0.65, px(0.3), px(1), 0.69, 0.5, 0),
        (0.65, px(0.1), px(0.7), 0.69, px(0.6), 1),
        (0.65, px(0.1), px(0.5), 0.68, px(0.6), 1),
    ),
    "saturate": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
}

_ELASTIC = 244 / 224  # the published code writes 244 instead of 224
IMAGENET: Table = {
    "gaussian_noise": ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,)),
    "shot_noise": ((60,), (25,), (12,), (5,), (3,)),
    "impulse_noise": ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,)),
    "speckle_noise": ((0.15,), (0.2,), (0.35,), (0.45,), (0.6,)),
    "gaussian_blur": ((px(1),), (px(2),), (px(3),), (px(4),), (px(6),)),
    "defocus_blur": (
        *((px(3), px(0.1)), (px(4), px(0.5)), (px(6), px(0.5))),
        *((px(8), px(0.5)), (px(10), px(0.5))),
    ),
    "glass_blur": (
        *((px(0.7), px(1), 2), (px(0.9), px(2), 1), (px(1), px(2), 3)),
        *((px(1.1), px(3), 2), (px(1.5), px(4), 2)),
    ),
    "motion_blur": ((px(10), px(3)), (px(15), px(5)), (px(15), px(8)), (px(15), px(12)), (px(20), px(15))),
    "zoom_blur": ((12, 0.01), (16, 0.01), (11, 0.02), (13, 0.02), (11, 0.03)),
    "snow": (
        (0.1, 0.3, px(3), 0.5, px(10), px(4), 0.8),
        (0.2, 0.3, px(2), 0.5, px(12), px(4), 0.7),
        (0.55, 0.3, px(4), 0.9, px(12), px(8), 0.7),
        (0.55, 0.3, px(4.5), 0.85, px(12), px(8), 0.65),
        (0.55, 0.3, px(2.5), 0.85, px(12), px(12), 0.55),
    ),
    "frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    "brightness": ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,)),
    "contrast": ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,)),
    "elastic_transform": (
        (2 * _ELASTIC / 224, 0.7 * _ELASTIC, 0.1 * _ELASTIC),
        (2 * _ELASTIC / 224, 0.08 * _ELASTIC, 0.2 * _ELASTIC),
        (0.05 * _ELASTIC / 224, 0.01 * _ELASTIC, 0.02 * _ELASTIC),
        (0.07 * _ELASTIC / 224, 0.01 * _ELASTIC, 0.02 * _ELASTIC),
        (0.12 * _ELASTIC / 224, 0.01 * _ELASTIC, 0.02 * _ELASTIC),
    ),
    "pixelate": ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,)),
    "jpeg_compression": ((25,), (18,), (15,), (10,), (7,)),
    "spatter": (
        (0.65, px(0.3), px(4), 0.69, 0.6, 0),
        (0.65, px(0.3), px(3), 0.68, 0.6, 0),
        (0.65, px(0.3), px(2), 0.68, 0.5, 0),
        (0.65, px(0.3), px(1), 0.65, px(1.5), 1),
        (0.67, px(0.4), px(1), 0.65, px(1.5), 1),
    ),
    "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
}

TABLES: dict[Which, tuple[int, Table]] = {"cifar": (32, CIFAR), "imagenet": (224, IMAGENET)}
"""By name: the side in pixels that the constants were made for, and the constants."""

BETWEEN = 128
"""Side from which images get the constants of ImageNet-C."""


def suited(side: int) -> Which:
    """Return whose constants are used for images of this side, in pixels."""
    return "imagenet" if side >= BETWEEN else "cifar"


def constants(name: str, severity: int, which: Which, side: int) -> tuple[float, ...]:
    """Return the constants of one corruption, with lengths in pixels of an image of this side.

    Lengths scale with the side, so that corruptions look the same at any size. Below 32 pixels they are as at 32, since
    a blur of much less than a pixel has no effect.
    """
    reference, table = TABLES[which]
    pixel = max(side, 32) / reference
    return tuple(c * pixel if isinstance(c, px) else c for c in table[name][severity - 1])


def check(name: str, severity: int) -> None:
    """Raise ValueError unless the corruption and the severity exist."""
    if name not in CIFAR:
        hint = did_you_mean(str(name).lower().replace(" ", "_").replace("-", "_"), CIFAR, cutoff=0.4)
        raise ValueError(f"there is no corruption {name!r}; there are {', '.join((*FIFTEEN, *EXTRA))}{hint}")
    if severity not in SEVERITIES:
        raise ValueError(f"a severity is 1, 2, 3, 4 or 5, not {severity!r}")
