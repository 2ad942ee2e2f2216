"""What holds for every selector, when one is due, and the baselines against their definitions in loops."""

from dataclasses import replace
from itertools import combinations
from math import e

import pytest
import torch
from toy import Toy

from unshaken.base.rng import Key
from unshaken.coreset.rcs import RCS
from unshaken.coreset.selector import All, Random, Ranked, random_subset, split
from unshaken.coreset.submodular import FacilityLocation, GradientMatching, KCenter
from variants import variants

SELECTORS = {
    "all": All(),
    "random": Random(),
    "loss": Ranked(by="loss"),
    "distance": Ranked(by="distance"),
    "k-centre": KCenter(),
    "facility": FacilityLocation(),
    "facility-slack": FacilityLocation(slack=0.2),
    "matching": GradientMatching(),
    "matching-samples": GradientMatching(granularity="sample", slack=0.2),
    "rcs": RCS(),
    "rcs-samples": RCS(granularity="sample", slack=0.2, distance="js"),
}
each_selector = pytest.mark.parametrize("selector", SELECTORS.values(), ids=SELECTORS)


@each_selector
@pytest.mark.parametrize("count", variants([1, 10, 17, 47], [1, 17]))
def test_a_selection_has_the_requested_number_of_distinct_candidates(selector, count):
    problem = Toy(0, sizes=(6, 6, 7, 6, 6, 6, 6, 4))
    images = selector.select(problem, count, Key(0))
    assert images.dtype == torch.int64
    assert images.shape == (count,)
    assert len(set(images.tolist())) == count
    assert set(images.tolist()) <= set(problem.index.tolist())
    assert torch.equal(images, selector.select(problem, count, Key(0)))


@each_selector
def test_more_than_there_is_is_refused(selector):
    for count in (0, 49):
        with pytest.raises(ValueError, match="picks from 1 to"):
            selector.select(Toy(0), count, Key(0))


@each_selector
def test_selectors_compare_and_hash_by_value(selector):
    assert hash(selector) == hash(replace(selector))
    assert selector == replace(selector)


def test_selections_are_due_after_the_warm_up_and_every_period():
    """Published ACL: warm-up 100, period 20: 0-based epochs 100, 120, ..., and never again if there is no period."""
    assert [epoch for epoch in range(160) if RCS(warmup=100, every=20).due(epoch)] == [100, 120, 140]
    assert [epoch for epoch in range(160) if Random(warmup=7, every=None).due(epoch)] == [7]
    assert [epoch for epoch in range(4) if RCS(warmup=0, every=1).due(epoch)] == [0, 1, 2, 3]


def test_the_budget_is_the_nearest_whole_number():
    assert [RCS(fraction=f).budget(49_500) for f in (0.05, 0.1, 0.2)] == [2475, 4950, 9900]
    assert RCS(fraction=1e-6).budget(50) == 2
    assert All().budget(50) == 50


@pytest.mark.parametrize(
    "wrong", [{"fraction": 0.0}, {"fraction": 1.2}, {"validation": 1.0}, {"warmup": -1}, {"every": 0}]
)
def test_invalid_fields_are_refused(wrong):
    with pytest.raises(ValueError, match=r"is a (whole )?number"):
        Random(**wrong)
    with pytest.raises(ValueError, match="fraction of 1"):
        All(fraction=0.5)


def test_the_validation_split_is_fixed_by_the_key():
    x, u = split(500, 0.01, Key(0))
    assert (len(x), len(u)) == (495, 5)
    assert torch.equal(torch.cat([x, u]).sort().values, torch.arange(500))
    assert torch.equal(u, split(500, 0.01, Key(0))[1])
    assert not torch.equal(u, split(500, 0.01, Key(1))[1])
    assert [len(part) for part in split(4, 0.01, Key(0))] == [2, 2]
    with pytest.raises(ValueError, match="needs 4 images or more"):
        split(3, 0.5, Key(0))


def test_random_is_uniform_and_ignores_mini_batches():
    problem, other = Toy(0), Toy(0)
    other.batches = problem.index.sort().values.split(8)
    first = Random().select(problem, 12, Key(0))
    assert torch.equal(first, Random().select(other, 12, Key(0)))
    drawn = torch.stack([Random().select(problem, 12, Key(k)) for k in range(200)]).flatten().bincount(minlength=48)
    assert drawn.min() > 20
    assert drawn.max() < 85


