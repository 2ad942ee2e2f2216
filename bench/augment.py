"""SimCLR's views of a batch of uint8 images, against torchvision on one PIL image at a time.

Both sides end with float32 views of a whole batch, (V N C H W), and start from decoded images in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from bench.clock import paired, tell, timed
from bench.literal.augment import transform
from unshaken.base.rng import Key
from unshaken.data.images import Images
from unshaken.data.source import DataSource
from unshaken.transforms.fused_views import use_fused_views
from unshaken.transforms.views import SimCLRViews

TIMES = {"fused": 20, "batched": 20, "torchvision": 4}
"""Number of batches per round; ours are fast, so there are more of them."""


def compare(data: Path | None, rounds: int, quick: bool) -> dict[str, Any]:
    """Compare on CIFAR-10, or on noise without it: the content hardly changes the times.

    `ratio` is that of the compiled loop, or of PyTorch's operations where it cannot be compiled.
    """
    count, simclr = 32 if quick else 256, SimCLRViews()
    images = DataSource(str(data / "cifar10"), limit=count).load("train") if data else noise(count)
    ours = {"batched": partial(batched, simclr, images, False)}
    try:
        use_fused_views(True)
        ours = {"fused": partial(batched, simclr, images, True)} | ours
    except ValueError as reason:
        tell(f"{reason}")
    sides = ours | {
        "torchvision": partial(one_by_one, pictures(images), transform(simclr, images.pixels.shape[-1]), simclr.count),
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    simclr(noise(1024).floats(), 1.0, Key(0))  # frees enough that the process keeps its memory, as in training
    for seed in range(1, rounds + 1):
        for side, work in sides.items():
            keys = [Key(seed) / n for n in range(TIMES[side])]
            took, _ = timed(lambda work=work, keys=keys: [work(key).shape for key in keys])
            seconds[side].append(took / len(keys))
        tell(f"round {seed}: " + ", ".join(f"{side} {took[-1] * 1e3:.1f} ms" for side, took in seconds.items()))
    views = simclr.count * count
    speed = {side: round(views / median(took)) for side, took in seconds.items()}
    of = "cifar10" if data else "noise"
    best = next(iter(ours))
    found = paired(seconds, best, "torchvision") | {"way": best, "images": of, "views": views}
    plain = {key: value for key, value in paired(seconds, "batched", "torchvision").items() if key != "world"}
    return found | {"batched": plain, "views_per_second": speed}


def batched(simclr: SimCLRViews, images: Images, fused: bool, key: Key) -> Tensor:
    """Make the views of all images at once, by the compiled loop or by PyTorch's operations."""
    use_fused_views(fused)
    return simclr(images.floats(), 1.0, key)


def noise(count: int) -> Images:
    return Images(torch.randint(256, (count, 3, 32, 32), generator=Key(0).on("cpu"), dtype=torch.uint8))


def pictures(images: Images) -> list[Image.Image]:
    return [Image.fromarray(pixels.permute(1, 2, 0).numpy()) for pixels in images.pixels]


def one_by_one(images: list[Image.Image], one: Callable[[Image.Image], Tensor], count: int, key: Key) -> Tensor:
    """Augment one image at a time, as a loader does in one process."""
    torch.manual_seed(key.number)
    return torch.stack([torch.stack([one(image) for image in images]) for _ in range(count)])
