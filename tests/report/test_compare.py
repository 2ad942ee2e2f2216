"""Paired comparisons against the sum of binomial coefficients, and against what must not be compared."""

import copy
from fractions import Fraction
from math import comb, erfc
from time import monotonic

import numpy
import pytest

from unshaken.base.json_files import write_json
from unshaken.base.packed_bits import pack_bits
from unshaken.commands.evaluate import compare
from unshaken.report.compare import Paired, compared, sign_test

N = 40


def score(right: numpy.ndarray, judged: numpy.ndarray | None = None) -> dict:
    if judged is None:
        return {"correct": int(right.sum()), "n": len(right), "bits": pack_bits(right)} | share(right.mean())
    right = right & judged
    return {
        "correct": int(right.sum()),
        "n": int(judged.sum()),
        "of": len(right),
        "bits": pack_bits(right),
        "judged": pack_bits(judged),
    } | share(right.sum() / judged.sum())


def share(part: float) -> dict:
    return {"percent": round(100 * float(part), 2), "interval95": [0.0, 100.0]}


def result(seed: int = 0, **changes) -> dict:
    draws = numpy.random.default_rng(seed)
    attack = {"steps": 20, "ball": {"type": "Linf", "eps": 8 / 255}}
    return {
        "method": "acl",
        "mode": "slf",
        "data": {"name": "digits", "split": "test", "n": N, "digest": "0123456789abcdef"},
        "standard": score(draws.random(N) < 0.9),
        "robust": score(draws.random(N) < 0.5),
        "seeds": {"pretrain": seed, "finetune": seed, "evaluation": 1},
        "seconds": {"pretrain": None},
        "weights": "w",
        "world": {},
        "evaluation": {"attack": attack},
        "pretrain": {"recipe": {}},
        "finetune": {"recipe": {}},
    } | changes


@pytest.mark.parametrize(("more", "less"), [(0, 0), (1, 0), (5, 5), (9, 2), (2, 9), (30, 12), (300, 250)])
def test_the_exact_test_is_the_sum_of_binomials(more, less):
    m = more + less
    expected = min(Fraction(1), Fraction(2 * sum(comb(m, k) for k in range(min(more, less) + 1)), 2**m))
    assert sign_test(more, less) == pytest.approx(float(expected), rel=1e-12)


def test_many_pairs_are_quick():
    """By hand this took minutes; the normal approximation is close for so many."""
    begun = monotonic()
    p = sign_test(50_400, 49_600)
    assert monotonic() - begun < 2
    assert p == pytest.approx(erfc((800 - 1) / (2 * 100_000) ** 0.5), rel=1e-3)


def test_pairs_are_counted_per_image():
    a, b = result(), result(1)
    a["standard"] = score(numpy.arange(N) < 30)
    b["standard"] = score((numpy.arange(N) < 20) | (numpy.arange(N) == 35))
    first = next(compared(a, b))
    assert first == Paired("standard accuracy", N, 30, 21, 10, 1)
    assert "A is better (A 30, B 21 correct; better on 10 and 1 of 40 images; p = 0.012)" in first.line()
    assert "B is better" in next(compared(b, a)).line()


def test_an_insignificant_difference_is_reported_as_no_difference_shown():
    same = result()
    assert all("no difference shown" in each.line() for each in compared(same, copy.deepcopy(same)))
    a, b = copy.deepcopy(same), copy.deepcopy(same)
    a["robust"], b["robust"] = score(numpy.arange(N) < 20), score(numpy.arange(N) < 15)
    five = list(compared(a, b))[1]
    assert five.p == pytest.approx(0.0625)
    assert "no difference shown" in five.line()


def test_images_are_the_pairs_under_several_corruptions():
    """Their verdicts are added; an image on which both are right equally often says nothing."""
    zeros, ones = numpy.zeros(N, bool), numpy.ones(N, bool)
    half = numpy.arange(N) < 8
    a = result(corruptions={"fog": {"1": score(ones), "5": score(half)}, "snow": {"1": score(ones)}})
    b = result(corruptions={"fog": {"1": score(half), "5": score(ones)}, "frost": {"1": score(zeros)}})
    (last,) = [each for each in compared(a, b) if "corruptions" in each.score]
    assert last == Paired("accuracy under 2 corruptions", N, 48, 48, 0, 0)
    b["corruptions"]["fog"]["5"] = score(zeros)
    (last,) = [each for each in compared(a, b) if "corruptions" in each.score]
    assert last == Paired("accuracy under 2 corruptions", N, 48, 8, 40, 0)


