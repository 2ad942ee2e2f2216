"""A training step on a device: as on the CPU, in bf16 as in float32, the same bits twice, nothing waited for."""

import warnings
from dataclasses import replace

import pytest
import torch
from machine import (
    KEY,
    classes_of,
    cosine,
    course,
    equal_draws,
    from_the_ball,
    looked,
    other_rounding,
    recipes,
    updated,
    without_steps,
)
from torch.utils._python_dispatch import TorchDispatchMode

from unshaken.attacks.pgd import PGD
from unshaken.base.schedule import Constant
from unshaken.compute.runtime import Runtime
from unshaken.losses.contrastive import nt_xent
from unshaken.methods.acl import ACL
from unshaken.nets.checkpoint import digest
from unshaken.nets.network import frozen
from unshaken.train.batches import BatchStream, Position
from unshaken.train.loop import Execution, training
from unshaken.train.optim import LARS, SGD, AdamW
from unshaken.train.run_dir import Run
from unshaken.transforms.views import SimCLRViews
from variants import variants


@recipes("dynacl-air", "advcl", "deacl", "autolora")
def test_a_float32_step_is_the_cpus(device, step_of):
    """Loss, gradients and the weights after the update, from equal views and equal starts of the attack."""
    with equal_draws():
        expected = updated(from_the_ball(course(step_of)), Runtime(device="cpu"))
        with other_rounding(device):
            found = updated(from_the_ball(course(step_of)), Runtime(device=device))
    assert found.grads.keys() == expected.grads.keys()
    assert found.loss == pytest.approx(expected.loss, rel=3e-4)
    assert cosine(found.slope, expected.slope) > 0.999
    assert found.slope.norm() == pytest.approx(float(expected.slope.norm()), rel=1e-2)
    moved = torch.cat([(found.weights[name] - expected.weights[name]).flatten() for name in found.weights])
    assert moved.norm() < 1e-3 * torch.cat([w.flatten() for w in expected.weights.values()]).norm()


@recipes("acl")
def test_a_bf16_step_is_close_to_float32(device, step_of):
    """The attacks differ, for signs of small gradients do; parameters and gradients are float32."""
    expected = updated(course(step_of), Runtime(device=device))
    made = course(step_of)
    found = updated(made, Runtime(device=device, precision="bf16"))
    assert {p.dtype for p in made.net.parameters()} == {torch.float32}
    assert found.loss == pytest.approx(expected.loss, rel=0.03)
    assert cosine(found.slope, expected.slope) > 0.75
    nothing = {name for name, grad in expected.grads.items() if not grad.any()}
    assert {name for name, grad in found.grads.items() if not grad.any()} <= nothing


@pytest.mark.parametrize("name", ["acl", "dynacl-air", "advcl", "trades"])
def test_a_step_of_a_published_network_is_the_cpus(cuda, name):
    """ResNet-18 at 32 pixels, at equal adversarial images; in bf16 too.

    Few images through many new layers make small gradients, whose signs an attack would take from rounding.
    """
    with equal_draws():
        expected = updated(without_steps(course(name, "cifar10", 8)), Runtime(device="cpu"))
        found = updated(without_steps(course(name, "cifar10", 8)), Runtime(device=cuda))
        rough = updated(without_steps(course(name, "cifar10", 8)), Runtime(device=cuda, precision="bf16"))
    assert found.loss == pytest.approx(expected.loss, rel=1e-4)
    assert cosine(found.slope, expected.slope) > 0.999
    assert rough.loss == pytest.approx(expected.loss, rel=0.03)


@recipes("acl", on_cuda=("acl", "dynacl-air", "a-infonce", "autolora"))
def test_equal_recipes_give_equal_bits(device, step_of):
    for precision in ("float32", "bf16") if device == "cuda" else ("float32",):
        runtime = Runtime(device=device, precision=precision)
        first, second = (updated(course(step_of), runtime, steps=3) for _ in range(2))
        assert first.terms == second.terms
        for weight, again in zip(first.weights.values(), second.weights.values(), strict=True):
            assert torch.equal(weight, again)


