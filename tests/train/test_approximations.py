"""Savings: what each leaves out and what it leaves as it is, that runs with them resume, and what is refused."""

import copy
import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from PIL import Image
from test_attack_cache import METHODS
from test_resume import in_child
from tiny import RECIPE

import unshaken
from unshaken.attacks.ball import L2, Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock, Constant, StepSchedule, WarmupCosine
from unshaken.base.serialize import canonical, to_json
from unshaken.losses.contrastive import nt_xent
from unshaken.methods.base import Step
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import read_tensors
from unshaken.nets.network import Network
from unshaken.train.approximations import Approximations
from unshaken.train.attack_cache import AttackCache
from unshaken.train.batches import BatchStream, Position, shrink
from unshaken.train.run_dir import Run
from unshaken.train.signals import Interrupted
from variants import variants

RISING = StepSchedule(1 / 5, 6 / 5, every=6)
ALL = Approximations(StepSchedule(1 / 2, 3 / 2, every=1), 3, StepSchedule(3 / 4, 1, every=2))
"""On RECIPE: 1, 2, 2 steps of 2; three replays and then one, of four updates an epoch; 6, 6, 7 pixels."""
TWO_STEPS = replace(RECIPE, method=replace(RECIPE.method, attack=PGD(Linf(0.1), steps=2)))


def at(epoch: int, epochs: int = 30) -> Clock:
    return Clock(0, epoch, epoch + 0.5, epochs)


def feed(approximations: Approximations, n: int = 10, epochs: int = 2) -> BatchStream:
    images = unshaken.DataSource("digits", limit=n).load("train")
    return BatchStream(
        images, RECIPE.views, Constant(1.0), 4, epochs, Key(0), side=approximations.side, replays=approximations.replays
    )


def test_by_default_nothing_is_saved_nor_said():
    """Neither a recipe's name nor a result changes, and the method is at work itself."""
    assert "approximations" not in to_json(RECIPE)
    assert canonical(replace(RECIPE, approximations=Approximations(Constant(1.0), 1, Constant(1.0)))) == canonical(
        RECIPE
    )
    assert canonical(replace(RECIPE, approximations=Approximations(replays=2))) != canonical(RECIPE)
    assert to_json(replace(RECIPE, approximations=Approximations(replays=2)))["approximations"]["replays"] == 2
    assert Approximations().policy() is None
    assert Approximations(side=Constant(0.5)).policy() is None
    batches = [batch.index.tolist() for _, _, batch in feed(Approximations()).after(Position())]
    assert [len(index) for index in batches] == [4, 4, 2] * 2
    assert sorted(sum(batches[:3], [])) == list(range(10))


def test_steps_follow_their_schedule_and_reach_as_far():
    method = unshaken.recipe("acl/digits").method
    policy = Approximations(steps=RISING).policy()
    attacks = [policy.cheaper(method.attack, at(epoch)) for epoch in range(0, 30, 6)]
    assert [attack.steps for attack in attacks] == [1, 2, 3, 4, 5]
    assert [attack.steps * attack.rel_step_size for attack in attacks] == pytest.approx([5 / 4] * 5)
    assert {attack.ball for attack in attacks} == {method.attack.ball}
    for part, steps in ((0.01, 1), (0.28, 1), (0.33, 2), (1.5, 8)):
        assert Approximations(steps=Constant(part)).policy().cheaper(method.attack, at(0)).steps == steps


def test_the_method_attacks_in_as_many_steps_as_are_due(monkeypatch):
    calls = []
    forward = Network.forward

    def counted(self, x, route):
        calls.append((route, self.training))
        return forward(self, x, route)

    monkeypatch.setattr(Network, "forward", counted)
    net, (_, _, batch) = RECIPE.build_network(), next(feed(Approximations()).after(Position()))
    step = Step(unshaken.recipe("acl/digits").method, net)
    step.policy = Approximations(steps=RISING).policy()
    for epoch, steps in ((0, 1), (6, 2), (29, 5)):
        step(batch, at(epoch), Key(0))
        assert calls == [("adv", False)] * steps + [("adv", True), ("clean", True)]
        calls.clear()


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.5)])
def test_a_replay_goes_on_by_the_gradient_of_the_update(ball):
    """x̃₁ = Π(x̃₀ + ρ direction(∂l_CL(x̃₀)/∂x̃₀)), the network being that of the first update, in train mode."""
    method, net = replace(RECIPE.method, attack=PGD(ball, steps=2)), RECIPE.build_network()
    (_, _, first), (_, _, second), (_, _, third) = list(feed(Approximations(replays=2)).after(Position()))[:3]
    step = Step(method, net)
    step.policy = Approximations(replays=2).policy()
    before, x = copy.deepcopy(net).train(), first.views
    step(first, at(0), Key(0))["loss"].backward()
    x_adv = step.policy.replay.x_adv.detach().clone()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.01)  # an update, which the next attack is not to know of
    step(second, at(0), Key(1))["loss"].backward()
    leaf = x_adv.clone().requires_grad_()
    (grad,) = torch.autograd.grad(nt_xent(before(leaf, "adv"), method.tau), leaf)
    there = ball.project(ball.ascend(x_adv, grad, ball.eps / 4), x)
    assert torch.allclose(step.policy.replay.x_adv, there, atol=1e-6)
    assert not torch.equal(there, x_adv)
    assert (ball.distance(there, x) <= ball.eps + 1e-6).all()
    anew = method.adversarial(copy.deepcopy(net), third.views, Key(2))
    step(third, at(0), Key(2))
    assert torch.equal(step.policy.replay.x_adv, anew)


