"""Boxes against torchvision's rule written as a loop; resampling against interpolate and PIL."""

from math import log, sqrt

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from unshaken.base.rng import Key
from unshaken.transforms import crop
from unshaken.transforms.crop import Boxes

RATIO = (3 / 4, 4 / 3)


def rng(seed: int = 0) -> torch.Generator:
    return Key(seed).on("cpu")


def box_by_loop(size, areas, shapes, position, ratio):
    """RandomResizedCrop.get_params of torchvision 0.28.0, its random numbers handed in."""
    height, width = size
    for area, shape in zip(areas, shapes, strict=True):
        w, h = round(sqrt(area * shape)), round(sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            return int(position[0] * (height - h + 1)), int(position[1] * (width - w + 1)), h, w
    w, h = width, height
    if width / height < min(ratio):
        h = int(round(w / min(ratio)))
    elif width / height > max(ratio):
        w = int(round(h * max(ratio)))
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("size", [(32, 32), (8, 8), (20, 48), (48, 20), (32, 36)])
@pytest.mark.parametrize("smallest", [0.1, 1.0])
def test_boxes_are_torchvisions_for_the_same_draws(size, smallest):
    g = rng()
    area = size[0] * size[1] * (smallest + (1 - smallest) * torch.rand(300, 3, generator=g))
    shape = RATIO[0] + (RATIO[1] - RATIO[0]) * torch.rand(300, 3, generator=g)
    position = torch.rand(300, 2, generator=g)
    boxes = torch.stack(crop.fit_boxes(size, area, shape, position, RATIO), 1)
    draws = zip(area.tolist(), shape.tolist(), position.tolist(), strict=True)
    expected = [box_by_loop(size, *draw, RATIO) for draw in draws]
    assert boxes.tolist() == [list(box) for box in expected]


def test_the_first_box_that_fits_is_used():
    area, shape = torch.tensor([[200.0, 64.0, 16.0]]), torch.ones(1, 3)
    top, left, height, width = crop.fit_boxes((10, 10), area, shape, torch.tensor([[0.0, 0.99]]), RATIO)
    assert (top.item(), left.item(), height.item(), width.item()) == (0, 2, 8, 8)


def test_areas_are_uniform_and_shapes_log_uniform():
    # areas up to 1/2 fit at every ratio, so nothing is rejected and the moments are those of the uniform law
    n, side = 4000, 1000
    _, _, height, width = crop.random_boxes(n, (side, side), (0.1, 0.5), RATIO, rng())
    area = (height * width).double() / side**2
    shape = (width / height).double().log()
    spread = log(4 / 3) - log(3 / 4)
    assert abs(area.mean() - 0.3) < 5 * 0.4 / sqrt(12 * n)
    assert abs(area.var() - 0.4**2 / 12) < 5e-4
    assert abs(shape.mean()) < 5 * spread / sqrt(12 * n)
    assert abs(shape.var() - spread**2 / 12) < 2e-3
    assert abs(torch.corrcoef(torch.stack((area, shape)))[0, 1]) < 5 / sqrt(n)


def test_positions_are_uniform():
    n = 6000
    top, left, height, width = crop.random_boxes(n, (5, 5), (9 / 25, 9 / 25), (1.0, 1.0), rng())
    assert height.eq(3).all()
    assert width.eq(3).all()
    counts = torch.bincount(3 * top + left, minlength=9)
    assert counts.shape == (9,)
    assert (counts - n / 9).abs().max() < 5 * sqrt(n / 9)


def test_boxes_stay_inside_and_differ():
    top, left, height, width = crop.random_boxes(2000, (32, 20), (0.08, 1), RATIO, rng())
    assert torch.stack((top, left)).min() >= 0
    assert torch.stack((height, width)).min() >= 1
    assert (top + height).max() <= 32
    assert (left + width).max() <= 20
    assert len(set(zip(top.tolist(), left.tolist(), height.tolist(), width.tolist(), strict=True))) > 1000


def boxes_of(*rows: tuple[int, int, int, int]) -> Boxes:
    return Boxes(*torch.tensor(rows).T)


@pytest.mark.parametrize("filter", ["bicubic", "bilinear"])
@pytest.mark.parametrize("out", [(32, 32), (9, 17), (64, 40)])
def test_resized_crop_is_interpolation_of_the_box(filter, out):
    image = torch.rand(5, 3, 40, 56, generator=rng())
    boxes = boxes_of((0, 0, 40, 56), (3, 5, 1, 1), (12, 20, 28, 36), (39, 0, 1, 56), (7, 30, 13, 20))
    for one, result, box in zip(
        image, crop.resized_crop(image, boxes, out, filter), zip(*boxes, strict=True), strict=True
    ):
        top, left, height, width = (int(v) for v in box)
        cut = one[None, :, top : top + height, left : left + width]
        expected = F.interpolate(cut, out, mode=filter, antialias=True)[0].clamp(0, 1)
        assert torch.allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("filter", "recorded"),
    [
        # torchvision 0.28.0, transforms.functional.resized_crop(g, 1, 2, 5, 3, [4, 4], ..., antialias=True)
        ("bicubic", [[0.25441, 0.61689, 0.65792, 0.35177], [0.98583, 0.72285, 0.32414, 0.03965],
                     [0.69305, 0.40220, 0.34652, 0.56093], [0.44823, 0.12352, 0.28187, 0.82401]]),
        ("bilinear", [[0.32500, 0.59062, 0.60000, 0.35000], [0.91667, 0.66667, 0.36667, 0.11667],
                      [0.68333, 0.43333, 0.37396, 0.52500], [0.45000, 0.20000, 0.31250, 0.75000]]),
    ],
)  # fmt: skip
def test_resized_crop_gives_torchvisions_values(filter, recorded):
    g = (torch.arange(36.0).reshape(1, 1, 6, 6) * 7 % 11) / 10
    result = crop.resized_crop(g, boxes_of((1, 2, 5, 3)), (4, 4), filter)
    assert torch.allclose(result[0, 0], torch.tensor(recorded), atol=2e-5)


