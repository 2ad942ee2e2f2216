"""The computation of a training: what can differ is tried on its network, for long trainings on CPUs only."""

from dataclasses import replace

import pytest
import torch

import unshaken
from unshaken.base.native_code import Unavailable
from unshaken.base.rng import Key
from unshaken.compute.runtime import Runtime
from unshaken.compute.trials import Found
from unshaken.compute.ways import FIXED
from unshaken.methods.acl import ACL
from unshaken.methods.simclr import SimCLR
from unshaken.nets.network import frozen
from unshaken.train import computation_trial
from unshaken.train.computation_trial import LONG, Training, chosen_computation, cost_of, fixed_computation
from unshaken.transforms.views import SimCLRViews

AUTO = Runtime("cpu")


@pytest.fixture(scope="module")
def training() -> Training:
    """A long training of a small network."""
    recipe = unshaken.recipe("acl/digits")
    return Training(recipe.build_network(), recipe.method, LONG, 32, (1, 8, 8))


class Clock:
    """A clock by which each call takes what its computation costs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds) -> None:
        self.now = 0.0

        def prepared(training, clock, runtime):
            def cost(part, images):
                self.now += seconds(runtime, part) * images
                return seconds(runtime, part) * images

            return cost

        monkeypatch.setattr(computation_trial, "cost_of", prepared)

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("slow", "chosen"),
    [
        (set(), FIXED),
        ({"channels-last"}, ("folding", "matmul-16", "depthwise")),
        ({"folding", "channels-last"}, ("matmul-16", "depthwise")),
    ],
)
def test_the_clock_decides(slow, chosen, training, monkeypatch):
    """What makes steps slower here is left out, and the line says so."""
    clock = Clock(monkeypatch, lambda runtime, part: 1e-3 * 2 ** len(slow & {*runtime.ways}))
    runtime, line = chosen_computation(training, AUTO, clock=clock)
    assert runtime.computation == chosen
    assert runtime.settled
    assert clock.now <= 2.0
    said = f"{2 ** len(slow)}.00 times as fast" if slow else "as fast as any other"
    assert all(part in line for part in (said, " ".join(chosen), "float32"))


@pytest.mark.parametrize(("bf16", "best"), [(0.5, "bf16"), (2.0, "float32")])
def test_auto_takes_the_precision_that_is_faster_here(bf16, best, training, monkeypatch):
    monkeypatch.setattr("unshaken.compute.runtime.multiplies_bf16", lambda kind: True)
    clock = Clock(monkeypatch, lambda runtime, part: 1e-3 * (bf16 if runtime.precision == "bf16" else 1))
    assert chosen_computation(training, Runtime("cpu", "auto"), clock=clock)[0].precision == best
    assert chosen_computation(training, Runtime("cpu", "bf16"), clock=clock)[0].precision == "bf16"


def test_short_trainings_and_pinned_ones_are_not_timed(training, monkeypatch):
    monkeypatch.setattr(computation_trial, "fastest", None)
    short = replace(training, passes=LONG / 64 - 1)
    assert chosen_computation(short, AUTO) == (Runtime("cpu", computation=FIXED), "")
    pinned = Runtime("cpu", computation=("plain",))
    assert chosen_computation(training, pinned) == (pinned, "")
    with pytest.raises(TypeError):
        chosen_computation(replace(short, passes=LONG / 64), AUTO)


def test_depthwise_networks_are_not_computed_in_bf16_untimed(monkeypatch):
    monkeypatch.setattr("unshaken.compute.runtime.multiplies_bf16", lambda kind: True)
    depthwise = torch.nn.Conv2d(8, 8, 3, groups=8)
    auto = Runtime("cpu", "auto")
    assert fixed_computation(auto, depthwise).precision == "float32"
    assert fixed_computation(auto, torch.nn.Conv2d(8, 8, 3)).precision == "bf16"
    assert fixed_computation(Runtime("cpu", "bf16"), depthwise).precision == "bf16"


def test_what_is_timed_is_a_step_of_the_network(training):
    """The real network, which stays as it is: an update has gradients of weights, an attack those of images."""
    before = {name: value.clone() for name, value in training.net.state_dict().items()}
    clock = iter(range(1000))
    cost = cost_of(training, lambda: next(clock), AUTO)
    assert cost("update", 4) == 1
    assert cost("attack", 4) == 1 + training.method.attack.steps
    assert all(torch.equal(value, before[name]) for name, value in training.net.state_dict().items())
    assert all(p.grad is None for p in training.net.parameters())
    runtime, line = chosen_computation(training, AUTO)
    assert runtime.settled
    assert "by a trial of" in line


def test_methods_without_attacks_do_not_try_folding(training, monkeypatch):
    tried = []

    def fastest(first, changes, *others):
        tried.append([part for part, _ in changes])
        raise ZeroDivisionError

    monkeypatch.setattr(computation_trial, "fastest", fastest)
    for method in (ACL(), SimCLR()):
        with pytest.raises(ZeroDivisionError):
            chosen_computation(replace(training, method=method), AUTO)
    assert tried == [["update", "attack", "update"], ["update", "update"]]


@pytest.mark.parametrize(
    "ways",
    [
        (),
        ("folding",),
        ("channels-last",),
        ("channels-last", "folding", "matmul-64"),
        ("channels-last", "folding", "winograd"),
    ],
)
def test_all_ways_compute_the_same(ways, training):
    """Embeddings in train mode and gradients of an attack, in float32, against the plain ones."""
    x = torch.rand(6, 1, 8, 8, generator=Key("x").on("cpu"))
    found = []
    for words in (("plain",), ways or ("plain",)):
        net = unshaken.recipe("acl/digits").build_network()
        Runtime("cpu", computation=words).prepare(net)
        out = net(x, "adv")
        with frozen(net):
            image = x.clone().requires_grad_()
            (grad,) = torch.autograd.grad(net(image, "adv").square().sum(), image)
        found.append((out, grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("there", "speed"), [(True, 0.5), (True, 2.0), (False, 0.5)])
def test_convolutions_are_compiled_where_that_is_possible_and_worth_it(there, speed, training, monkeypatch):
    """By this clock a step with compiled convolutions takes half as long, or twice."""
    asked = []

    class Code:
        loaded = there

        def load(self, build):
            asked.append(build)
            if not there:
                raise Unavailable("no compiler")

    monkeypatch.setattr(computation_trial, "CONVOLUTIONS", Code())
    for each in (1e-3, 1e-5):  # seconds of an image: the run takes an hour, or less than a minute
        clock = Clock(monkeypatch, lambda runtime, part, s=each: s * (speed if "winograd" in runtime.ways else 1))
        runtime, line = chosen_computation(replace(training, passes=LONG / 64), AUTO, clock=clock)
        assert runtime.computation == ((*FIXED, "winograd") if there and speed < 1 else FIXED)
        assert ("no compiler" in line) == (not there)
    assert asked == [True, False]


@pytest.mark.parametrize(("there", "chosen", "said"), [(True, True, "compiled code, "), (False, False, "no compiler")])
def test_views_are_compiled_where_that_is_possible_and_worth_it(there, chosen, said, training, monkeypatch):
    """A run of five minutes compiles; the views of this clock take half as long when they are compiled."""
    asked, switched, now = [], [], [0.0]

    def load(build):
        asked.append(build)
        if not there:
            raise Unavailable("no compiler")

    def views(self, image, strength, key):
        now[0] += 1e-3 if switched[-1] else 2e-3

    monkeypatch.setattr(computation_trial.VIEWS_CODE, "load", load)
    monkeypatch.setattr(computation_trial, "use_fused_views", switched.append)
    monkeypatch.setattr(SimCLRViews, "__call__", views)
    monkeypatch.setattr(
        computation_trial,
        "fastest",
        lambda first, *others: Found(first, 1.0, 2, 0.0, (0, 0), expected=[300.0, 299.0][len(asked)]),
    )
    colour = replace(training, shape=(3, 32, 32), views=SimCLRViews())
    for build in (True, False):
        runtime, line = chosen_computation(colour, AUTO, clock=lambda: now[0])
        assert asked[-1] == build
        assert ("fused-views" in runtime.computation) == chosen
        assert said in line
    assert not switched or switched[-1] is False
