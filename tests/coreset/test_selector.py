"""What holds for every selector, when one is due, and the baselines against their definitions in loops."""

from dataclasses import replace
from itertools import combinations
from math import e

import pytest
import torch
from toy import Toy

from unshaken.base.rng import Key
from unshaken.coreset.kmeans_margin import KMeansMargin, margins
from unshaken.coreset.rcs import RCS
from unshaken.coreset.selector import All, Random, Ranked, random_subset, split
from unshaken.coreset.submodular import FacilityLocation, GradientMatching, KCenter
from variants import variants

SELECTORS = {
    "all": All(),
    "random": Random(),
    "loss": Ranked(by="loss"),
    "distance": Ranked(by="distance"),
    "gradient": Ranked(by="gradient", largest=False),
    "k-means": KMeansMargin(clusters=3),
    "k-centre": KCenter(),
    "facility": FacilityLocation(),
    "facility-slack": FacilityLocation(slack=0.2),
    "matching": GradientMatching(),
    "matching-samples": GradientMatching(granularity="sample", slack=0.2),
    "rcs": RCS(),
    "rcs-diverse": RCS(granularity="sample", slack=0.2, at_once=3, diversity=1.0),
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
    for by, values in (("distance", problem.distances("kl", None)), ("gradient", problem.input_gradients())):
        value = {int(i): float(v) for i, v in zip(problem.index, values, strict=True)}
        order = sorted(value, key=value.get, reverse=largest)
        assert Ranked(by=by, largest=largest).select(problem, 10, Key(0)).tolist() == order[:10]
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


def test_margins_are_distances_to_the_two_nearest_means_of_clusters():
    """Three tight clusters, so that k-means has one answer: their means; images between two of them are added."""
    rng, centres = Key("blobs").on("cpu"), torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 14.0]])
    f = torch.cat([centre + 0.1 * torch.randn(40, 2, generator=rng) for centre in centres])
    f = torch.cat([f, torch.tensor([[5.1, 0.0], [0.0, 6.5]])])
    members = [[*range(40)], [*range(40, 80), 120], [*range(80, 120)]]
    members[0].append(121)
    means = torch.stack([f[rows].double().mean(0) for rows in members])
    slow = []
    for one in f.double():
        nearest, second, _ = sorted(float((one - mean).norm()) for mean in means)
        slow.append(second - nearest)
    assert torch.allclose(margins(f, 3, Key(0)).double(), torch.tensor(slow, dtype=torch.float64), atol=1e-4)
    assert sorted(margins(f, 3, Key(0)).argsort()[:2].tolist()) == [120, 121]
    with pytest.raises(ValueError, match="122 candidates cannot form 200 clusters: set clusters to 122"):
        margins(f, 200, Key(0))


@pytest.mark.parametrize(("share", "by_margin"), [(0.0, 12), (0.5, 6), (0.25, 9), (1.0, 0)])
def test_the_smallest_margins_come_first_and_the_rest_is_random(share, by_margin):
    problem = Toy(0)
    order = problem.index[margins(problem.features(), 4, Key(0) / "clusters").argsort(stable=True)].tolist()
    picked = KMeansMargin(clusters=4, random_share=share).select(problem, 12, Key(0)).tolist()
    assert picked[:by_margin] == order[:by_margin]
    assert set(picked[by_margin:]) <= set(order[by_margin:])
    if share:
        drawn = [KMeansMargin(clusters=4, random_share=share).select(problem, 12, Key(k)).tolist() for k in range(4)]
        assert len({tuple(each[by_margin:]) for each in drawn}) == 4


def test_random_others_are_uniform():
    problem, rest = Toy(0), torch.zeros(48)
    for k in range(300):
        picked = KMeansMargin(clusters=3, random_share=1.0).select(problem, 12, Key(k))
        rest += torch.bincount(picked, minlength=48)
    assert rest.min() > 45  # 75 on average, with a deviation of 7.5
    assert rest.max() < 105


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