@pytest.mark.parametrize("filter", ["bicubic", "bilinear"])
def test_resized_crop_agrees_with_pil(filter):
    pixels = torch.randint(0, 256, (4, 3, 32, 32), generator=rng(), dtype=torch.uint8)
    boxes = boxes_of((0, 0, 32, 32), (4, 9, 20, 17), (0, 0, 8, 11), (10, 2, 3, 30))
    result = crop.resized_crop(pixels / 255, boxes, (32, 32), filter)
    for one, ours, box in zip(pixels, result, zip(*boxes, strict=True), strict=True):
        top, left, height, width = (int(v) for v in box)
        picture = Image.fromarray(one.permute(1, 2, 0).numpy()).crop((left, top, left + width, top + height))
        theirs = np.asarray(picture.resize((32, 32), getattr(Image.Resampling, filter.upper())))
        assert (ours * 255 - torch.tensor(theirs).permute(2, 0, 1)).abs().mean() < 0.5


def test_resampling_weights_sum_to_one_inside_the_box():
    start, length = torch.tensor([3, 0, 10]), torch.tensor([5, 12, 2])
    weights = crop.resampling(start, length, 12, 7, "bicubic").matrix(12)
    assert torch.allclose(weights.sum(-1), torch.ones(3, 7))
    assert weights[0, :, :3].abs().max() == 0
    assert weights[0, :, 8:].abs().max() == 0
    assert weights[2, :, :10].abs().max() == 0


@pytest.mark.parametrize("filter", ["bicubic", "bilinear"])
@pytest.mark.parametrize("target", [7, 12, 30])
def test_every_box_has_interpolations_weights(filter, target):
    """All of them: an image of one pixel is resized to its weights."""
    start, length = (box.flatten() for box in torch.meshgrid(torch.arange(12), torch.arange(1, 13), indexing="ij"))
    inside = start + length <= 12
    start, length = start[inside], length[inside]
    weights = crop.resampling(start, length, 12, target, filter).matrix(12)
    for s, n, ours in zip(start.tolist(), length.tolist(), weights, strict=True):
        expected = torch.zeros(target, 12)
        pixels = torch.eye(n)[:, None, None]
        expected[:, s : s + n] = F.interpolate(pixels, (1, target), mode=filter, antialias=True)[:, 0, 0].T
        assert torch.allclose(ours, expected, atol=1e-6)


def test_mirrored_windows_are_mirrored_crops():
    image, boxes = torch.rand(2, 3, 9, 12, generator=rng()), boxes_of((0, 1, 9, 10), (3, 4, 2, 3))
    rows, columns = crop.windows(boxes, (9, 12), (8, 6), "bicubic", mirrored=torch.tensor([True, False]))
    plain = crop.resized_crop(image, boxes, (8, 6))
    expected = torch.stack((plain[0].flip(-1), plain[1]))
    assert torch.allclose(crop.resampled(image, rows, columns), expected, atol=1e-6)


def test_unknown_filter_is_refused():
    with pytest.raises(ValueError, match="'bicubic' and 'bilinear', not 'lanczos'"):
        crop.resized_crop(torch.zeros(1, 1, 4, 4), boxes_of((0, 0, 4, 4)), (4, 4), "lanczos")


def test_padded_crop_is_a_slice_of_the_padded_image():
    image = torch.rand(4, 2, 5, 7, generator=rng())
    top, left = torch.tensor([0, 3, 6, 1]), torch.tensor([6, 3, 0, 4])
    result = crop.padded_crop(image, top, left, 3)
    padded = np.pad(image.numpy(), ((0, 0), (0, 0), (3, 3), (3, 3)))
    for n, (i, j) in enumerate(zip(top.tolist(), left.tolist(), strict=True)):
        assert (result[n].numpy() == padded[n, :, i : i + 5, j : j + 7]).all()
    assert torch.equal(result[1], image[1])


def test_flip_mirrors_only_the_selected_images():
    image = torch.rand(2, 3, 4, 5, generator=rng())
    result = crop.flip(image, torch.tensor([True, False]))
    assert (result[0].numpy() == image[0].numpy()[:, :, ::-1]).all()
    assert torch.equal(result[1], image[1])


@pytest.mark.parametrize("filter", ["bicubic", "bilinear"])
@pytest.mark.parametrize("sides", [(32, 32), (8, 8), (32, 12), (12, 32)])
def test_weights_are_the_same_by_gather_and_by_scatter(filter, sides):
    """A GPU has each pixel look for its weight, a CPU lays each weight where its pixel is: the same bits."""
    source, target = sides
    length = torch.arange(1, source + 1)
    start = ((source - length + 1) * torch.rand(source, generator=rng())).long()
    for mirrored in (None, torch.arange(source) % 2 == 1):
        taps = crop.resampling(start, length, source, target, filter, mirrored)
        assert torch.equal(taps.matrix_by_gather(source), taps.matrix(source))
        assert (taps.pixel.diff(dim=2) == 1).all()