@pytest.mark.parametrize("largest", [True, False])
def test_ranks(largest):
    problem = Toy(0)
    value = {int(i): float(v) for i, v in zip(problem.index, problem.distances("kl", None), strict=True)}
    order = sorted(value, key=value.get, reverse=largest)
    assert Ranked(by="distance", largest=largest).select(problem, 10, Key(0)).tolist() == order[:10]
    losses = problem.losses().tolist()
    batches = sorted(range(8), key=losses.__getitem__, reverse=largest)[:2]
    picked = Ranked(by="loss", largest=largest).select(problem, 10, Key(0))
    assert picked.tolist() == torch.cat([problem.batches[b] for b in batches])[:10].tolist()


def test_k_centre_takes_the_farthest():
    for seed in range(5):
        problem = Toy(seed)
        picked = KCenter().select(problem, 9, Key(seed)).tolist()
        for k in range(1, 9):
            far = {i: min(float((problem.x[i] - problem.x[j]).norm()) for j in picked[:k]) for i in range(48)}
            assert picked[k] == max(far, key=far.get)


def test_k_centre_of_copies_takes_each_once():
    problem = Toy(0)
    problem.x = torch.zeros(48, 5)
    assert len(set(KCenter().select(problem, 48, Key(0)).tolist())) == 48


def facility(similarity: list[list[float]], subset: list[int]) -> float:
    return sum(max(row[j] for j in subset) for row in similarity)


def greedy(similarity: list[list[float]], picks: int) -> list[int]:
    """Without laziness."""
    subset: list[int] = []
    for _ in range(picks):
        left = [j for j in range(len(similarity[0])) if j not in subset]
        subset.append(max(left, key=lambda j: facility(similarity, [*subset, j])))
    return subset


def test_facility_location_is_greedy_and_near_the_best(monkeypatch):
    monkeypatch.setattr("unshaken.coreset.submodular.BLOCK", 5)  # so that laziness has something to leave out
    for seed in range(5):
        problem = Toy(seed, sizes=(6, 6))
        f = problem.features().double()
        cosine = torch.nn.functional.cosine_similarity(f[:, None], f[None], dim=-1)
        similarity = (1 + cosine).tolist()
        picked = FacilityLocation().select(problem, 3, Key(0))
        places = [problem.index.tolist().index(i) for i in picked.tolist()]
        assert places == greedy(similarity, 3)
        best = max(facility(similarity, list(subset)) for subset in combinations(range(12), 3))
        assert facility(similarity, places) >= (1 - 1 / e) * best
        some = FacilityLocation(slack=0.3).select(problem, 3, Key(0))
        assert facility(similarity, [problem.index.tolist().index(i) for i in some.tolist()]) >= 0.8 * best


@pytest.mark.parametrize("granularity", ["batch", "sample"])
def test_matching_gradients_is_facility_location_of_their_distances(granularity):
    for seed in range(3):
        problem = Toy(seed, sizes=(2,) * 10)
        q = problem.gradients(range(10), granularity)
        flat = torch.stack([torch.cat([p.flatten() for p in q.of(k).values()]) for k in range(len(q))]).double()
        distance = torch.cdist(flat, flat)
        similarity = (2 * flat.norm(dim=1).max() - distance).tolist()
        picked = GradientMatching(granularity=granularity).select(problem, 6, Key(0))
        expected = greedy(similarity, 6 // q.sizes[0])
        places = [q.index.tolist().index(i) // q.sizes[0] for i in picked[:: q.sizes[0]].tolist()]
        assert facility(similarity, places) == pytest.approx(facility(similarity, expected), rel=1e-6)  # there are ties
        assert places[:3] == expected[:3]


def test_random_subset_contains_only_remaining_items():
    left = torch.ones(100, dtype=torch.bool)
    left[::2] = False
    rng = Key(0).on("cpu")
    assert torch.equal(random_subset(left, 10, 0.0, rng), torch.arange(1, 100, 2))
    seen = random_subset(left, 10, 0.1, rng)
    assert len(seen) == len(set(seen.tolist())) == 24  # 100/10 log 10, rounded up
    assert bool(left[seen].all())
