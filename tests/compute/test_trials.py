"""A trial keeps the fastest of several ways by a clock, within its time; the ways are chosen by words."""

import pytest
import torch
from torch import nn

from unshaken.compute import trials
from unshaken.compute.depthwise_conv import DepthwiseConv2d
from unshaken.compute.matmul_conv import MatmulConv2d
from unshaken.compute.runtime import Runtime
from unshaken.compute.trials import fastest
from unshaken.compute.ways import FIXED, check_ways, use_ways


class Bench:
    """Work whose seconds an image are given by its way; a clock that only this work moves."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.now, self.seconds, self.done = 0.0, seconds, []

    def prepare(self, way: str):
        def cost(part: str, images: int) -> float:
            self.now += self.seconds[way] * images
            self.done.append((way, part, images))
            return self.seconds[way] * images

        return cost

    def trial(self, changes: dict[str, str], most: int = 64, repeats: float = 1e9, limit: float = 2.0):
        """Try these ways after each other, judged by these parts, from the way "first"."""
        each = [(part, lambda now, way=way: way) for way, part in changes.items()]
        return fastest("first", each, self.prepare, most, repeats, limit, lambda: self.now)


@pytest.mark.parametrize(
    ("second", "third", "best", "faster"),
    [(0.5, 2, "second", 2), (2, 0.25, "third", 4), (0.5, 0.25, "third", 4), (0.95, 2, "first", 1), (1, 1, "first", 1)],
)
def test_the_fastest_way_is_kept(second, third, best, faster):
    """A way that saves less than a tenth does not replace the one in use."""
    bench = Bench({"first": 1e-3, "second": second * 1e-3, "third": third * 1e-3})
    found = bench.trial({"second": "update", "third": "update"})
    assert (found.best, found.tried) == (best, (2, 2))
    assert found.faster == pytest.approx(faster)


def test_each_change_is_judged_by_its_own_part():
    bench = Bench({"first": 1e-3, "second": 1e-4})
    bench.trial({"second": "attack"})
    assert {part for way, part, _ in bench.done if way == "second"} == {"attack"}


def test_a_trial_ends_in_time():
    """Images grow while they fit; two seconds are the limit, or a hundredth of the run."""
    bench = Bench({"first": 1e-3, "second": 1e-3})
    assert bench.trial({"second": "update"}, most=4096).images == 256
    assert bench.now <= 2.0
    few = Bench({"first": 1e-3, "second": 1e-3})
    few.trial({"second": "update"}, repeats=50_000)
    assert few.now <= 0.5
    assert max(images for _, _, images in few.done) < 256


def test_a_step_that_is_too_long_is_not_compared():
    """The first call of the way in use is all that is spent."""
    bench = Bench({"first": 2.0, "second": 0.1})
    found = bench.trial({"second": "update"})
    assert (found.best, found.tried) == ("first", (0, 1))
    assert bench.done == [("first", "update", 2)]
    assert bench.trial({}).tried == (0, 0)


def test_what_a_change_needs_is_made_ready_in_time_of_its_own():
    """It is told the time of the run; a change that stays impossible is no comparison that was left out."""
    bench, told = Bench({"first": 1e-3, "second": 5e-4}), []

    def ready(expected: float) -> None:
        told.append(expected)
        bench.now += 60

    changes = [("update", lambda now: now), ("update", lambda now: "second")]
    found = fastest("first", changes, bench.prepare, 64, 1e6, 2.0, lambda: bench.now, ready)
    assert told == [pytest.approx(1000)]
    assert (found.best, found.tried) == ("second", (1, 1))
    assert found.seconds < 2


def test_a_patient_trial_of_a_slow_network_has_more_images():
    def trial(patient: bool):
        bench, changes = Bench({"first": 0.08, "second": 0.04}), [("update", lambda now: "second")]
        return fastest("first", changes, bench.prepare, 64, 1e6, 2.0, lambda: bench.now, patient=patient)

    assert trial(False).seconds < 2 < trial(True).seconds < 10
    assert trial(False).images < trial(True).images


@pytest.mark.parametrize("words", [(), ("auto", "folding"), ("folding", "folding"), ("matmul-16", "matmul-64")])
def test_wrong_words(words):
    with pytest.raises(ValueError, match="computation"):
        check_ways(words)
    with pytest.raises(ValueError, match="computation"):
        Runtime("cpu", computation=words)


def test_ways_are_what_runs_differ_by():
    assert Runtime("cpu").ways == Runtime("cpu", computation=FIXED).ways == FIXED
    assert Runtime("cpu").identity == Runtime("cpu", computation=FIXED[::-1]).identity == {"precision": "float32"}
    assert Runtime("cpu", computation=("plain",)).identity["computation"] == ["plain"]
    assert Runtime("cpu", computation=("folding",)).identity["computation"] == ["folding"]
    assert not Runtime("cpu").settled
    assert Runtime("cpu", computation=("plain",)).settled


def test_a_network_gets_its_ways_and_loses_them_again():
    """Layout and kinds of convolutions; the results are equal, and the network is the same object."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), nn.Conv2d(256, 256, 3, padding=1, groups=256))
    x, cpu = torch.randn(2, 256, 6, 6), torch.device("cpu")
    plain = net(x)
    for ways, pixels in ((FIXED, 16), (("matmul-64",), 64), ((), 0), (("matmul-64", "depthwise"), 64)):
        use_ways(net, ways, cpu)
        assert getattr(net[0], "most_pixels", 0) == pixels
        assert isinstance(net[0], MatmulConv2d)
        assert isinstance(net[1], DepthwiseConv2d) == ("depthwise" in ways)
        layout = torch.channels_last if "channels-last" in ways else torch.contiguous_format
        assert net[0].weight.is_contiguous(memory_format=layout)
        torch.testing.assert_close(net(x), plain, atol=1e-4, rtol=1e-4)


def test_limits_are_as_the_documentation_says():
    assert (trials.SECONDS, trials.SHARE, trials.GAIN) == (2.0, 0.01, 0.1)
    assert (trials.LONGER, trials.PATIENCE) == (10.0, 1 / 3600)