@pytest.mark.parametrize("name", variants(METHODS, ("acl", "acl-air", "dynacl", "advcl", "deacl", "sat")))
def test_each_method_leaves_a_gradient_to_go_on_by(name, tmp_path):
    """For both views where two are attacked; noted attacks are those that were carried on."""
    recipe = unshaken.recipe(f"{name}/digits")
    approximations = Approximations(replays=2)
    if name in ("simclr", "st"):
        with pytest.raises(ValueError, match="makes no attack, so no attack can be made cheaper"):
            replace(recipe, approximations=approximations)
        return
    images = unshaken.DataSource("digits").load("train")[:8]
    counts = {"clusters": (2, 3), "true": (10,), "": ()}[recipe.method.labels]
    label = torch.stack([images.label % count for count in counts], 1) if counts else None
    label = label[:, 0] if counts == (10,) else label
    net = recipe.build_network(counts)
    if recipe.method.teacher == "frozen":
        net.teacher = Network(unshaken.recipe("simclr/digits").build_network().encoder, torch.nn.Identity())
    elif recipe.method.teacher == "momentum":
        net.teacher = recipe.build_network(counts)
    step = Step(recipe.method, net)
    step.policy = replace(approximations.policy(), record=AttackCache(tmp_path / "a.bits", 8))
    batch = feed(approximations).make_batch(torch.arange(8), 1.0, Key(0))
    views = recipe.views(images.floats(), 1.0, Key(0))
    batch, found = replace(batch, views=views, label=label), []
    for k in range(2):
        step(batch, at(0), Key(k))["loss"].backward()
        found.append(step.policy.replay.x_adv)
    grad = found[0].grad.flatten(-3)
    assert (grad.abs().amax(-1) > 0).all()
    assert torch.isfinite(grad).all()
    assert not torch.equal(*found)
    assert (tmp_path / "a.bits").exists()


def test_replays_see_the_very_same_views():
    made = list(feed(Approximations(replays=2), epochs=40).after(Position()))
    for (place, _, batch), (onward, _, following) in zip(made, made[1:], strict=False):
        assert (batch is following) == (onward.batch == place.batch + 1 == 1)  # of three: two replays, and one
    first = {tuple(sorted(batch.index.tolist())) for place, _, batch in made if place.batch == 0}
    assert len(first) > 30
    assert {len(batch.index) for place, _, batch in made if place.batch < 2} == {4}
    with pytest.raises(AssertionError, match="those of a step before it"):
        next(feed(Approximations(replays=2)).after(Position(0, 1, 1)))


def test_shrinking_is_pillows():
    """Pillow's bilinear filter grows with the scale too."""
    x = torch.rand(2, 3, 1, 32, 32, generator=Key("x").on("cpu"))
    for side in (8, 20, 31):
        small = shrink(x, side)
        assert small.shape == (2, 3, 1, side, side)
        for one, image in zip(small.flatten(0, 2), x.flatten(0, 2), strict=True):
            whole = torch.frombuffer(
                bytearray(Image.fromarray(image.numpy()).resize((side, side), 2).tobytes()), dtype=torch.float32
            )
            assert torch.allclose(one.flatten(), whole, atol=1e-5)
    assert torch.equal(shrink(torch.ones(1, 1, 8, 8), 5), torch.ones(1, 1, 5, 5))