def test_other_corrupted_images_are_not_compared():
    """Those of another seed, or published ones beside ours; published ones are the same whatever the seed."""

    def of(constants: str, seed: int) -> dict:
        fog = {"corruptions": {"fog": {"1": score(numpy.ones(N, bool))}}}
        return result(**fog, corrupted={"constants": constants}, seeds={"evaluation": seed})

    for a, b, same in (
        (of("cifar", 1), of("cifar", 1), True),
        (of("cifar", 1), of("cifar", 2), False),
        (of("published", 1), of("published", 2), True),
        (of("published", 1), of("cifar", 1), False),
    ):
        assert any("corrupted images differ" in str(each) for each in compared(a, b)) != same


def test_scores_are_compared_on_images_that_both_evaluated():
    judged = numpy.arange(N) % 2 == 0
    a, b = result(robust=score(numpy.ones(N, bool), judged)), result(robust=score(~judged))
    found = list(compared(a, b))[1]
    assert (found.n, found.a, found.b, found.a_better) == (20, 20, 0, 20)
    first = result(robust=score(numpy.zeros(10, bool)))  # of the first ten images
    assert list(compared(first, b))[1].n == 10


def test_other_attacks_are_not_compared():
    a = result(autoattack=score(numpy.ones(N, bool)))
    b = copy.deepcopy(a)
    b["evaluation"]["autoattack"] = "plus"
    assert [each for each in compared(a, b) if isinstance(each, str)] == [
        "robust accuracy (AutoAttack): not compared, because the attacks differ"
    ]
    b["evaluation"]["attack"]["ball"]["eps"] = 4 / 255
    said = [each for each in compared(a, b) if isinstance(each, str)]
    assert len(said) == 2
    assert all("not compared" in line for line in said)
    assert len([each for each in compared(a, result()) if isinstance(each, Paired)]) == 2


def test_other_images_are_refused_in_one_line(tmp_path, capsys):
    a, b = result(), result()
    b["data"]["digest"] = "f" * 16
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file, each in zip(files, (a, b), strict=True):
        write_json(file, each)
    with pytest.raises(ValueError, match="results can be compared only on the same images") as refused:
        compare([str(file) for file in files])
    assert "\n" not in str(refused.value)
    compare([str(files[0]), str(files[0])])
    assert capsys.readouterr().out.count("no difference shown") == 2
    with pytest.raises(ValueError, match="needs two results"):
        compare([str(files[0])])
    (tmp_path / "several").mkdir()
    for name in ("result.json", "result-first5.json"):
        write_json(tmp_path / "several" / name, a)
    with pytest.raises(ValueError, match="more than one result"):
        compare([str(files[0]), str(tmp_path / "several")])


def tuned(**recipe) -> dict:
    base = {
        "batch_size": 512,
        "seed": 1,
        "data": {"name": "photos", "root": "/a"},
        "lr": {"type": "MultiStep", "at": [10]},
    }
    return result(finetune={"recipe": base | recipe, "data": {"encoder": "x"}})


def test_different_protocols_are_refused_without_anyway(tmp_path):
    a, b = tuned(), tuned(batch_size=64, lr={"type": "MultiStep", "at": [50, 100]})
    words = r"different protocols \(batch_size 512 and 64; lr.at \[10\] and \[50, 100\]\)"
    with pytest.raises(ValueError, match=words) as refused:
        list(compared(a, b))
    assert "--anyway" in str(refused.value)
    first, *others = compared(a, b, anyway=True)
    assert first.startswith("CAUTION: A and B were fine-tuned by different protocols")
    assert len(others) == 2
    for name, each in (("a", a), ("b", b)):
        write_json(tmp_path / f"{name}.json", each)
    with pytest.raises(ValueError, match="different protocols"):
        compare([str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    compare([str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--anyway"])


def test_seeds_labels_and_modes_do_not_make_protocols_differ():
    a = tuned()
    for b in (
        tuned(seed=2),
        tuned(data={"name": "photos", "root": "/b", "limit": 1000}),
        tuned(batch_size=64) | {"mode": "aff"},
    ):
        assert all(isinstance(each, Paired) for each in compared(a, b))
