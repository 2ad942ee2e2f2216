"""Spatter: what OpenCV 5.0 gives for one layer, stage by stage, and mud and water from their definitions."""

import numpy as np
import pytest
import torch
from scenes import scenes
from scipy import ndimage

from unshaken.base.rng import Key
from unshaken.base.sample_rng import SampleRandom
from unshaken.corruptions import spatter

EDGES = """
................
...........#####
...#######......
...#.....#.#####
...#.....#......
...#.....#......
...#.....#......
...#.....#......
...##...##......
.....###........
..........#####.
..........#...#.
..........#....#
..........#...#.
..........#####.
................
"""
WAVES = (
    "00061d 002d25 00110f f84710 638c00 4c380f 706350 40c627 030c08 fe3033 0863c4 44c418 "
    "708833 c0da44 889209 089232 11b440 13248b 164d34 d44a49 949292 953ca5 b56949 254912"
)
"""Rows of 24 pixels as bits, in hexadecimal."""
RELIEF = [
    [66, 66, 13, 26, 39, 39, 39, 39, 26, 13, 0, 0, 0, 0, 0, 0],
    [66, 66, 0, 83, 168, 238, 168, 83, 39, 111, 196, 255, 255, 249, 243, 236],
    [218, 202, 191, 205, 238, 253, 240, 181, 96, 26, 26, 39, 39, 13, 0, 0],
    [251, 251, 249, 244, 230, 217, 194, 125, 55, 0, 0, 0, 0, 0, 0, 0],
]
"""Rows 0, 5, 10 and 15."""


def layer() -> torch.Tensor:
    i, j = np.mgrid[:16, :16]
    drops = np.where(np.hypot(i - 5, j - 6) < 4, 200 + 3 * i, 0) + np.where(np.hypot(i - 12, j - 12) < 2.5, 170 + j, 0)
    return torch.from_numpy(drops + np.where((i == 2) & (j > 10), 60, 0)).double()[None, None]


def draws(count: int) -> SampleRandom:
    return SampleRandom(Key(1), torch.arange(count))


def test_edges_are_opencvs():
    rows = ["".join(".#"[v] for v in row) for row in spatter.edges(layer())[0, 0].int()]
    assert rows == EDGES.split()


@pytest.mark.parametrize(("strong", "faint", "reaches"), [(38, 13, True), (38, 12, False), (25, 13, False)])
def test_a_weak_edge_counts_only_beside_a_strong_one(strong, faint, reaches):
    """A step's gradient is four times its height: 13 is above 50 / 4, 38 above 150 / 4, and 25 is not."""
    step = torch.zeros(1, 1, 16, 12).double()
    step[:, :, :6, 6:], step[:, :, 6:, 6:] = strong, faint
    assert bool(spatter.edges(step)[0, 0, 15].any()) == reaches


def test_edges_of_faint_waves_are_opencvs():
    i, j = np.mgrid[:24, :24]
    waves = 90 + 30 * np.sin(i * j / 17) + 25 * np.cos(i / 3 - j / 5) + 18 * np.sin(i + j * j / 29)
    waves = torch.from_numpy(waves.round() // 6 * 6)[None, None]
    rows = [f"{int(''.join('01'[v] for v in row), 2):06x}" for row in spatter.edges(waves)[0, 0].int()]
    assert rows == WAVES.split()


def test_relief_is_opencvs():
    assert spatter.relief(layer())[0, 0, ::5].tolist() == RELIEF


def test_an_image_does_not_see_its_batch():
    both = torch.cat([layer(), layer().flip(3), 0 * layer()])
    assert torch.equal(spatter.relief(both)[:1], spatter.relief(layer()))


def test_chamfer_distance_is_near_the_true_one_and_cut_off():
    edge = torch.zeros(1, 1, 30, 30, dtype=torch.bool)
    edge[0, 0, 3, 4] = edge[0, 0, 20, 25] = True
    true = ndimage.distance_transform_edt(~edge[0, 0].numpy())
    found = spatter.chamfer(edge, 12)[0, 0].numpy()
    assert np.abs(found / true.clip(max=12).clip(min=1e-9) - 1)[~edge[0, 0].numpy()].max() < 0.025
    assert found.max() == 12
    assert (spatter.chamfer(edge & False, 7) == 7).all()
    steps = [found[3 + i, 4 + j] for i, j in ((0, 3), (2, 2), (1, 2), (4, 2), (3, 5))]
    assert steps == pytest.approx([3, 2 * 1.4, 2.1969, 2 * 2.1969, 2 * 2.1969 + 1.4], abs=1e-4)


def test_equalize_spreads_levels_as_computed_by_hand():
    level = torch.tensor([3, 3, 3, 9, 9, 7, 7, 7]).double().view(1, 1, 2, 4)
    assert spatter.equalize(level).flatten().tolist() == [0, 0, 0, 255, 255, 153, 153, 153]
    assert spatter.equalize(0 * level + 5).unique().tolist() == [5]


def test_mud_is_the_literal_computation():
    x = scenes(2).double()
    noise = 0.65 + 0.3 * draws(2).normal(1, 32, 32).numpy()
    liquid = ndimage.gaussian_filter(noise, (0, 0, 1, 1), mode="nearest")
    opaque = ndimage.gaussian_filter((liquid > 0.68).astype(float), (0, 0, 0.6, 0.6), mode="nearest")
    opaque *= opaque >= 0.8
    expected = x.numpy() * (1 - opaque) + opaque * (np.array([63, 42, 20]) / 255)[:, None, None]
    assert 0.01 < opaque.mean() < 0.6
    assert np.abs(spatter.spatter(x, draws(2), 0.65, 0.3, 1, 0.68, 0.6, 1).numpy() - expected).max() < 1e-12


def test_water_is_the_literal_computation():
    x = scenes(2).double()
    noise = 0.65 + 0.3 * draws(2).normal(1, 32, 32).numpy()
    liquid = ndimage.gaussian_filter(noise, (0, 0, 1, 1), mode="nearest")
    wet = torch.from_numpy(np.floor(255 * liquid * (liquid >= 0.69)) % 256)
    light = wet * spatter.relief(wet)
    added = spatter.spatter(x, draws(2), 0.65, 0.3, 1, 0.69, 0.5, 0) - x
    strength = (0.5 * light / light.amax((2, 3), keepdim=True)).expand_as(added)
    assert torch.allclose(added, strength * (torch.tensor([175, 238, 238]) / 255).double()[:, None, None], atol=1e-12)


def test_spatter_without_liquid_changes_nothing():
    x = scenes(2).double()
    assert torch.equal(spatter.spatter(x, draws(2), 0.1, 0.01, 1, 0.69, 0.5, 0), x)


@pytest.mark.parametrize("mud", [0, 1])
def test_grey_images_get_the_colours_luma(mud):
    grey = scenes(2, 1).double()
    colour = spatter.spatter(grey.expand(-1, 3, -1, -1), draws(2), 0.65, 0.3, 1, 0.68, 0.6, mud)
    luma = (colour * torch.tensor([0.299, 0.587, 0.114]).double()[:, None, None]).sum(1, keepdim=True)
    assert torch.allclose(spatter.spatter(grey, draws(2), 0.65, 0.3, 1, 0.68, 0.6, mud), luma, atol=1e-6)
