"""LARS, one tensor at a time in float64 as the released code has it; SGD and AdamW through torch's own."""

import io
from math import sqrt

import pytest
import torch
from torch import Tensor, nn

from unshaken.base.rng import Key
from unshaken.nets.checkpoint import read_tensors, write_tensors
from unshaken.train.optim import LARS, SGD, AdamW, TorchOptimizer, by_dimension, learning
from unshaken.train.run_dir import flatten, unflatten

RATES = [5.0, 4.0, 0.5, 3.0, 0.01]


class Net(nn.Module):
    """A convolution, a matrix, a batch norm with its zero bias, and two parameters that never get a gradient."""

    def __init__(self) -> None:
        super().__init__()
        rng = Key("w").on("cpu")
        self.conv = nn.Parameter(torch.randn(3, 2, 2, 2, generator=rng))
        self.matrix = nn.Parameter(0.01 * torch.randn(4, 3, generator=rng))
        self.scale, self.shift = nn.Parameter(torch.ones(3)), nn.Parameter(torch.zeros(3))
        self.unused = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)


def gradients(net: nn.Module, step: int) -> None:
    """From the key alone; that of the matrix is zero at step 2."""
    for name in ("conv", "matrix", "scale", "shift"):
        w = net.get_parameter(name)
        w.grad = torch.randn(w.shape, generator=(Key(step) / name).on("cpu"), dtype=w.dtype)
        if (name, step) == ("matrix", 2):
            w.grad.zero_()


def run(net: nn.Module, rule: torch.optim.Optimizer, steps: range = range(5), rates: list[float] = RATES) -> nn.Module:
    for step in steps:
        for group in rule.param_groups:
            group["lr"] = rates[step]
        gradients(net, step)
        rule.step()
    return net


def norm(values: list[float]) -> float:
    return sqrt(sum(v * v for v in values))


def released(net: Net, rates: list[float], decay: float, exclude: bool = False) -> dict[str, Tensor]:
    """optimizer/lars.py: one trust ratio a tensor, biases and batch norms among them, the rate inside the momentum."""
    result = {}
    for name in ("conv", "matrix", "scale", "shift"):
        w = net.get_parameter(name)
        plain = exclude and w.ndim == 1
        value, buffer = w.detach().flatten().tolist(), [0.0] * w.numel()
        for step, lr in enumerate(rates):
            gradients(net, step)
            g = w.grad.flatten().tolist()
            wd, ratio = 0.0 if plain else decay, 1.0
            if not plain and norm(value) >= 1e-15 and norm(g) >= 1e-15:
                ratio = 0.001 * norm(value) / (norm(g) + wd * norm(value))
            buffer = [0.9 * m + lr * ratio * (dw + wd * v) for m, dw, v in zip(buffer, g, value, strict=True)]
            value = [v - m for v, m in zip(value, buffer, strict=True)]
        result[name] = torch.tensor(value, dtype=torch.float64).view(w.shape)
    return result


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("decay", [0.0, 1e-6, 0.3])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_lars_as_released(exclude, decay, dtype, error):
    net = Net().to(dtype)
    expected = released(Net().double() if dtype == torch.float64 else Net(), RATES, decay, exclude)
    run(net, LARS(weight_decay=decay, exclude_bias_and_norm=exclude).build(net))
    for name, value in expected.items():
        assert torch.allclose(net.get_parameter(name).double(), value, rtol=error, atol=error), name


def test_lars_moves_a_zero_tensor_at_the_full_rate():
    net = Net()
    run(net, LARS().build(net), range(1))
    expected = -5.0 * net.shift.grad
    assert torch.allclose(net.shift.detach(), expected)


def test_lars_first_step_has_a_length_that_no_gradient_changes():
    net, before = Net(), Net()
    rule = LARS(weight_decay=0.0).build(net)
    rule.param_groups[0]["lr"] = 2.0
    gradients(net, 0)
    net.conv.grad *= 1000
    rule.step()
    assert (net.conv - before.conv).norm().item() == pytest.approx(2.0 * 0.001 * before.conv.norm().item(), rel=1e-4)


def test_lars_excludes_what_has_one_dimension_when_asked():
    """Then it is torch's SGD with momentum, without decay, at a rate that does not change."""
    net, twin, rates = Net().double(), Net().double(), [0.3] * 5
    run(net, LARS(weight_decay=0.3, exclude_bias_and_norm=True).build(net), rates=rates)
    run(twin, torch.optim.SGD([twin.scale, twin.shift], lr=0.3, momentum=0.9), rates=rates)
    assert torch.allclose(net.scale, twin.scale)
    assert torch.allclose(net.shift, twin.shift)
    assert not torch.allclose(net.conv, Net().double().conv)