def test_every_operation_has_a_form_that_repeats(cuda, recipe):
    """PyTorch warns of those that have none."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        updated(course(recipe, "cifar10", 8, "resnet-small"), Runtime(device=cuda))
    assert not [str(one.message) for one in seen if "determinis" in str(one.message)]


def test_no_step_waits_for_the_device(cuda, recipe):
    """From the second step on: the first one folds, and a first kernel may be loaded."""
    made = course(recipe, "cifar10", 8, "resnet-small")
    step, feed = made.on(Runtime(device=cuda, precision="bf16"))
    rule = made.optimizer.build(step)
    steps = feed.after(Position())
    for count in range(3):
        torch.cuda.set_sync_debug_mode("error" if count else "default")
        place, _, batch = next(steps)
        looked(step, feed, place, batch)["loss"].backward()
        rule.step()
        rule.zero_grad()
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("optimizer", variants([SGD(), AdamW(), LARS()], [LARS()]), ids=lambda one: type(one).__name__)
def test_stopped_and_resumed_is_as_if_never_stopped(device, optimizer, tmp_path):
    """The same digest; the second process has a network and an optimiser of its own."""

    def trained(folder, until):
        made = course("acl")
        made = replace(made, optimizer=optimizer, method=ACL(PGD(made.method.attack.ball, steps=1)))
        runtime = Runtime(device=device)
        step, feed = made.on(runtime)
        with (
            Run(tmp_path / folder, {}, {}) as run,
            training(step, feed, made.optimizer, Execution(run, runtime.open(), quiet=True)) as course_,
        ):
            course_.go(Constant(0.05), until)
        return digest(step.net)

    through = trained("through", None)
    assert trained("stopped", 3) != through
    assert trained("stopped", None) == through


@pytest.mark.parametrize("optimizer", [SGD(), AdamW(), LARS()], ids=lambda one: type(one).__name__)
def test_optimisers_move_as_in_float64(device, optimizer):
    def moved(where, dtype):
        layer = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8)).to(where, dtype)
        rule = optimizer.build(layer.to(memory_format=torch.channels_last))
        rng = (KEY / "optimiser").on("cpu")
        with torch.no_grad():
            for p in layer.parameters():
                p.copy_(torch.randn(p.shape, generator=rng))
        for _ in range(3):
            for group in rule.param_groups:
                group["lr"] = 0.1
            for p in layer.parameters():
                p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=rng))  # laid out as backward has it
            rule.step()
        return [p.detach().cpu().double() for p in layer.parameters()]

    for found, expected in zip(moved(device, torch.float32), moved("cpu", torch.float64), strict=True):
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


@recipes("acl", "trades", on_cuda=("acl", "dynacl", "rocl", "aff", "trades"))
def test_an_attack_leaves_no_old_casts_to_the_update(device, step_of):
    """In an autocast of the user's, whose cache keeps what was cast: every weight still has a gradient."""
    made = course(step_of)
    step, feed = made.on(Runtime(device=device))
    place, _, batch = next(feed.after(Position()))
    expected = {}
    for inside in (False, True):
        step.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=inside):
            loss = looked(step, feed, place, batch)["loss"]
        loss.backward()
        if not inside:
            expected = {name: p.grad for name, p in step.named_parameters() if p.grad is not None}
            continue
        missing = [n for n, p in step.named_parameters() if n in expected and (p.grad is None or not p.grad.any())]
        assert not missing


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **kwargs or {})
        for one in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(one, torch.Tensor):
                self.elements = max(self.elements, one.numel())
        return made


def test_memory_of_nt_xent(device):
    """2N = 8,192 on a GPU: blocks of similarities and never all of them; the same again and again."""
    images, block = (4096, 4096) if device == "cuda" else (768, 512)
    z = torch.randn(2, images, 128, generator=(KEY / "z").on("cpu")).to(device).requires_grad_()
    with Largest() as seen:
        nt_xent(z, 0.5).backward()
    assert seen.elements <= block**2 < (2 * images) ** 2
    if device == "cpu":
        return
    taken, before = [], torch.cuda.memory_allocated()
    for _ in range(3):
        torch.cuda.reset_peak_memory_stats()
        z.grad = None
        nt_xent(z, 0.5).backward()
        taken.append(torch.cuda.max_memory_allocated() - before)
    assert taken[1] == taken[2]
    assert taken[2] < 6 * 4 * block**2  # bytes; 400 MB, and autograd would keep more than a GB
    assert torch.cuda.memory_allocated() <= before + 2 * z.nbytes


def test_memory_of_steps(cuda):
    """Flat from the third step on, the short last batch included; at_most lowers an attack's peak."""

    def peaks(at_most):
        made = replace(course("acl", "cifar10", 48), images=classes_of(32, 3, 3 * 48 + 20))
        step, feed = made.on(Runtime(device=cuda, precision="bf16", at_most=at_most))
        found = []
        for place, _, batch in feed.after(Position()):
            torch.cuda.reset_peak_memory_stats()
            looked(step, feed, place, batch)["loss"].backward()
            step.zero_grad()
            found.append(torch.cuda.max_memory_allocated())
        return found

    plain = peaks(0)
    assert max(plain[3:]) <= 1.02 * max(plain[1:3])
    assert max(peaks(16)) < 0.8 * max(plain)


def test_folded_attacks_are_those_of_the_network_itself(device):
    """x̃ of PGD on the folded network, in float32: all but a few pixels are where the unfolded one puts them."""
    made = course("acl")
    step, feed = made.on(Runtime(device=device))
    _, _, batch = next(feed.after(Position()))
    h, attack = step.net, PGD(made.method.attack.ball, steps=5)
    with torch.no_grad():
        for _ in range(3):  # statistics other than those of birth
            h(batch.views, "adv"), h(batch.views, "clean")
    found = []
    for computation in (h.computation, h.computation.without_folding()):
        h.computation = computation
        with frozen(h):
            found.append(attack.maximise(lambda x: nt_xent(h(x, "adv"), 0.5), batch.views, (KEY / "start").on(device)))
    same = (found[0] - found[1]).abs() < 1e-6
    assert same.float().mean() > 0.99
    with frozen(h):
        losses = [float(nt_xent(h(x, "adv"), 0.5)) for x in found]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] > float(nt_xent(h(batch.views, "adv"), 0.5).detach())


def test_batches_of_images_that_stay_on_the_cpu(device, monkeypatch):
    """Sets that are too large for the device are moved batch by batch, and each batch is what it would be there."""
    images = classes_of(16, 3, 90)
    feeds = []
    for large in (2**40, 0):
        monkeypatch.setattr("unshaken.data.images.IN_MEMORY_LIMIT", large)
        feed = BatchStream(images, SimCLRViews(), Constant(1.0), 16, 3, KEY, images.label).to(torch.device(device))
        feeds.append([(batch.views, batch.image, batch.label, batch.index) for _, _, batch in feed.after(Position())])
    assert len(feeds[0]) == len(feeds[1]) == 18
    for resident, moved in zip(*feeds, strict=True):
        for one, other in zip(resident, moved, strict=True):
            assert one.device.type == device
            assert torch.equal(one, other)
