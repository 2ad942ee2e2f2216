"""The high-frequency part of an image: what remains without its slow changes."""

from __future__ import annotations

import torch
from torch import Tensor

from unshaken.base.types import Float


def high_pass(x: Float[Tensor, "... H W"], radius: float) -> Float[Tensor, "... H W"]:
    """Remove every frequency nearer than `radius` to the spectrum's centre (H/2, W/2), the mean among them.

    In cycles an image. The result lies around 0, not in [0, 1]: it is not clamped (Fan et al., NeurIPS 2021, sec. 4).
    """
    if not radius >= 0:
        raise ValueError(f"a radius in the spectrum is a number ≥ 0, such as 8 for 32 pixels, not {radius}")
    H, W = x.shape[-2:]
    i, j = (torch.arange(side, device=x.device) - side / 2 for side in (H, W))
    far = torch.hypot(i[:, None], j) >= radius
    spectrum = torch.fft.fft2(x) * torch.fft.ifftshift(far)  # shifting the mask once is shifting no spectrum
    return torch.fft.ifft2(spectrum).real
