"""Compiled views are those of PyTorch's operations: for every operation, order, size and filter, by the same draws."""

from itertools import permutations

import pytest
import torch

from unshaken.base.native_code import Unavailable, compiler_here
from unshaken.base.rng import Key
from unshaken.compute.runtime import Runtime
from unshaken.transforms import color as colour
from unshaken.transforms import crop, fused_views
from unshaken.transforms.fused_views import use_fused_views
from unshaken.transforms.views import SimCLRViews

try:
    compiler_here()
except Unavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)


@pytest.fixture(autouse=True)
def off_again():
    yield
    use_fused_views(False)


def images(n: int, height: int = 32, width: int = 32) -> torch.Tensor:
    """Noise, with grey, black and white images, whose hue is undefined, among the first ones."""
    x = torch.rand(n, 3, height, width, generator=Key("fused").on("cpu"))
    x[0], x[1], x[2] = x[0, :1], 0, 1
    return x


def both(views: SimCLRViews, x: torch.Tensor, strength: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    use_fused_views(False)
    plain = views(x, strength, Key(5))
    use_fused_views(True)
    return views(x, strength, Key(5)), plain


@pytest.mark.parametrize(
    "views",
    [
        SimCLRViews(),
        SimCLRViews(filter="bilinear", p_jitter=1, p_grey=0),
        SimCLRViews(p_jitter=0, p_grey=0),
        SimCLRViews(p_jitter=0, p_grey=1),
        SimCLRViews(jitter=1, hue=0.5, p_jitter=1, p_grey=0.5, flip=1),
        SimCLRViews(jitter=0, p_jitter=1, flip=0),
        SimCLRViews(count=3, min_area=1),
    ],
    ids=str,
)
@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_every_operation_is_the_same(views, strength):
    ours, plain = both(views, images(48), strength)
    assert not torch.equal(ours, torch.zeros_like(ours))
    torch.testing.assert_close(ours, plain, atol=5e-6, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (33, 20), (1, 5), (96, 96)])
def test_images_of_any_size(height, width):
    ours, plain = both(SimCLRViews(), images(9, height, width))
    torch.testing.assert_close(ours, plain, atol=5e-6, rtol=0)


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
@pytest.mark.parametrize("before", range(4))
def test_colours_in_every_order(order, before):
    """The four operations of the colour jitter one after the other, in float64, with nothing shared between them."""
    n, x = 8, images(8, 9, 9)
    factor = torch.rand(n, 3, generator=Key("factor").on("cpu")) + 0.5
    shift = torch.rand(n, generator=Key("shift").on("cpu")) - 0.5
    jitter = colour.ColorJitter(factor, shift, torch.tensor([order] * n), torch.full((n,), before))
    whole = crop.Boxes(*(torch.full((n,), v) for v in (0, 0, 9, 9)))
    rows, columns = crop.windows(whole, (9, 9), (9, 9), "bilinear")
    always = torch.ones(n, dtype=torch.bool)
    drawn = (*rows, *columns, *colour.passes(jitter, always, ~always, 3))
    use_fused_views(True)
    ours = torch.empty_like(x)
    fused_views.fused_views(ours, x, *drawn)
    steps = [colour.brightness, colour.contrast, colour.saturation]
    work = [lambda y, k=k: steps[k](y, factor[:, k].double()) for k in order]
    work.insert(before, lambda y: colour.hue(y, shift.double()))
    y = x.double()
    for step in work:
        y = step(y)
    torch.testing.assert_close(ours.double(), y, atol=5e-6, rtol=0)


def test_it_is_used_where_a_run_says_so_and_for_colour_images(monkeypatch):
    calls, loop = [], fused_views.fused_views
    monkeypatch.setattr("unshaken.transforms.views.fused_views", lambda *given: calls.append(1) or loop(*given))
    Runtime("cpu", computation=("channels-last", "fused-views")).set_up_process()
    SimCLRViews()(images(4), 1.0, Key(0))
    assert len(calls) == 2
    SimCLRViews()(images(4)[:, :1], 1.0, Key(0))
    Runtime("cpu").set_up_process()
    SimCLRViews()(images(4), 1.0, Key(0))
    assert len(calls) == 2


def test_a_run_that_needs_it_says_what_is_missing(monkeypatch):
    def load(build=True):
        raise Unavailable("there is no C compiler here (cc)")

    monkeypatch.setattr(fused_views.CODE, "load", load)
    with pytest.raises(ValueError, match=r"fused-views.*no C compiler.*--runtime.computation"):
        use_fused_views(True)
    use_fused_views(False)
