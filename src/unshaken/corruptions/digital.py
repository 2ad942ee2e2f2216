"""Digital corruptions: contrast, saturation, pixelation, JPEG and elastic deformation."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unshaken.base.sample_rng import SampleRandom
from unshaken.base.types import Float
from unshaken.corruptions.blur import eight_bits, smoothed


def contrast(x: Float[Tensor, "N C H W"], draws: SampleRandom, factor: float) -> Float[Tensor, "N C H W"]:
    """Blend each channel with its mean over the image."""
    return torch.lerp(x.mean((2, 3), keepdim=True), x, factor)


def saturate(x: Float[Tensor, "N C H W"], draws: SampleRandom, factor: float, more: float) -> Float[Tensor, "N C H W"]:
    """Change the saturation s of HSV to s factor + more, in [0, 1]; an image of one channel has no saturation.

    With value v and saturation s a channel is v (1 - s k), where k in [0, 1] depends on the hue. A grey pixel has
    hue 0, which is red, and becomes reddish where `more` is not 0, as in the published files.
    """
    if x.shape[1] == 1:
        return x
    v, m = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    chroma = v - m
    red = x.new_tensor([0, 1, 1]).view(1, 3, 1, 1)
    k = torch.where(chroma > 0, (v - x) / chroma, red)
    s = torch.where(v > 0, chroma / v, 0)
    return v * (1 - (s * factor + more).clamp_(0, 1) * k)


def pixelate(x: Float[Tensor, "N C H W"], draws: SampleRandom, share: float) -> Float[Tensor, "N C H W"]:
    """Resize to `share` of each side and back, by Pillow's box filter, with each step rounded to 8 bits."""
    H, W = x.shape[2:]
    h, w = int(H * share), int(W * share)
    for rows, columns in (((H, h), (W, w)), ((h, H), (w, W))):
        x = eight_bits(x @ _boxes(*columns).to(x.device).mT + 0.5 / 255)
        x = eight_bits(_boxes(*rows).to(x.device) @ x + 0.5 / 255)
    return x


def _boxes(source: int, target: int) -> Float[Tensor, "target source"]:
    """Return the matrix of means over source pixels whose centres lie in a target pixel, or of the pixel it lies in."""
    scale = source / target
    centre = scale * (torch.arange(target).double()[:, None] + 0.5)
    apart = (torch.arange(source) + 0.5 - centre) / max(1.0, scale)
    inside = ((apart > -0.5) & (apart <= 0.5)).double()
    return inside / inside.sum(1, keepdim=True)


def jpeg_compression(x: Float[Tensor, "N C H W"], draws: SampleRandom, quality: float) -> Float[Tensor, "N C H W"]:
    """Compress as JPEG of this quality by Pillow, with colours at half the resolution; bits depend on its libjpeg."""
    pixels = (255 * x).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    decoded = np.empty_like(pixels)
    for before, after in zip(pixels, decoded, strict=True):
        file = BytesIO()
        Image.fromarray(before.squeeze(-1) if before.shape[-1] == 1 else before).save(
            file, "JPEG", quality=int(quality)
        )
        after[:] = np.asarray(Image.open(file)).reshape(after.shape)
    return torch.from_numpy(decoded).to(x.device).permute(0, 3, 1, 2).to(x.dtype) / 255


def elastic_transform(
    x: Float[Tensor, "N C H W"], draws: SampleRandom, alpha: float, sigma: float, shift: float
) -> Float[Tensor, "N C H W"]:
    """Apply an affine map that moves three points by ± `shift` of a side, then a smooth random displacement.

    The displacement is uniform noise in ± alpha side² pixels, smoothed by a Gaussian of sigma sides (which divides it
    by a side again). Both maps are bilinear. OpenCV, which made the published files, rounds the positions of the first
    map to 1/32 of a pixel.
    """
    H, W = x.shape[2:]
    side = min(H, W)
    row, column = torch.meshgrid(*(torch.arange(n, dtype=x.dtype, device=x.device) for n in (H, W)), indexing="ij")
    third = side // 3
    corner = x.new_tensor([[third, third, 1], [third, -third, 1], [-third, -third, 1]])
    corner[:, :2] += x.new_tensor([W // 2, H // 2])
    moved = corner.expand(len(x), 3, 3).clone()
    moved[:, :, :2] += shift * side * (draws / "affine").uniform(3, 2, low=-1, high=1)
    back = torch.linalg.solve(moved, corner[:, :2].expand(len(x), 3, 2))  # from (column, row, 1) to its source
    position = torch.stack((column, row, torch.ones_like(row)), -1).view(-1, 3) @ back
    x = _sampled(x, *position.view(-1, H, W, 2).unbind(-1), "mirror")  # pyright: ignore[reportCallIssue]
    if alpha == 0:
        return x
    noise = alpha * side**2 * (draws / "elastic").uniform(2, H, W, low=-1, high=1)
    right, down = smoothed(noise, sigma * side, int(3 * sigma * side + 0.5), "reflect").unbind(1)
    return _sampled(x, column + right, row + down, "reflect")


def _sampled(x: Float[Tensor, "N C H W"], column: Tensor, row: Tensor, border: str) -> Float[Tensor, "N C H W"]:
    """Sample x bilinearly at positions (N H W) in pixels.

    border  mirror: x is mirrored about the centres of its outer pixels. reflect: about their edges
    """
    H, W = x.shape[2:]
    centres = border == "mirror"
    if centres:
        grid = torch.stack((2 * column / max(1, W - 1) - 1, 2 * row / max(1, H - 1) - 1), -1)
    else:
        grid = torch.stack(((2 * column + 1) / W - 1, (2 * row + 1) / H - 1), -1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=centres)
