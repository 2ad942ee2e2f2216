"""Zoom, rotation and shift in a single resampling, for small images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unshaken.base.types import Float


def zoom_rotate_shift(
    image: Float[Tensor, "N C H W"],
    angle: Float[Tensor, "N"],
    zoom: Float[Tensor, "N"],
    down: Float[Tensor, "N"],
    right: Float[Tensor, "N"],
) -> Float[Tensor, "N C H W"]:
    """Rotate about the centre, counter-clockwise by `angle` radians, enlarge by `zoom`, then shift.

    `down` and `right` are in pixels. The filter is bilinear, and pixels outside the image are 0.
    """
    H, W = image.shape[-2:]
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    # output pixel (x, y) from the centre shows the input's  [cos -sin; sin cos] (x - right, y - down) / zoom
    from_x = -cos * right + sin * down
    from_y = -sin * right - cos * down
    # affine_grid measures both axes from -1 to 1, whatever the image's sides
    rows = (cos, -sin * H / W, 2 * from_x / W), (sin * W / H, cos, 2 * from_y / H)
    matrix = torch.stack([torch.stack(row, 1) for row in rows], 1)
    grid = F.affine_grid(matrix, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
