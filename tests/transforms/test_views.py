"""What every transform must hold, and what each one does to an image."""

from dataclasses import replace
from math import nan, sqrt

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from unshaken.base.rng import Key
from unshaken.transforms import color as colour
from unshaken.transforms import crop
from unshaken.transforms import views as augment
from unshaken.transforms.views import CropFlip, DigitViews, Identity, ResizedCrop, SimCLRViews

KEY = Key(0) / "views" / 7
TRANSFORMS = [
    SimCLRViews(),
    SimCLRViews(count=3, filter="bilinear"),
    DigitViews(),
    DigitViews(noise=0.1),
    CropFlip(),
    ResizedCrop(),
    Identity(2),
]
RANDOM = [t for t in TRANSFORMS if not isinstance(t, Identity)]


def images(n: int = 6, channels: int = 3, side: int = 12) -> torch.Tensor:
    return torch.rand(n, channels, side, side, generator=Key(1).on("cpu"))


def drawn(n: int, strength: float, key: Key = KEY, simclr: SimCLRViews = SimCLRViews(), side: int = 32) -> dict:
    how = simclr.sample(torch.empty(n, 3, side, side), strength, key)
    return how.box._asdict() | how.jitter._asdict() | how._asdict()


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_views_are_images(transform, channels, strength):
    x = images(channels=channels)
    views = transform(x, strength, KEY)
    assert views.shape == (transform.count, *x.shape)
    assert views.dtype == torch.float32
    assert 0 <= views.min() <= views.max() <= 1
    assert torch.equal(x, images(channels=channels))  # the image itself is left alone


@pytest.mark.parametrize("transform", RANDOM, ids=repr)
def test_views_depend_only_on_the_key(transform):
    x, state = images(), torch.get_rng_state()
    views = transform(x, 1.0, KEY)
    assert torch.equal(transform(x, 1.0, KEY), views)
    assert not torch.equal(transform(x, 1.0, Key(1)), views)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("transform", RANDOM, ids=repr)
def test_views_and_samples_are_drawn_on_their_own(transform):
    x = images()[:1].expand(8, -1, -1, -1)
    views = replace(transform, count=3)(x, 1.0, KEY)
    assert len({tuple(v.flatten().tolist()) for v in views.flatten(0, 1)}) > 20
    assert torch.equal(replace(transform, count=1)(x, 1.0, KEY), views[:1])


@pytest.mark.parametrize("transform", RANDOM, ids=repr)
def test_other_samples_have_no_influence(transform):
    x = images()
    how = transform.draw(x, 1.0, KEY)
    together = transform.apply(x, *how)
    for n in range(len(x)):
        alone = transform.apply(x[n : n + 1], *(rows[n : n + 1] for rows in how))
        assert torch.allclose(alone[0], together[n], atol=1e-6)


@pytest.mark.parametrize("transform", RANDOM, ids=repr)
def test_views_do_not_depend_on_the_chunk_size(transform, monkeypatch):
    x = images()
    views = transform(x, 1.0, KEY)
    monkeypatch.setattr("unshaken.transforms.base.CACHED_PIXELS", 4 * 12 * 12)
    assert torch.allclose(transform(x, 1.0, KEY), views, atol=1e-6)


@pytest.mark.parametrize(
    "transform",
    [SimCLRViews(flip=0), DigitViews(noise=0.1), CropFlip(padding=0, flip=0), ResizedCrop(flip=0), Identity()],
    ids=repr,
)
@pytest.mark.parametrize("side", [8, 32])
def test_strength_zero_is_the_image(transform, side):
    x = images(side=side)
    for view in transform(x, 0.0, KEY):
        assert torch.allclose(view, x, atol=1e-6)


