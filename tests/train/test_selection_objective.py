"""A method as a problem: gradients against plain autograd, selection against a literal one, and nothing changed."""

import copy
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist

import unshaken
from processes import Forked
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock, Constant
from unshaken.base.types import Batch
from unshaken.coreset.kmeans_margin import KMeansMargin
from unshaken.coreset.rcs import RCS, gradient
from unshaken.coreset.selector import Random, Ranked, split
from unshaken.coreset.submodular import FacilityLocation, GradientMatching, KCenter
from unshaken.data.images import Images
from unshaken.losses.divergence import kl_rows
from unshaken.methods.base import Step
from unshaken.nets import dual_bn as routed
from unshaken.nets.network import Network
from unshaken.recipes.catalog import RECIPES
from unshaken.recipes.pretrain import Pretrain
from unshaken.train.attack_cache import AttackCache
from unshaken.train.attack_policy import AttackPolicy, with_attack_steps
from unshaken.train.batches import BatchStream, Position
from unshaken.train.layer_gradients import linear_layers
from unshaken.train.selection_objective import CachedObjective, MethodObjective, objective_of
from unshaken.transforms.views import Views
from variants import variants

PRETRAININGS = [name for name in RECIPES if isinstance(unshaken.recipe(f"{name}/digits"), Pretrain)]
METHODS = [name for name in PRETRAININGS if name != "lore"]  # its loss does not depend on the head
MAIN = ("simclr", "acl", "deacl", "advcl", "a-infonce", "sat")
each_method = pytest.mark.parametrize("name", variants(METHODS, MAIN))
BATCH, EPOCHS, PLACE = 6, 30, Position(epoch=12, batch=0, step=132)
CLOCK = Clock(step=132, epoch=12, time=12 + 1 / 11, epochs=30)  # 64 images are 11 batches
ATTACK = PGD(Linf(0.1), steps=2)


@dataclass(frozen=True)
class Scene:
    step: Step
    images: Images
    label: Tensor | None
    views: Views

    def posed(self, key: Key = Key(0), count: int = 20, part: float = 5, size: int = BATCH, **how) -> MethodObjective:
        x, u = split(count + 5, part / (count + 5), Key(0))
        feed = BatchStream(self.images, self.views, Constant(0.7), BATCH, EPOCHS, Key(1), self.label)
        return objective_of(self.step, feed, PLACE, x, u, key, size, **how)


def made(name: str) -> Scene:
    """A network of the recipe's that has seen a batch and learned from it once, and digits: a new one each time."""
    return copy.deepcopy(_made(name))


@cache
def _made(name: str) -> Scene:
    recipe = unshaken.recipe(f"{name}/digits")
    recipe = replace(recipe, method=with_attack_steps(recipe.method, 2))
    images = unshaken.DataSource("digits").load("train")[:64]
    counts = {"clusters": (2, 3), "true": (10,), "": ()}[recipe.method.labels]
    label = torch.stack([images.label % count for count in counts], 1) if counts else None
    label = images.label if recipe.method.labels == "true" else label
    net = recipe.build_network(counts)
    if recipe.method.teacher == "frozen":
        net.teacher = Network(copy.deepcopy(unshaken.recipe("simclr/digits").build_network().encoder), nn.Identity())
    elif recipe.method.teacher == "momentum":
        net.teacher = copy.deepcopy(net)
    step = Step(recipe.method, net).train()
    feed = BatchStream(images, recipe.views, recipe.strength, 32, recipe.epochs, Key(1), label)
    rule = torch.optim.SGD([p for p in step.parameters() if p.requires_grad], lr=0.05)
    _, _, batch = next(feed.after(Position()))
    step(batch, CLOCK, Key(2))["loss"].backward()
    rule.step()
    rule.zero_grad()
    return Scene(step, images, label, recipe.views)


@pytest.fixture(scope="module")
def scenes() -> dict[str, Scene]:
    return {name: made(name) for name in METHODS}


