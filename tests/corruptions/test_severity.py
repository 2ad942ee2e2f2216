"""The tables: their shape, a few published values, and lengths that grow with the image."""

import pytest

from unshaken.corruptions.severity import CIFAR, EXTRA, FIFTEEN, IMAGENET, constants, px, suited


@pytest.mark.parametrize("table", [CIFAR, IMAGENET])
def test_each_table_has_all_corruptions_at_five_severities(table):
    assert set(table) == {*FIFTEEN, *EXTRA}
    assert (len(FIFTEEN), len(EXTRA)) == (15, 4)
    for rows in table.values():
        assert len(rows) == 5
        assert len({len(row) for row in rows}) == 1


def test_both_tables_have_the_same_lengths():
    for name, rows in CIFAR.items():
        kinds = {tuple(isinstance(c, px) for c in row) for row in rows}
        assert kinds == {tuple(isinstance(c, px) for c in row) for row in IMAGENET[name]}


def test_lengths_scale_with_the_image_size_from_32_pixels():
    assert constants("motion_blur", 5, "cifar", 32) == (9, 2.5)
    assert constants("motion_blur", 5, "cifar", 8) == (9, 2.5)
    assert constants("motion_blur", 5, "cifar", 96) == (27, 7.5)
    assert constants("motion_blur", 5, "imagenet", 224) == (20, 15)
    assert constants("motion_blur", 5, "imagenet", 448) == (40, 30)
    assert constants("gaussian_noise", 1, "cifar", 96) == (0.04,)


def test_elastic_constants_are_the_published_ones_at_the_published_sides():
    alpha, sigma, shift = constants("elastic_transform", 4, "cifar", 32)
    assert (alpha * 32**2, sigma * 32, shift * 32) == pytest.approx((3.2, 1.28, 1.6))
    alpha, sigma, shift = constants("elastic_transform", 1, "imagenet", 224)
    assert (alpha * 224**2, sigma * 224, shift * 224) == pytest.approx((244 * 2, 244 * 0.7, 244 * 0.1))


def test_the_table_depends_on_the_image_size():
    assert [suited(side) for side in (8, 32, 96, 127, 128, 224)] == ["cifar"] * 4 + ["imagenet"] * 2
