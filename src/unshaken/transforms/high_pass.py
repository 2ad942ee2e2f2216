"""High-pass filter: the high-frequency part of an image."""

from __future__ import annotations

import torch
from torch import Tensor

from unshaken.base.types import Float


def high_pass(x: Float[Tensor, "... H W"], radius: float) -> Float[Tensor, "... H W"]:
    """Remove all frequencies below `radius`, which include the mean of the image.

    `radius` is in cycles per image, from the centre (H/2, W/2) of the spectrum. The result is around 0, not in [0, 1],
    and is not clipped (Fan et al., NeurIPS 2021, sec. 4). ValueError if `radius` is negative.
    """
    if not radius >= 0:
        raise ValueError(f"the radius is a number of cycles ≥ 0, such as 8 for 32 pixels, not {radius}")
    H, W = x.shape[-2:]
    i, j = (torch.arange(side, device=x.device) - side / 2 for side in (H, W))
    far = torch.hypot(i[:, None], j) >= radius
    spectrum = torch.fft.fft2(x) * torch.fft.ifftshift(far)  # shifting the mask saves shifting the spectrum twice
    return torch.fft.ifft2(spectrum).real
