"""Ways to compute a network's layers faster: each can be left out, and changes results by rounding only."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from unshaken.compute.depthwise_conv import use_depthwise_convs
from unshaken.compute.matmul_conv import use_matmul_convs
from unshaken.compute.winograd_conv import use_winograd_convs

Way = Literal[
    "auto", "plain", "channels-last", "folding", "matmul-16", "matmul-64", "depthwise", "winograd", "fused-views"
]
FIXED: tuple[Way, ...] = ("channels-last", "folding", "matmul-16", "depthwise")
"""The ways of short runs, and of runs on a GPU."""
PRODUCTS: dict[Way, int] = {"matmul-16": 16, "matmul-64": 64}
"""The most pixels of an output map that a convolution computes as a matrix product."""
WINOGRAD: Way = "winograd"
"""Convolutions of 3 × 3 pixels by compiled code with fewer multiplications."""
VIEWS: Way = "fused-views"
"""SimCLR's views by compiled code."""

WORDS = (*FIXED, WINOGRAD, VIEWS)
"""The ways that an error names."""


def check_ways(ways: tuple[Way, ...]) -> None:
    """Raise a ValueError unless the words are one choice: auto, plain, or distinct ways of which one is a product."""
    single = {"auto", "plain"} & {*ways}
    if not ways or (single and len(ways) > 1) or len({*ways}) < len(ways):
        said = " ".join(ways) or "nothing"
        raise ValueError(f"a computation is auto, plain, or some of {' '.join(WORDS)}, each once; not {said}")
    if len({*PRODUCTS} & {*ways}) > 1:
        raise ValueError(f"a computation has one of {' and '.join(PRODUCTS)}, not both")


def use_ways(net: nn.Module, ways: tuple[Way, ...], device: torch.device) -> None:
    """Give a network, in place, the memory layout and the convolutions of these ways; folding is not part of it."""
    layout = torch.channels_last if "channels-last" in ways else torch.contiguous_format
    net.to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    if device.type == "cpu":
        use_winograd_convs(net, WINOGRAD in ways)  # before products, which they are where they are not faster
        use_matmul_convs(net, max((PRODUCTS.get(way, 0) for way in ways), default=0))
        use_depthwise_convs(net, "depthwise" in ways)