class NoWaiting(TorchDispatchMode):
    """Fails on what makes a host wait for its device: reading a value, or a shape that depends on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in {"_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_dim", "_unique2"}, name
        if name in {"index", "index_put_", "index_put"}:
            assert all(i is None or i.dtype != torch.bool for i in args[1]), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
def test_views_never_wait_for_the_device(transform):
    x = images()
    with NoWaiting():
        transform(x, 0.7, KEY)
        with pytest.raises(AssertionError):
            x[0, 0, 0, 0].item()


@pytest.mark.parametrize("strength", [-0.1, 1.1, nan, float("inf")])
@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
def test_a_strength_outside_its_range_is_refused(transform, strength):
    with pytest.raises(ValueError, match=r"a strength lies in \[0, 1\]"):
        transform(images(), strength, KEY)


def test_wrong_images_and_counts_are_refused():
    with pytest.raises(ValueError, match="float32"):
        SimCLRViews()((images() * 255).byte(), 1.0, KEY)
    with pytest.raises(ValueError, match="float32"):
        Identity()(images()[0], 1.0, KEY)
    with pytest.raises(ValueError, match="count is a whole number ≥ 1, not 0"):
        SimCLRViews(count=0)


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_simclr_has_its_probabilities_at_each_strength(strength):
    n = 8000
    how = drawn(n, strength)
    for name, p in (("flipped", 0.5), ("jittered", 0.8 * strength), ("greyed", 0.2 * strength)):
        assert abs(how[name].float().mean() - p) < 4 * sqrt(p * (1 - p) / n)
    both = torch.stack([how[name].double() for name in ("flipped", "jittered", "greyed")])
    assert (torch.corrcoef(both) - torch.eye(3)).abs().max() < 4 / sqrt(n)


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_simclr_reaches_its_largest_changes_at_each_strength(strength):
    how = drawn(4000, strength)
    area = how["height"] * how["width"] / 32**2
    smallest = 1 - 0.9 * strength
    assert smallest - 0.03 < area.min() < smallest + 0.03
    assert 1 - 0.4 * strength <= how["factor"].min() < 1 - 0.39 * strength
    assert 1 + 0.39 * strength < how["factor"].max() <= 1 + 0.4 * strength
    assert 0.099 * strength < how["shift"].abs().max() <= 0.1 * strength


def test_two_views_are_drawn_without_relation():
    one, two = drawn(4000, 1.0, KEY / 0), drawn(4000, 1.0, KEY / 1)
    for name in ("top", "left", "height", "flipped", "jittered", "shift", "before", "greyed"):
        assert abs(torch.corrcoef(torch.stack((one[name].double(), two[name].double())))[0, 1]) < 5 / sqrt(4000)


def test_simclr_is_its_operations_in_their_order():
    x, simclr = images(32), SimCLRViews(count=1, p_jitter=0.5, p_grey=0.5)
    how = simclr.sample(x, 1.0, KEY / 0)
    everywhere, nowhere = (torch.full((32,), chosen) for chosen in (True, False))
    expected = crop.flip(crop.resized_crop(x, how.box, (12, 12), "bicubic"), how.flipped)
    jittered = colour.apply_color(expected, colour.passes(how.jitter, everywhere, nowhere, 3))
    expected = torch.where(how.jittered[:, None, None, None], jittered, expected)
    expected = torch.where(how.greyed[:, None, None, None], colour.grey(expected), expected)
    assert torch.allclose(simclr(x, 1.0, KEY)[0], expected, atol=2e-6)
    assert len(set(zip(how.flipped.tolist(), how.jittered.tolist(), how.greyed.tolist(), strict=True))) == 8


def test_simclr_takes_its_filter():
    x = images()
    assert not torch.allclose(SimCLRViews()(x, 1.0, KEY), SimCLRViews(filter="bilinear")(x, 1.0, KEY), atol=1e-3)


def test_simclr_at_strength_zero_only_flips():
    x = images(64)
    view = SimCLRViews(count=1)(x, 0.0, KEY)[0]
    same = (view - x).abs().amax((1, 2, 3)) < 1e-6
    mirrored = (view - x.flip(-1)).abs().amax((1, 2, 3)) < 1e-6
    assert (same ^ mirrored).all()
    assert 16 < same.sum() < 48


def test_digit_windows_stay_inside_unless_moved():
    white = torch.ones(200, 1, 8, 8)
    still = DigitViews(count=1, crop=0.6, shift=0, degrees=0, jitter=0)
    inner = still(white, 1.0, KEY)[0, :, :, 1:-1, 1:-1]  # at the border, a window blends with the 0 outside
    assert inner.min() > 0.999
    assert replace(still, shift=0.5)(white, 1.0, KEY).min() == 0
    assert replace(still, degrees=45, crop=0.0)(white, 1.0, KEY).min() == 0


def test_digit_draws_what_its_fields_say():
    digit = DigitViews(crop=0.5, shift=0.25, degrees=30, jitter=0.2, noise=0.1)
    angle, zoom, down, right, factor, noise = digit.draw(torch.empty(4000, 1, 8, 8), 0.5, KEY)
    assert angle.abs().max() == pytest.approx(torch.pi / 12, rel=0.01)
    assert (1 / zoom**2).aminmax() == pytest.approx((0.75, 1.0), abs=0.01)
    slack = (zoom - 1) / 2
    for move in (down, right):
        assert ((move.abs() - slack) <= 0.125 + 1e-6).all()
        assert (move.abs() - slack).max() > 0.1
        assert abs(move.mean()) < 0.01
    assert factor.aminmax() == pytest.approx((0.9, 1.1), abs=0.01)
    assert noise.std() == pytest.approx(0.05, rel=0.01)


def test_digit_blends_and_adds_noise():
    x = images(channels=1, side=8)
    angle, zoom, down, right, factor, noise = DigitViews(noise=0.2).draw(x, 1.0, KEY)
    zero, one = torch.zeros(len(x)), torch.ones(len(x))
    result = DigitViews().apply(x, zero, one, zero, zero, factor, noise)
    b, c = factor[:, 0, None, None, None], factor[:, 1, None, None, None]
    bright = (b * x).clamp(0, 1)
    blended = (c * bright + (1 - c) * bright.mean((1, 2, 3), keepdim=True)).clamp(0, 1)
    assert torch.allclose(result, (blended + noise).clamp(0, 1), atol=1e-5)


def test_crop_flip_covers_its_positions_evenly():
    n, padding = 5000, 2
    x = torch.zeros(n, 1, 9, 9)
    x[:, :, 4, 4] = 1
    where = CropFlip(padding=padding, flip=0)(x, 1.0, KEY)[0].flatten(1).argmax(1)
    counts = torch.bincount(where, minlength=81).reshape(9, 9)[2:7, 2:7]
    assert counts.sum() == n
    assert (counts - n / 25).abs().max() < 5 * sqrt(n / 25)
    mirrored = CropFlip(padding=0)(images(2000, 1, 4), 1.0, KEY)[0] != images(2000, 1, 4)
    assert abs(mirrored.any(3).any(2).float().mean() - 0.5) < 4 * 0.5 / sqrt(2000)


def test_crop_flip_ignores_the_strength():
    x = images()
    assert torch.equal(CropFlip()(x, 0.0, KEY), CropFlip()(x, 1.0, KEY))


@pytest.mark.parametrize("side", [24, 224])
def test_resized_crop_is_simclr_without_its_colours(side):
    """The same boxes and flips by key, of an area from 0.08 on; at 224 pixels as at any other side."""
    x = images(2, side=side)
    plain = SimCLRViews(count=1, filter="bilinear", min_area=0.08, p_jitter=0.0, p_grey=0.0)
    assert torch.allclose(ResizedCrop()(x, 1.0, KEY), plain(x, 1.0, KEY), atol=1e-6)
    for strength, least in ((1.0, 0.08), (0.5, 0.54)):
        how = drawn(4000, strength, simclr=plain, side=side)
        assert abs((how["height"] * how["width"]).min() / side**2 - least) < 0.02


def test_identity_copies_the_images():
    x = images()
    views = Identity(2)(x, 0.3, KEY)
    assert torch.equal(views[0], x)
    assert torch.equal(views[1], x)


def test_views_of_two_kinds_stand_one_after_the_other():
    """Each is what its own transform makes, from a key of its own."""
    image = torch.rand(5, 3, 16, 16, generator=Key(0).on("cpu"))
    both = augment.Concat(augment.SimCLRViews(count=2), augment.CropFlip(count=1))
    assert both.count == 3
    views = both(image, 0.7, Key(1))
    assert views.shape == (3, 5, 3, 16, 16)
    assert torch.equal(views[:2], augment.SimCLRViews(count=2)(image, 0.7, Key(1) / "first"))
    assert torch.equal(views[2:], augment.CropFlip()(image, 0.7, Key(1) / "then"))