def test_sides_follow_their_schedule():
    approximations = Approximations(side=StepSchedule(1 / 2, 9 / 8, every=2))
    seen = [batch for place, _, batch in feed(approximations, epochs=10).after(Position()) if place.batch == 0]
    assert [batch.views.shape[-1] for batch in seen] == [4, 4, 5, 5, 6, 6, 7, 7, 8, 8]
    assert all(batch.image.shape[-2:] == batch.views.shape[-2:] for batch in seen)
    last = [batch for place, _, batch in feed(Approximations(), epochs=10).after(Position()) if place.batch == 0]
    assert torch.equal(seen[-1].views, last[-1].views)
    assert torch.equal(seen[0].views, shrink(last[0].views, 4))
    assert torch.equal(seen[0].image, shrink(last[0].image, 4))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> str:
    return digest(tmp_path_factory.mktemp("unbroken"))


def digest(root, approximations: Approximations = ALL) -> str:
    run = unshaken.pretrain(
        replace(TWO_STEPS, approximations=approximations), unshaken.Workspace(root, save_every=0, quiet=True)
    )
    return json.loads((run / "run.json").read_text())["digest"]


@pytest.fixture(scope="module")
def exact(tmp_path_factory) -> str:
    """Of a run without any."""
    return digest(tmp_path_factory.mktemp("exact"), Approximations())


@pytest.mark.parametrize(
    "approximations", [Approximations(steps=ALL.steps), Approximations(replays=3), Approximations(side=ALL.side)]
)
def test_each_saving_changes_the_run(approximations, unbroken, exact, tmp_path):
    assert len({exact, digest(tmp_path, approximations), unbroken}) == 3


@pytest.mark.parametrize(
    ("saves", "moment"),  # two an epoch: between replays there is none
    variants(
        [(1, "after"), (2, "before"), (3, "after"), (4, "before"), (5, "before"), (6, "after")],
        [(1, "after"), (4, "before")],
    ),
)
def test_killed_anywhere_it_ends_with_the_same_bits(saves, moment, unbroken, tmp_path):
    def die(part, file, replace=os.replace, count=iter(range(1, 100))) -> None:
        last = str(file).endswith("checkpoint.safetensors") and next(count) == saves
        if not last or moment == "after":
            replace(part, file)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        os.replace = die
        digest(tmp_path)

    assert in_child(work) == -signal.SIGKILL
    for file in tmp_path.rglob("checkpoint.safetensors"):
        assert read_tensors(file)[1]["place"]["batch"] in (0, 3)
    assert digest(tmp_path) == unbroken


def test_asked_to_stop_it_ends_the_replays_first(unbroken, tmp_path, monkeypatch):
    update = Run.spend

    def asked(run, part, seconds, count=iter(range(100))) -> None:
        update(run, part, seconds)
        if next(count) == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Run, "spend", asked)
    with pytest.raises(Interrupted, match="after step 3"):
        unshaken.pretrain(
            replace(TWO_STEPS, approximations=ALL), unshaken.Workspace(tmp_path, save_every=1e9, quiet=True)
        )
    monkeypatch.undo()
    assert digest(tmp_path) == unbroken


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"replays": 0}, "replays is a whole number ≥ 1, not 0"),
        ({"steps": Constant(0.0)}, "approximations.steps is a fraction of the attack's steps, > 0, not 0"),
        ({"side": Constant(1.5)}, r"approximations.side is a fraction of the images' side, in \(0, 1\], not 1.5"),
        ({"side": WarmupCosine(2.0, 1)}, r"in \(0, 1\], not 2"),
        ({"side": Constant(0.0)}, r"in \(0, 1\], not 0"),
    ],
)
def test_what_makes_no_sense_is_refused(change, words):
    with pytest.raises(ValueError, match=words) as refused:
        replace(RECIPE, approximations=Approximations(**change))
    assert "\n" not in str(refused.value)


def test_a_schedule_may_round_up_to_the_full_side():
    side = StepSchedule(0.45, 1.11, every=1)
    assert max(feed(Approximations(side=side), epochs=6).side_fraction(epoch) for epoch in range(6)) > 1
    replace(RECIPE, approximations=Approximations(side=side), epochs=6)


def test_a_network_for_one_side_only_is_refused(tmp_path):
    approximations = Approximations(side=StepSchedule(1 / 2, 1, every=1))
    vit = Backbone("vit-small").build()
    with pytest.raises(ValueError, match="the network cannot read images of 16 pixels") as refused:
        approximations.fit(vit, 3, 32, 2)
    assert "\n" not in str(refused.value)
    Approximations().fit(vit, 3, 32, 2)
    net = RECIPE.build_network().encoder.train()
    approximations.fit(net, 1, 8, 2)
    assert all(module.training for module in net.modules())