RULES = {
    "lars": LARS(weight_decay=0.1),
    "lars-exclude": LARS(weight_decay=0.1, exclude_bias_and_norm=True),
    "sgd": SGD(weight_decay=0.1),
    "adamw": AdamW(),
    "nadam": TorchOptimizer("NAdam", "weight_decay=0.1"),
}
each_rule = pytest.mark.parametrize("optimizer", RULES.values(), ids=RULES)


@each_rule
def test_a_state_that_is_stored_goes_on_identically(optimizer):
    whole = Net()
    run(whole, optimizer.build(whole))
    first = Net()
    rule = optimizer.build(first)
    run(first, rule, range(3))
    file = io.BytesIO()
    torch.save((first.state_dict(), rule.state_dict()), file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    second = Net()
    second.load_state_dict(weights)
    rule = optimizer.build(second)
    rule.load_state_dict(state)
    run(second, rule, range(3, 5))
    assert all(torch.equal(a, b) for a, b in zip(second.parameters(), whole.parameters(), strict=True))


@each_rule
def test_a_checkpoint_goes_on_identically(tmp_path, optimizer):
    """Through a file as a run writes it, with a convolution that is channels last."""
    whole, first, second = (Net().to(memory_format=torch.channels_last) for _ in range(3))
    run(whole, optimizer.build(whole))
    before, after = optimizer.build(first), optimizer.build(second)
    run(first, before, range(3))
    tensors, values = flatten(before)
    write_tensors(tmp_path / "state", tensors | {f"net/{n}": t for n, t in first.state_dict().items()}, values)
    tensors, values = read_tensors(tmp_path / "state")
    second.load_state_dict({name[4:]: t for name, t in tensors.items() if name.startswith("net/")})
    unflatten(after, tensors, values)
    run(second, after, range(3, 5))
    assert all(torch.equal(a, b) for a, b in zip(second.parameters(), whole.parameters(), strict=True))


@each_rule
def test_what_gets_no_gradient_stays(optimizer):
    net = Net()
    rule = optimizer.build(net)
    run(net, rule)
    assert torch.equal(net.unused, torch.ones(2))
    assert torch.equal(net.frozen, torch.ones(2, 2))
    assert not any(p is net.frozen for group in rule.param_groups for p in group["params"])
    assert net.unused not in rule.state
    assert all(
        not torch.equal(getattr(net, name), getattr(Net(), name)) for name in ("conv", "matrix", "scale", "shift")
    )


@each_rule
def test_at_a_rate_of_zero_nothing_moves(optimizer):
    net = Net()
    run(net, optimizer.build(net), rates=[0.0] * 5)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), Net().parameters(), strict=True))


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_torch_s_with_decay_on_everything(nesterov):
    net, twin = Net(), Net()
    rule = SGD(momentum=0.8, weight_decay=0.1, nesterov=nesterov).build(net)
    run(net, rule)
    theirs = [twin.conv, twin.matrix, twin.scale, twin.shift, twin.unused]
    run(twin, torch.optim.SGD(theirs, lr=1.0, momentum=0.8, weight_decay=0.1, nesterov=nesterov))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    assert [len(group["params"]) for group in rule.param_groups] == [5]


def test_adamw_is_torch_s_with_decay_on_matrices_only():
    net, twin, rates = Net(), Net(), [0.01 * lr for lr in RATES]
    rule = AdamW(0.8, 0.95, weight_decay=0.1).build(net)
    run(net, rule, rates=rates)
    run(twin, torch.optim.AdamW([twin.conv, twin.matrix], betas=(0.8, 0.95), weight_decay=0.1), rates=rates)
    run(twin, torch.optim.AdamW([twin.scale, twin.shift], betas=(0.8, 0.95), weight_decay=0.0), rates=rates)
    assert all(torch.allclose(a, b, rtol=1e-6) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    assert [group["weight_decay"] for group in rule.param_groups] == [0.1, 0.0]


@each_rule
def test_a_network_of_one_kind_of_parameter(optimizer):
    for net in (nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2)):
        rule = optimizer.build(net)
        assert sum(len(group["params"]) for group in rule.param_groups) == len(list(net.parameters()))
        assert all(group["params"] for group in rule.param_groups)


def test_which_parameters_learn_and_which_have_one_dimension():
    net = Net()
    assert [id(p) for p in learning(net)] == [id(p) for p in net.parameters() if p is not net.frozen]
    matrices, other = by_dimension(learning(net))
    assert [p.ndim for p in matrices] == [4, 2]
    assert [p.ndim for p in other] == [1, 1, 1]


def test_an_optimizer_is_a_rule_without_state():
    optimizer = LARS()
    net, twin = Net(), Net()
    run(net, optimizer.build(net))
    run(twin, optimizer.build(twin))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    assert optimizer == LARS(momentum=0.9, weight_decay=1e-6, trust_coefficient=0.001, exclude_bias_and_norm=False)