def by_autograd(scene: Scene, problem: MethodObjective, b: int) -> dict[str, Tensor]:
    """∇ of the method's loss by the head's linear parameters: a copy of the network in eval mode, and nothing else."""
    net = copy.deepcopy(scene.step.net).eval()
    if isinstance(net.head, nn.Identity):
        net.head = nn.Linear(net.encoder.features, net.encoder.features, bias=False)
        nn.init.eye_(net.head.weight)
    index = problem.batches[b]
    image = scene.images.floats(index)
    views = scene.views(image, 0.7, problem.key / "views" / b)
    batch = Batch(views, image, None if scene.label is None else scene.label[index], index)
    loss = scene.step.method.loss(net, batch, CLOCK, problem.key / "loss" / b)["loss"]
    theta = {
        f"{name}.{kind}" if name else kind: p
        for name, linear in linear_layers(net.head).items()
        for kind, p in linear.named_parameters()
    }
    found = torch.autograd.grad(loss, list(theta.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(theta, found, strict=True))


def test_a_loss_that_does_not_depend_on_the_head_is_refused():
    problem = made("lore").posed()
    with pytest.raises(ValueError, match="the loss of LORE does not depend on the head"):
        problem.gradients([0], "batch")


@each_method
def test_gradients_are_those_of_the_method_s_own_loss(name, scenes):
    """For each mini-batch, as whole matrices and as sums over samples; inner products in factors equal full ones."""
    scene = scenes[name]
    problem = scene.posed()
    batches, samples = (problem.gradients(range(len(problem.batches)), g) for g in ("batch", "sample"))
    assert torch.equal(batches.index, problem.index)
    assert len(samples) == len(problem.index) == 20
    r = {n: torch.randn(p.shape, generator=(Key(n)).on("cpu")) for n, p in problem.theta.items()}
    score, scores = batches.along(r), samples.along(r).split(batches.sizes)
    for b in range(len(problem.batches)):
        slow, size = by_autograd(scene, problem, b), float(batches.norms()[b])
        assert set(slow) == set(problem.theta)
        assert size > 0
        assert all(torch.allclose(batches.of(b)[n], slow[n], atol=1e-5 * size) for n in slow)
        full = sum(float((slow[n] * r[n]).sum()) for n in slow)
        assert float(score[b]) == pytest.approx(full, abs=1e-4 * size)
        assert float(scores[b].sum()) == pytest.approx(full, abs=1e-4 * size)


def nt_xent64(z: Tensor, tau: float) -> Tensor:
    """NT-Xent of (2 N D) by loops."""
    rows = [row / row.norm() for row in z.flatten(0, 1)]
    count, total = len(rows), 0.0
    for a in range(count):
        scores = {b: rows[a] @ rows[b] / tau for b in range(count) if b != a}
        total = total + torch.stack([*scores.values()]).logsumexp(0) - scores[(a + count // 2) % count]
    return total / count


@pytest.mark.parametrize("name", ["simclr", "acl"])
def test_input_gradients_are_those_of_one_image_at_a_time(name, scenes):
    """In float64, with NT-Xent by loops; and by central differences, which share nothing with autograd."""
    scene = scenes[name]
    problem = scene.posed(count=9, size=4)
    assert [len(batch) for batch in problem.batches] == [4, 5]
    net, method, norms = (
        copy.deepcopy(scene.step.net).eval(),
        scene.step.method,
        problem.input_gradients().split([4, 5]),
    )
    exact = copy.deepcopy(net).double()
    for b, index in enumerate(problem.batches):
        views = {"clean": scene.views(scene.images.floats(index), 0.7, problem.key / "views" / b)}
        if name == "acl":
            views["adv"] = method.adversarial(net, views["clean"], problem.key / "loss" / b)
        views = {route: x.double() for route, x in views.items()}

        def loss(views: dict[str, Tensor]) -> Tensor:
            total = 0.0
            for route, x in views.items():
                routed.set_route(exact, route)
                z = exact.head(exact.encoder(x.flatten(0, 1))).unflatten(0, x.shape[:2])
                total = total + nt_xent64(z, method.tau)
            return total

        for i, norm in enumerate(norms[b].tolist()):
            one = {route: x[:, i].clone().requires_grad_() for route, x in views.items()}

            def moved(one: dict[str, Tensor], i=i, views=views) -> dict[str, Tensor]:
                each = torch.arange(views["clean"].shape[1])[None, :, None, None, None] == i
                return {route: torch.where(each, one[route][:, None], x) for route, x in views.items()}

            grads = dict(zip(one, torch.autograd.grad(loss(moved(one)), [*one.values()]), strict=True))
            slow = len(index) * sum(float(grad.square().sum()) for grad in grads.values()) ** 0.5
            assert norm == pytest.approx(slow, rel=2e-3)
            if i == 0:  # along the gradient the loss rises by its norm
                step = 1e-5 * len(index) / slow
                with torch.no_grad():
                    up, down = (loss(moved({r: one[r] + s * step * grads[r] for r in one})) for s in (1, -1))
                assert float(up - down) * len(index) / 2e-5 == pytest.approx(slow, rel=1e-3)


def everything(step: Step) -> tuple:
    """All that a look could change."""
    state = {name: value.clone() for name, value in step.state_dict().items()}
    needs = {name: (p.requires_grad, p.grad is None) for name, p in step.named_parameters()}
    routes = [m.switch.route for m in step.modules() if isinstance(m, routed.RoutedBatchNorm)]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in step.modules()]
    return state, needs, [m.training for m in step.modules()], routes, hooks, torch.get_rng_state()


@pytest.mark.parametrize("name", variants(METHODS, ("acl",)))
def test_looking_changes_nothing_and_the_key_decides(name):
    scene = made(name)
    state, *rest = everything(scene.step)
    problem = scene.posed(count=12)
    selectors = [
        RCS(attack=ATTACK, refresh=1),
        RCS(attack=ATTACK, granularity="sample", distance="ot"),
        Ranked(by="loss"),
        Ranked(by="distance", attack=ATTACK, distance="js"),
        Ranked(by="gradient"),
        KMeansMargin(clusters=3),
        RCS(attack=ATTACK, granularity="sample", diversity=1.0),
        KCenter(),
        FacilityLocation(),
        GradientMatching(granularity="sample"),
    ]
    if name not in ("acl", "advcl", "sat"):  # the others have one of each kind
        selectors = [selectors[k] for k in (0, 2, 4, -1)]
    picked = [selector.select(problem, 7, Key(0)) for selector in selectors]
    again = [selector.select(scene.posed(count=12), 7, Key(0)) for selector in reversed(selectors)]
    assert all(torch.equal(a, b) for a, b in zip(picked, reversed(again), strict=True))
    now, *others = everything(scene.step)
    assert all(torch.equal(now[name], value) for name, value in state.items())
    assert all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(rest, others, strict=True))
    held = set(problem.held.tolist())
    assert all(len(set(images.tolist()) - held) == 7 for images in picked)
    batches = [problem.batches[0], scene.posed(Key(1), count=12).batches[0]]
    assert not torch.equal(*batches)


@pytest.mark.parametrize("refresh", [None, 1])
@pytest.mark.parametrize("name", ["acl", "rocl", "sat"])
def test_picks_as_a_literal_implementation_does(name, refresh, scenes):
    """Weights written into a network, the whole of it run anew for every pick, and backward() for the gradients."""
    scene, eta, picks = scenes[name], 0.5, 3
    problem = scene.posed()
    routes = scene.step.method.routes
    clean, adv = routes[0], "adv" if "adv" in routes else routes[0]
    q = [by_autograd(scene, problem, b) for b in range(len(problem.batches))]
    net = copy.deepcopy(scene.step.net).eval()
    x, left, taken, x_adv = scene.images.floats(problem.held), list(range(len(q))), [], None
    for _ in range(picks):
        if x_adv is None or refresh:
            with torch.no_grad():
                z = net(x, clean)
            x_adv = ATTACK.maximise(
                lambda x, z=z: kl_rows(net(x, adv), z), x, (problem.key / "validation" / 0).on("cpu")
            )
        net.zero_grad()
        kl_rows(net(x_adv, adv), net(x, clean)).mean().backward()
        r = {n: p.grad.clone() for n, p in net.head.named_parameters() if n in q[0]}
        gains = {b: sum(float((q[b][n] * r[n]).sum()) for n in r) for b in left}
        taken.append(max(gains, key=gains.get))
        left.remove(taken[-1])
        with torch.no_grad():
            for n, p in net.head.named_parameters():
                if n in r:
                    p -= eta * q[taken[-1]][n]
    images = RCS(attack=ATTACK, eta=eta, refresh=refresh).select(
        problem, sum(len(problem.batches[b]) for b in taken), Key(0)
    )
    assert images.tolist() == torch.cat([problem.batches[b] for b in taken]).tolist()


def test_gains_exceed_chance_s(scenes):
    """SAT, 40 images of digits in batches of 4: L_RD falls by more along the selection than along random ones."""
    scene = scenes["sat"]
    problem = scene.posed(count=59, part=19, size=4)
    samples = problem.gradients(range(len(problem.batches)), "sample")
    scores = samples.along(gradient(problem.validation(problem.theta, "kl", ATTACK), problem.theta))
    gain = dict(zip(samples.index.tolist(), scores.tolist(), strict=True))
    count = 12
    by = {
        g: sum(gain[i] for i in RCS(attack=ATTACK, granularity=g).select(problem, count, Key(0)).tolist())
        for g in ("batch", "sample")
    }
    chance = [sum(gain[i] for i in Random().select(problem, count, Key(k)).tolist()) for k in range(50)]
    mean, spread = sum(chance) / 50, float(torch.tensor(chance).std())
    assert by["batch"] > mean + spread
    assert by["sample"] > mean + 4 * spread


def test_u_is_not_augmented_and_seen_by_its_routes(scenes):
    """L_RD is d(h(x̃), h(x)): 0 without an attack through one route; and the mean over U whatever the parts."""
    problem = scenes["sat"].posed()
    still = PGD(Linf(1e-9), steps=0)
    assert float(problem.validation(problem.theta, "kl", still)(problem.theta)) == pytest.approx(0, abs=1e-6)
    attacked = float(problem.validation(problem.theta, "kl", ATTACK)(problem.theta))
    assert attacked > 2e-5
    scene = copy.deepcopy(scenes["acl"])
    with torch.no_grad():  # embeddings far enough apart not to be the rounding of a softmax
        next(reversed(linear_layers(scene.step.net.head).values())).weight.mul_(100)
    acl, net = scene.posed(), copy.deepcopy(scene.step.net).eval()
    x, u = scene.images.floats(acl.index), scene.images.floats(acl.held)
    with torch.no_grad():
        apart, rows = (kl_rows(net(some, "adv"), net(some, "clean")) for some in (u, x))
        f = net.features(x, "clean")
    assert rows.min() > 1e-4
    found = float(acl.validation(acl.theta, "kl", still)(acl.theta))
    assert found == pytest.approx(float(apart.mean()), rel=0.01)  # folding rounds
    assert torch.allclose(acl.distances("kl", still), rows, rtol=0.01)
    assert torch.allclose(acl.features(), f, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="no distance 'ot'"):
        acl.distances("ot", still)


def by_hand(scene: Scene, problem: MethodObjective, against: dict[str, Tensor], at: dict[str, Tensor]) -> float:
    """L_RD of a network that has these weights, under an attack on one that has those."""
    clean, adv = scene.step.method.routes[0], scene.step.method.routes[-1]
    nets = [copy.deepcopy(scene.step.net).eval() for _ in range(2)]
    for net, theta in zip(nets, (against, at), strict=True):
        net.head.load_state_dict(theta, strict=False)
    x = scene.images.floats(problem.held)
    with torch.no_grad():
        z = nets[0](x, clean)
    rng = (problem.key / "validation" / 0).on("cpu")
    x_adv = ATTACK.maximise(lambda x: kl_rows(nets[0](x, adv), z), x, rng)
    with torch.no_grad():
        return float(kl_rows(nets[1](x_adv, adv), nets[1](x, clean)).mean())


@pytest.mark.parametrize("name", ["acl", "sat"])
def test_l_rd_is_attacked_at_one_head_and_measured_at_another(name, scenes):
    scene = scenes[name]
    problem = scene.posed()
    away = {n: p + 0.3 * torch.randn(p.shape, generator=Key(n).on("cpu")) for n, p in problem.theta.items()}
    for against in (problem.theta, away):
        rd = problem.validation(against, "kl", ATTACK)
        for at in (problem.theta, away):
            assert float(rd(at)) == pytest.approx(by_hand(scene, problem, against, at), rel=1e-3, abs=2e-8)
    there = problem.validation(away, "kl", ATTACK)
    here = problem.validation(problem.theta, "kl", ATTACK)
    assert float(there(away)) != pytest.approx(float(here(away)), rel=1e-3)


def test_of_a_head_that_also_classifies_the_projection_is_compared(scenes):
    problem = scenes["advcl"].posed()
    net, x = copy.deepcopy(scenes["advcl"].step.net).eval(), scenes["advcl"].images.floats(problem.held)
    with torch.no_grad():
        z_adv, z = (net.head.split(net(x, route))[0] for route in ("adv", "clean"))
    rd = problem.validation(problem.theta, "kl", PGD(Linf(1e-9), steps=0))
    assert float(rd(problem.theta)) == pytest.approx(float(kl_rows(z_adv, z).mean()), abs=2e-7)
    r = gradient(rd, problem.theta)
    assert all(bool(value.any()) == n.startswith("projection") for n, value in r.items())


def test_mini_batches_are_all_candidates_and_no_image_is_alone(scenes):
    for count, size in ((12, BATCH), (13, BATCH), (17, BATCH), (20, BATCH), (13, 3)):
        problem = scenes["simclr"].posed(count=count, size=size)
        assert torch.equal(problem.index.sort().values, split(count + 5, 5 / (count + 5), Key(0))[0])
        assert min(len(batch) for batch in problem.batches) > 1
        assert max(len(batch) for batch in problem.batches) in (size, size + 1)


def test_a_head_that_does_nothing_is_the_identity(scenes):
    scene = scenes["deacl"]
    problem, x = scene.posed(), scene.images.floats(slice(0, 4))
    with torch.no_grad():
        here, there = problem.net(x, "shared"), copy.deepcopy(scene.step.net).eval()(x, "shared")
        assert torch.allclose(here, there, rtol=1e-4, atol=1e-6)
    assert set(problem.theta) == {"weight"}
    assert isinstance(scene.step.net.head, nn.Identity)


def test_a_head_without_linear_layers_is_refused(scenes):
    net = copy.deepcopy(scenes["simclr"].step.net)
    net.head = nn.Sequential(nn.ReLU())
    with pytest.raises(ValueError, match="gradients of linear layers in the head"):
        replace(scenes["simclr"], step=Step(scenes["simclr"].step.method, net)).posed()


@pytest.mark.parametrize(("name", "side", "replays"), [("acl", 1, 1), ("sat", 1, 1), ("advcl", 1, 1), ("acl", 0.75, 2)])
def test_an_epoch_is_recalled_as_it_was(name, side, replays, scenes, tmp_path, monkeypatch):
    """Mini-batches, views and x̃ of the training come back, and the rest is drawn and attacked anew."""
    scene = scenes[name]
    x, u = split(25, 0.2, Key(0))
    whole = BatchStream(scene.images, scene.views, Constant(0.7), BATCH, EPOCHS, Key(1), scene.label)
    whole = replace(whole, side=Constant(side), replays=replays)
    feed, attacks = replace(whole, index=x[:13]), AttackCache(tmp_path / "bits", len(scene.images))
    step = Step(scene.step.method, copy.deepcopy(scene.step.net))
    step.policy = AttackPolicy(record=attacks)
    step.net.memory = scene.step.net.memory
    then, seen = Position(3, 0, 40), []
    for place, _, batch in feed.after(then):
        if place.epoch > 3:
            break
        step(batch, feed.clock(place), Key(2) / place.step)
        if feed.has_own_views(place):
            seen.append(batch)
    key, now = Key(5), Position(4, 0, 40 + len(feed))
    problem = objective_of(step, whole, now, x, u, key, steps=1, cached=CachedObjective(feed, attacks))
    assert [b.tolist() for b in problem.batches[: len(seen)]] == [batch.index.tolist() for batch in seen]
    assert sorted(problem.index.tolist()) == x.tolist()
    assert problem.method == with_attack_steps(scene.step.method, 1)
    climbs: list[Tensor] = []
    climb = PGD._climb
    monkeypatch.setattr(PGD, "_climb", lambda *given: climbs.append(given[2]) or climb(*given))
    problem.gradients(range(len(problem.batches)), "batch")
    assert len(climbs) == len(problem.batches) - len(seen)  # what was recalled was not attacked
    one = problem.candidates[len(seen) - 1]
    assert torch.equal(problem.feed.make_batch(one.index, 0.7, one.views, one.side).views, seen[-1].views)
    assert {one.side for one in problem.candidates} == {side}


@pytest.mark.slow
def test_two_and_three_processes_answer_as_one(tmp_path):
    """Gradients, losses, features, distances, and so what is selected, to the bit."""
    for count in (1, 2, 3):
        at_work = [Forked(partial(answers, rank, count, tmp_path)) for rank in range(count)]
        said = [one.communicate()[1].decode() for one in at_work]
        assert [one.returncode for one in at_work] == [0] * count, said
    files = sorted(tmp_path.glob("answer*"))
    assert len(files) == 6
    first = torch.load(files[0])
    for file in files[1:]:
        assert all(torch.equal(a, b) for a, b in zip(first, torch.load(file), strict=True))


def answers(rank: int, count: int, folder: Path) -> None:
    scene = made("acl")  # before there are others, with which it would share its batch
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet{count}", rank=rank, world_size=count)
    problem = scene.posed()
    assert problem.processes.count == count
    ways = [RCS(attack=ATTACK), RCS(attack=ATTACK, granularity="sample"), GradientMatching(), KCenter(),
            Ranked(by="loss"), Ranked(attack=ATTACK), Ranked(by="gradient"), KMeansMargin(clusters=3)]  # fmt: skip
    picks = [way.select(problem, 9, Key(0)) for way in ways]
    q = problem.gradients(range(4), "batch")
    torch.save([*picks, *q.of(3).values(), problem.losses(), problem.features()], f"{folder}/answer{count}{rank}")
    if count > 1:
        dist.destroy_process_group()
