"""Gradients in factors: inner products equal those of whole gradients, which are the sum over rows of D Aᵀ."""

import pytest
import torch

from unshaken.base.rng import Key
from unshaken.coreset.gradients import Factors, Gradients, Matrices, concatenate, sum_samples

N, R, I, O = 5, 3, 4, 2  # noqa: E741


@pytest.fixture
def factors() -> Factors:
    rng = Key("factors").on("cpu")
    return Factors(torch.randn(N, R, I, generator=rng), torch.randn(N, R, O, generator=rng))


@pytest.fixture
def whole(factors) -> Matrices:
    """Loops, float64."""
    matrix = torch.zeros(N, O, I, dtype=torch.float64)
    for n in range(N):
        for r in range(R):
            for o in range(O):
                for i in range(I):
                    matrix[n, o, i] += float(factors.outputs[n, r, o]) * float(factors.inputs[n, r, i])
    return Matrices(matrix)


def test_factors_give_the_inner_products_of_full_gradients(factors, whole):
    direction, items = torch.randn(O, I, generator=Key("G").on("cpu")), torch.tensor([3, 0])
    slow = torch.stack([(q * direction).sum() for q in whole.matrix]).float()
    for which in (slice(None), items):
        assert torch.allclose(factors.along(direction, which), slow[which], atol=1e-5)
        assert torch.allclose(whole.along(direction.double(), which).float(), slow[which], atol=1e-5)
    gram = torch.tensor([[float((a * b).sum()) for b in whole.matrix[items]] for a in whole.matrix])
    assert torch.allclose(factors.between(items), gram, atol=1e-5)
    assert torch.allclose(whole.between(items).float(), gram, atol=1e-5)
    assert all(torch.allclose(factors.of(n).double(), whole.of(n), atol=1e-6) for n in range(N))


def test_inner_products_do_not_depend_on_the_block_size(factors, monkeypatch):
    direction, items = torch.randn(O, I, generator=Key("G").on("cpu")), torch.tensor([3, 0])
    before = factors.along(direction, slice(None)), factors.between(items)
    monkeypatch.setattr("unshaken.coreset.gradients.BLOCK", 13)
    assert torch.allclose(factors.along(direction, slice(None)), before[0])
    assert torch.allclose(factors.between(items), before[1])


@pytest.mark.parametrize(("most", "kind"), [(1, Matrices), (0, Factors)])
def test_samples_sum_to_an_item_in_the_smaller_form(factors, whole, most, kind):
    item = sum_samples(factors, most)  # 3 rows of 6 numbers against 8
    assert isinstance(item, kind)
    assert torch.allclose(item.of(0).double(), whole.matrix.sum(0), atol=1e-5)


def test_items_with_different_numbers_of_rows_can_be_joined(factors, whole):
    fewer = Factors(factors.inputs[:2, :1], factors.outputs[:2, :1])
    both = concatenate([fewer, factors])
    assert both.inputs.shape == (N + 2, R, I)
    assert torch.allclose(both.of(1), fewer.of(1))
    assert torch.allclose(both.of(4).double(), whole.of(2), atol=1e-6)
    assert torch.equal(concatenate([whole, whole]).matrix, torch.cat([whole.matrix, whole.matrix]))


def test_a_layer_that_a_loss_does_not_use_has_no_rows(factors):
    unused = Factors(torch.empty(N, 0, I), torch.empty(N, 0, O))
    assert unused.along(torch.ones(O, I), slice(None)).tolist() == [0] * N
    assert unused.between(torch.tensor([1])).tolist() == [[0]] * N
    assert unused.of(0).abs().sum() == 0


def test_gradients_of_a_head_have_all_its_layers(factors, whole):
    """Weights and biases by name: the last input is a bias's 1."""
    second = Factors(factors.outputs, factors.inputs)  # any other
    sizes = (1, 2, 1, 3, 1)
    q = Gradients(torch.arange(8), sizes, {"0": factors, "": second}, frozenset({"0"}))
    assert [q.images(n).tolist() for n in range(N)] == [[0], [1, 2], [3], [4, 5, 6], [7]]
    one = q.of(3)
    assert {name: tuple(value.shape) for name, value in one.items()} == {
        "0.weight": (O, I - 1),
        "0.bias": (O,),
        "weight": (I, O),
    }
    slow = torch.tensor([sum(float((q.of(n)[name] * one[name]).sum()) for name in one) for n in range(N)])
    assert torch.allclose(q.along(one), slow, rtol=1e-4)
    assert torch.allclose(q.along(one, torch.tensor([4, 1])), slow[[4, 1]], rtol=1e-4)
    assert torch.allclose(q.between(torch.tensor([3]))[:, 0], slow, rtol=1e-4)
    assert torch.allclose(q.norms()[3] ** 2, slow[3], rtol=1e-4)
    assert len(q) == N
