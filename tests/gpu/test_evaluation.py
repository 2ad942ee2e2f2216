"""AutoAttack, an evaluation, the doctor and a selection: on a device what they are on the CPU."""

import pytest
import torch
from machine import KEY, classes_of, classifier, course, equal_draws, other_rounding
from torch.nn.functional import cross_entropy

from unshaken.attacks.autoattack import AutoAttack
from unshaken.attacks.ball import L2, Linf
from unshaken.attacks.base import Model, wrong
from unshaken.attacks.pgd import PGD
from unshaken.base.shard import Shard
from unshaken.compute.runtime import Runtime
from unshaken.coreset.rcs import RCS
from unshaken.coreset.selector import split
from unshaken.diagnostics.doctor import run_checks
from unshaken.diagnostics.subject import ModelUnderTest
from unshaken.evaluation.judge import judge, verdicts_of
from unshaken.evaluation.protocol import Evaluation
from unshaken.evaluation.stages import in_ball, logits_of
from unshaken.evaluation.verdict_log import VerdictLog
from unshaken.nets.network import frozen
from unshaken.train.batches import Position
from unshaken.train.selection_objective import objective_of
from variants import variants

BALL = Linf(0.03)


@pytest.mark.parametrize(
    ("version", "ball"),
    variants([("standard", BALL), ("plus", BALL), ("rand", BALL), ("standard", L2(0.25))], [("standard", BALL)]),
    ids=["standard", "plus", "rand", "l2"],
)
def test_autoattack_breaks_what_it_breaks_on_the_cpu(device, version, ball):
    """All its attacks, from equal draws: the same images fall, but for one or two at the boundary."""
    count, steps, queries = (64, 20, 200) if device == "cuda" else (12, 2, 10)
    images = classes_of(8, 1, count)
    fell = []
    for where in ("cpu", device):
        net = classifier(images, where)
        x, y = images.to(where).floats(), images.label.to(where)
        with equal_draws(), other_rounding("cuda" if where == "cpu" and not fell else device):
            attack = AutoAttack(ball, version, steps, queries, targets=3)
            x_adv = attack(Model(logits_of(net)), x, y, KEY / "autoattack")
        assert in_ball(x_adv, x, ball)
        fell.append(wrong(net(x_adv, "adv"), y).cpu())
    assert 0.1 < fell[0].float().mean() < 1
    assert (fell[0] != fell[1]).sum() <= max(1, count // 32)


def test_an_exam_in_two_shards_is_the_whole(device, tmp_path):
    """PGD from two starts and a corruption; verdicts are nearly all those of the CPU."""
    evaluation = Evaluation(PGD(BALL, steps=5, restarts=2), "none", ("fog",), (3,), batch_size=16, limit=64)
    images = classes_of(8, 1, 64).to(device)
    net = classifier(classes_of(8, 1, 64), device)
    whole = judge(evaluation, net, images)
    for rank in (1, 2):
        shard = Shard(rank, 2)
        notes = VerdictLog(tmp_path, "evaluation", shard=shard)
        judge(evaluation, net, images, notes, only=shard.of(len(evaluation.blocks(64))))
    parts = verdicts_of(evaluation, VerdictLog(tmp_path, "evaluation"), 64)
    assert all(one.complete for one in parts.values())
    for name, verdicts in whole.items():
        assert torch.equal(verdicts.bits, parts[name].bits)
    assert whole["clean"].correct > 40
    with equal_draws():
        expected = judge(evaluation, classifier(classes_of(8, 1, 64), "cpu"), classes_of(8, 1, 64))
        found = judge(evaluation, net, images)
    for name, verdicts in expected.items():
        assert (verdicts.bits != found[name].bits).sum() <= 2


def scaled(net, scale):
    return lambda x: scale * net(x, "adv")


def test_the_doctor_says_what_it_says_on_the_cpu(device):
    """Nothing of a sound classifier; of one whose logits saturate, that its gradients mislead."""
    images = classes_of(8, 1, 64 if device == "cuda" else 32)
    for scale in (1, 1e4):
        said = []
        for where in ("cpu", device):
            net = classifier(images, where)
            x, y = images.to(where).floats(), images.label.to(where)
            model = ModelUnderTest(scaled(net, scale), x, y, BALL, KEY / "doctor", net)
            attacked = 0 if scale > 1 else 8 if device == "cpu" else 48
            with frozen(net), equal_draws(), other_rounding(device if said else "cuda"):
                said.append([one.finding.check for one in run_checks(model, attacked) if one.finding])
        assert said[0] == said[1]
        assert bool(said[0]) == (scale > 1)


def test_a_selection_repeats_and_is_nearly_the_cpus(device):
    """RCS over single images: the same twice, and 90 % of what the CPU picks."""

    def picked(where, rounding):
        made = course("acl", batch=32)
        step, feed = made.on(Runtime(device=where))
        x, u = split(len(feed.images), 0.25, KEY)
        selector = RCS(0.3, granularity="sample", attack=PGD(made.method.attack.ball, 2), at_once=2)
        with equal_draws(), other_rounding(rounding):
            problem = objective_of(step, feed, Position(), x, u, KEY / "problem", 16, 1)
            return selector.select(problem, selector.budget(len(x)), KEY / "select")

    expected, found, again = picked("cpu", "cuda"), picked(device, device), picked(device, device)
    assert torch.equal(found, again)
    same = len(set(expected.tolist()) & set(found.tolist()))
    assert same >= 0.9 * len(expected)


def test_pgd_raises_the_loss_as_on_the_cpu(device):
    images = classes_of(8, 1, 64)
    losses = []
    for where in ("cpu", device):
        net = classifier(images, where)
        x, y = images.to(where).floats(), images.label.to(where)
        with equal_draws(), other_rounding("cuda" if where == "cpu" and not losses else device):
            attack = PGD(BALL, steps=10)
            x_adv = attack.maximise(
                lambda x, net=net, y=y: cross_entropy(net(x, "adv"), y, reduction="none"), x, KEY.on(where)
            )
        losses.append(float(cross_entropy(net(x_adv, "adv"), y)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
