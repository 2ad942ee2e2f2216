"""Averages of weights: closed forms, statistics of their own, and a resumed run that keeps them."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import unshaken
from unshaken.base.rng import Key
from unshaken.base.serialize import canonical
from unshaken.methods.supervised import AFF, SLF
from unshaken.nets.checkpoint import load_classifier
from unshaken.recipes.finetune import Finetune
from unshaken.train.averaging import EMA, SWA, AveragedWeights
from unshaken.train.batch_statistics import estimating


def averaged(rule, total: int) -> tuple[list[float], float]:
    """Let a weight take the values 1, 2, ..., total; return the values and the average at the end."""
    net = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(0.0)
    average = AveragedWeights(rule, net, total)
    for t in range(total):
        with torch.no_grad():
            net.weight.fill_(t + 1.0)
        average.update(net)
    average.copy_to(net)
    return [t + 1.0 for t in range(total)], float(net.weight.detach())


def test_an_ema_is_the_weighted_sum_of_its_definition():
    """θ̄ = Σ_t (1 − d_t) Π_{s>t} d_s θ_t + Π d_t θ_0, with d_t = min(τ, (1 + t)/(10 + t))."""
    total, rule = 40, EMA(memory=0.1)
    values, found = averaged(rule, total)
    d = [min(1 - 1 / (0.1 * total), (1 + t) / (10 + t)) for t in range(total)]
    expected = 0.0
    for t, value in enumerate(values):
        left = 1.0
        for later in d[t + 1 :]:
            left *= later
        expected += (1 - d[t]) * left * value
    assert found == pytest.approx(expected, rel=1e-5)
    assert rule.decay(0, total) == 0.1
    assert rule.decay(10**6, total) == 0.75


def test_swa_is_the_mean_of_the_last_part():
    values, found = averaged(SWA(start=0.75), 40)
    assert found == pytest.approx(sum(values[30:]) / 10, rel=1e-5)


def test_only_parameters_that_learn_are_averaged():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    net[0].bias.requires_grad_(False)
    average = AveragedWeights(EMA(), net, 10)
    assert average.names == ["0.weight", "1.weight", "1.bias"]
    assert not list(average.parameters())


def test_statistics_are_those_of_what_the_network_saw_in_train_mode():
    """Means of the batches' means and variances; attacks in eval mode within the block see the old statistics."""
    net, rng = nn.Sequential(nn.BatchNorm2d(3)), Key(0).on("cpu")
    batches = [torch.randn(5, 3, 4, 4, generator=rng) * 2 + 1 for _ in range(3)]
    before = net[0].running_mean.clone()
    with estimating(net):
        for x in batches:
            net.eval()(x * 100)
            net.train()(x)
            assert torch.equal(net[0].running_mean, before)
    assert torch.allclose(net[0].running_mean, torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0), atol=1e-5)
    variances = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in batches])
    assert torch.allclose(net[0].running_var, variances.mean(0), rtol=1e-4)
    assert net[0].momentum == 0.1


def test_a_network_is_as_it_was_if_an_estimate_fails():
    net = nn.Sequential(nn.BatchNorm1d(2)).train()
    state = {name: value.clone() for name, value in net.state_dict().items()}

    def fail() -> None:
        with estimating(net):
            net(torch.rand(4, 2, generator=Key(0).on("cpu")))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert net[0].momentum == 0.1
    assert not net[0]._forward_pre_hooks
    assert all(torch.equal(net.state_dict()[name], value) for name, value in state.items() if "running" in name)


@pytest.mark.parametrize("method", [SLF(), AFF()], ids=["slf", "aff"])
def test_fine_tuning_ends_with_the_mean_of_its_weights(method, tmp_path, monkeypatch):
    """A recipe without an average keeps its name."""
    seen: list[dict[str, torch.Tensor]] = []
    update = AveragedWeights.update

    def noted(average: AveragedWeights, net: nn.Module) -> None:
        seen.append({name: p.detach().clone() for name, p in net.named_parameters()})
        update(average, net)

    monkeypatch.setattr(AveragedWeights, "update", noted)
    source, how = unshaken.DataSource("digits", limit=96), unshaken.Workspace(tmp_path, quiet=True)
    encoder = unshaken.pretrain(replace(unshaken.recipe("acl/digits"), data=source, epochs=1, batch_size=96), how)
    recipe = Finetune(method, source, epochs=2, batch_size=32, averaging=SWA(start=0))
    assert "averaging" not in canonical(replace(recipe, averaging=None))
    run = unshaken.finetune(encoder, recipe, how)
    net = load_classifier(run / "classifier.safetensors")[0]
    assert len(seen) == 6
    mean = {name: torch.stack([one[name] for one in seen]).mean(0) for name in seen[0] if "head" in name}
    for name, value in mean.items():
        assert torch.allclose(net.get_parameter(name), value, atol=1e-6)
    assert not torch.allclose(next(iter(mean.values())), seen[-1][next(iter(mean))], atol=1e-4)
    copied = replace(recipe, averaging=SWA("copy", start=0))
    other = load_classifier(unshaken.finetune(encoder, copied, how) / "classifier.safetensors")[0]
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), other.parameters(), strict=True))
    pairs = [(value, other.state_dict()[name]) for name, value in net.state_dict().items() if "running_mean" in name]
    assert all(torch.equal(a, b) == isinstance(method, SLF) for a, b in pairs)  # SLF trains no batch norm
