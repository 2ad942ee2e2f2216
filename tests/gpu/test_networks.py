"""Networks on a device: folded, compiled, with a stem for large images."""

import shutil

import pytest
import torch
from machine import KEY, cosine, course, equal_draws, looked, other_rounding

import unshaken
from unshaken.compute.runtime import Runtime
from unshaken.nets.network import frozen, seeded
from unshaken.nets.resnet import BasicBlock, ResNet, resnet
from unshaken.train.batches import Position

COMPILER = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("cc", "gcc", "clang")), reason="Triton needs a compiler of C"
)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_folded_network_is_the_network(device, precision):
    """Every route; every batch norm of the backbone moved into its convolution."""
    made = course("acl")
    step, feed = made.on(Runtime(device=device, precision=precision))
    _, _, batch = next(feed.after(Position()))
    h = step.net
    with torch.no_grad():
        for _ in range(3):  # statistics other than those of birth, and of each route its own
            h(batch.views, "adv"), h(batch.views.square(), "clean")
    folding = h.computation
    for route in ("adv", "clean"):
        with torch.no_grad():
            h.computation = folding
            with frozen(h):
                folded = h(batch.image, route)
            h.computation = folding.without_folding()
            with frozen(h):
                plain = h(batch.image, route)
        assert len(folding.folder.made[route][1]) == 6
        assert folded.dtype == plain.dtype == torch.float32
        if precision == "float32":
            assert torch.allclose(folded, plain, rtol=1e-4, atol=1e-5 * float(plain.abs().max()))
        else:
            assert torch.nn.functional.cosine_similarity(folded, plain, dim=-1).min() > 0.995


def test_gradients_through_a_stem_for_large_images_repeat(device):
    """A max pool whose windows overlap, channels last: on CUDA ResNet-50 at 224 pixels."""
    runtime = Runtime(device=device)
    runtime.open()
    large = device == "cuda"
    net = seeded(lambda: resnet("resnet50", 224) if large else ResNet(BasicBlock, (1, 1), 16, 224, 3), KEY / "stem")
    net = net.to(device).to(memory_format=torch.channels_last)
    side, count = (224, 8) if large else (32, 2)
    x = torch.rand(count, 3, side, side, generator=(KEY / "large").on("cpu")).to(device)
    found = []
    for _ in range(2):
        image = x.clone().requires_grad_()
        net.zero_grad()
        net(image).square().sum().backward()
        found.append([image.grad, *(p.grad.clone() for p in net.parameters())])
    assert all(torch.equal(one, again) for one, again in zip(*found, strict=True))
    assert found[0][0].any()


@pytest.fixture
def compiling():
    """Recompiled rather than given up, and nothing of it left to the next test."""
    import torch._dynamo as dynamo

    dynamo.reset()
    with dynamo.config.patch(recompile_limit=64, suppress_errors=False):
        yield
    dynamo.reset()


def steps_of(name, device, how, count=3):
    """Losses of a few updates, the attack folded anew in each; and the step."""
    made = course(name)
    step, feed = made.on(Runtime(device=device, compile=how))
    rule, losses = made.optimizer.build(step), []
    for _, (place, _, batch) in zip(range(count), feed.after(Position()), strict=False):
        loss = looked(step, feed, place, batch)["loss"]
        loss.backward()
        rule.param_groups[0]["lr"] = 0.01
        rule.step()
        rule.zero_grad()
        losses.append(float(loss.detach()))
    return losses, step, batch


@COMPILER
def test_compiled_kernels_compute_the_same(cuda, compiling):
    """Three updates, each of which folds anew, without a network that is compiled anew each time."""
    import torch._dynamo as dynamo

    eager, *_ = steps_of("sat", cuda, "no")
    dynamo.utils.counters.clear()
    compiled, *_ = steps_of("sat", cuda, "kernels")
    assert compiled == pytest.approx(eager, rel=3e-3)
    assert 2 <= dynamo.utils.counters["stats"]["unique_graphs"] <= 6


@COMPILER
def test_graphs_compute_the_same(cuda, compiling):
    """With a teacher's output that is needed after the attack, and two of one network that do not overwrite another."""
    eager, *_ = steps_of("deacl", cuda, "no")
    graphs, step, batch = steps_of("deacl", cuda, "graphs")
    assert graphs == pytest.approx(eager, rel=3e-3)
    with torch.no_grad():
        (x,) = batch.views
        first = step.net.teacher(x, "clean")
        kept = first.clone()
        assert not torch.equal(step.net.teacher(x.flip(-1), "clean"), kept)
        assert torch.equal(first, kept)


def test_bits_of_a_prepared_network_do_not_depend_on_its_layout_before(device):
    """A network prepared twice, once in bf16 between, embeds as one that was prepared once."""
    recipe = unshaken.recipe("acl/digits")
    x = torch.rand(16, 1, 8, 8, generator=(KEY / "x").on("cpu")).to(device)
    found = []
    for between in (("float32",), ("bf16", "float32")):
        net = recipe.build_network().to(device).eval()
        for precision in between:
            Runtime(device=device, precision=precision).prepare(net)
        with torch.no_grad():
            found.append(net(x, "adv"))
    assert torch.equal(*found)


def test_embeddings_are_the_cpus(device):
    recipe = unshaken.recipe("acl/cifar10" if device == "cuda" else "acl/digits")
    shown = recipe.backbone
    x = torch.rand(4, shown.channels, shown.image_size, shown.image_size, generator=(KEY / "x").on("cpu"))
    net = recipe.build_network().eval()
    with torch.no_grad(), equal_draws():
        expected = net(x, "adv")
        runtime = Runtime(device=device)
        runtime.open()
        net = net.to(device)
        runtime.prepare(net)
        with other_rounding(device):
            found = net(x.to(device), "adv").cpu()
    assert cosine(found, expected) > 1 - 1e-6
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
