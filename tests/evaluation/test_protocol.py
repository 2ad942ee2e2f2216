"""The evaluation against the exact robust accuracy of a linear model, and against being stopped."""

import copy
import json
import signal
import time
from dataclasses import dataclass, replace

import numpy
import pytest
import torch
from torch import nn

from processes import Forked, until
from unshaken.attacks.ball import L2, Ball, Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.base.serialize import to_json
from unshaken.base.shard import Shard
from unshaken.corruptions.corruption import Corruption
from unshaken.data.images import Images
from unshaken.evaluation.judge import judge
from unshaken.evaluation.protocol import Evaluation
from unshaken.evaluation.stages import correct, in_ball
from unshaken.evaluation.verdict_log import VerdictLog
from unshaken.evaluation.verdicts import Verdicts
from unshaken.nets.network import Encoder, Network, Normalize

SIDE = 6


def linear_model() -> Network:
    """Two classes, logits ±w·(x − 1/2)."""
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(SIDE * SIDE, generator=rng)
    head = nn.Linear(SIDE * SIDE, 2, bias=True)
    with torch.no_grad():
        head.weight.copy_(torch.stack([weight, -weight]))
        head.bias.copy_(torch.tensor([-1.0, 1.0]) * weight.sum() / 2)
    return Network(Encoder(Normalize((0.0,), (1.0,)), nn.Flatten(), SIDE * SIDE), head).eval()


def images(n: int = 60) -> Images:
    """Around mid grey, so that no ball reaches the ends of [0, 1]."""
    rng = torch.Generator().manual_seed(1)
    pixels = torch.randint(90, 166, (n, 1, SIDE, SIDE), generator=rng, dtype=torch.uint8)
    return Images(pixels, torch.randint(0, 2, (n,), generator=rng), ("a", "b"), "noise", "test")


@pytest.mark.parametrize(("ball", "dual"), [(Linf(0.01), 1), (Linf(0.02), 1), (L2(0.05), 2), (L2(0.15), 2)])
def test_robust_accuracy_of_a_linear_model_is_exact(ball, dual):
    """An image is robust iff its margin exceeds ε ‖w₀ − w₁‖ in the dual norm: l1 for l∞, l2 for l2."""
    net, data = linear_model(), images()
    logits = net(data.floats(), "adv").double()
    sign = 1 - 2 * data.label
    margin = sign * (logits[:, 0] - logits[:, 1])
    weight = (net.head.weight[0] - net.head.weight[1]).double()
    expected = margin > ball.eps * torch.linalg.vector_norm(weight, ord=dual)
    verdicts = judge(Evaluation(PGD(ball, steps=20), batch_size=16), net, data)
    assert torch.equal(verdicts["pgd"].bits, expected)
    assert torch.equal(verdicts["clean"].bits, margin > 0)
    assert 0 < expected.sum() < (margin > 0).sum()


def test_autoattack_reaches_the_closed_form_too():
    """The real ensemble, each stage on the survivors of the last."""
    net, data = linear_model(), images(24)
    logits = net(data.floats(), "adv").double()
    margin = (1 - 2 * data.label) * (logits[:, 0] - logits[:, 1])
    weight = (net.head.weight[0] - net.head.weight[1]).double()
    expected = margin > 0.01 * weight.abs().sum()
    verdicts = judge(Evaluation(PGD(Linf(0.01), steps=20), "standard", batch_size=24), net, data)
    assert list(verdicts)[2:] == [f"standard/{stage}" for stage in ("apgd-ce", "apgd-t", "fab-t", "square")]
    assert torch.equal(verdicts["standard/square"].bits, expected)
    assert 0 < expected.sum() < (margin > 0).sum()


class Inverted(nn.Module):
    """Right about class "b" only on images that were perturbed: pixels that are no multiple of 1/255."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        levels = 255 * x.detach()
        perturbed = ((levels - levels.round()).abs() > 1e-2).any(1).float() + 0 * x.sum(1)
        return torch.stack([1 - perturbed, perturbed], 1)


@pytest.mark.parametrize("restarts", [1, 3])
def test_what_is_wrong_before_the_attack_stays_wrong(restarts):
    """An attack that makes a wrong answer right has not made the network robust."""
    net = Network(Encoder(Normalize((0.0,), (1.0,)), nn.Flatten(), SIDE * SIDE), Inverted()).eval()
    data = Images(images().pixels, torch.ones(60, dtype=torch.int64), ("a", "b"))
    verdicts = judge(
        Evaluation(PGD(Linf(0.02), steps=1, rel_step_size=1e-6, restarts=restarts), batch_size=7), net, data
    )
    assert verdicts["clean"].correct == 0
    assert verdicts["pgd"].correct == 0
    x_adv = Linf(0.02).sample(data.floats(), torch.Generator().manual_seed(0))
    assert correct(net, x_adv, data.label).all()


def test_a_logit_that_is_no_number_is_wrong():
    net, data = linear_model(), images(4)
    with torch.no_grad():
        net.head.bias[0] = torch.nan
    assert not correct(net, data.floats(), data.label).any()


class Recording(VerdictLog):
    """Notes that stop the evaluation after so many verdicts, as they are written."""

    stop = 10**6

    def write(self, part, block, bits, seconds=0.0):
        super().write(part, block, bits, seconds)
        self.seen = [*getattr(self, "seen", []), (part, block)]
        if len(self.seen) == self.stop:
            raise KeyboardInterrupt


@dataclass(frozen=True)
class Weak:
    """An attack of PGD's steps that gives back what it found."""

    ball: Ball
    steps: int

    def __call__(self, model, x, y, key):
        return PGD(self.ball, self.steps, rel_step_size=0.1)(model, x, y, key)


@dataclass(frozen=True)
class Ensemble:
    """Two weak attacks in the place of AutoAttack's four."""

    ball: Ball
    version: str = "standard"

    @property
    def stages(self):
        return (("first", Weak(self.ball, 1)), ("second", Weak(self.ball, 8)))


@pytest.fixture
def weak(monkeypatch):
    monkeypatch.setattr("unshaken.evaluation.protocol.AutoAttack", Ensemble)


EVERYTHING = Evaluation(
    PGD(Linf(0.02), steps=3, restarts=2), "standard", ("fog", "contrast"), severities=(1, 5), batch_size=25, limit=55
)
PARTS = ["clean", "pgd/1", "pgd", "standard/first", "standard/second", "fog/1", "fog/5", "contrast/1", "contrast/5"]


def alike(a: dict[str, Verdicts], b: dict[str, Verdicts]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[k].bits, b[k].bits) and torch.equal(a[k].judged, b[k].judged) for k in a
    )


def test_each_block_goes_through_everything(weak):
    log, data = Recording(), images()
    verdicts = judge(EVERYTHING, linear_model(), data, log)
    assert log.seen == [(part, block) for block in range(3) for part in PARTS]
    assert list(verdicts) == PARTS
    assert all(len(each) == 55 and each.complete for each in verdicts.values())
    blocks = torch.cat(EVERYTHING.blocks(55))
    assert blocks.sort().values.tolist() == list(range(55))
    assert blocks.tolist() != list(range(55))  # sets sorted by class do not begin with one class


def test_an_attack_sees_the_survivors_of_the_last_alone(weak, monkeypatch):
    seen = []

    def told(self, model, x, y, key, call=Weak.__call__):
        seen.append(len(x))
        return call(self, model, x, y, key)

    monkeypatch.setattr(Weak, "__call__", told)
    evaluation = replace(EVERYTHING, batch_size=60, limit=None, corruptions=())
    verdicts = judge(evaluation, linear_model(), images())
    assert seen == [verdicts["clean"].correct, verdicts["standard/first"].correct]
    assert 0 < verdicts["standard/second"].correct < verdicts["standard/first"].correct < verdicts["clean"].correct
    assert not (verdicts["standard/second"].bits & ~verdicts["standard/first"].bits).any()


def test_where_randomness_is_keyed(weak, monkeypatch):
    """Attacks by seed, stage and block; corruptions by the seed alone, to which they add name, severity and place."""
    keys = []

    def told(self, model, x, y, key, call=Weak.__call__):
        keys.append(key)
        return call(self, model, x, y, key)

    monkeypatch.setattr(Weak, "__call__", told)
    monkeypatch.setattr(
        "unshaken.evaluation.protocol.Corruption.__call__", lambda self, x, key, index: keys.append(key) or x
    )
    for seed in (1, 2):
        judge(replace(EVERYTHING, corruptions=("fog",), severities=(1, 5), seed=seed), linear_model(), images())
    stages = [Key(s) / f"standard/{stage}" / b for s in (1, 2) for b in range(3) for stage in ("first", "second")]
    assert [key for key in keys if len(key.path) == 2] == stages
    assert {key for key in keys if len(key.path) == 1} == {Key(1) / "corruptions", Key(2) / "corruptions"}


def test_attacks_are_told_which_network_judges(weak, monkeypatch):
    models = []

    def told(self, model, x, y, key):
        models.append(model)
        return x

    monkeypatch.setattr(Weak, "__call__", told)
    net, data = linear_model(), images()
    judge(EVERYTHING, net, data)
    assert models[-1].exact is models[-1].search
    search = copy.deepcopy(net)
    with torch.no_grad():
        search.head.bias.add_(1)
    judge(EVERYTHING, net, data, search=search)
    x = data.floats()
    assert torch.equal(models[-1].exact(x), net(x, "adv"))
    assert torch.equal(models[-1].search(x), search(x, "adv"))


def test_stopped_after_any_verdict_it_goes_on_to_the_same_bits(weak, tmp_path):
    """Verdicts given before are not given again, and a line that was torn is."""
    net, data = linear_model(), images()
    whole = judge(EVERYTHING, net, data)
    for stop in {1, 2, 3, *range(4, 3 * len(PARTS), 5), 3 * len(PARTS) - 2, 3 * len(PARTS) - 1}:
        folder = tmp_path / str(stop)
        first = Recording(folder, "me")
        first.stop = stop
        with pytest.raises(KeyboardInterrupt):
            judge(EVERYTHING, net, data, first)
        if stop % 2:  # killed as it wrote the line
            first.file.write_bytes(first.file.read_bytes()[: -1 if stop % 4 == 1 else -7])
        again = Recording(folder, "me")
        assert alike(judge(EVERYTHING, net, data, again), whole)
        assert len(again.seen) == 3 * len(PARTS) - stop + stop % 2
        assert not VerdictLog(folder, "someone else").bits
        assert len(VerdictLog(folder, "me").bits) == 3 * len(PARTS)  # and someone else's evaluation took nothing away


def test_shards_make_the_whole(weak, tmp_path):
    """Each does blocks of its own, and what they leave is what one process leaves."""
    net, data = linear_model(), images()
    evaluation = replace(EVERYTHING, batch_size=8)
    whole = judge(evaluation, net, data)
    for rank in (2, 3, 1):
        shard = Shard(rank, 3)
        log = Recording(tmp_path, shard=shard)
        found = judge(evaluation, net, data, log, only=shard.of(7))
        assert {block for _, block in log.seen} == set(shard.of(7))
        assert all(each.complete for each in found.values()) == (rank == 1)
    assert alike(found, whole)
    one = Recording(tmp_path)
    assert alike(judge(evaluation, net, data, one), whole)
    assert not hasattr(one, "seen")


def test_more_is_asked_and_what_is_known_is_kept(weak):
    net, data, log = linear_model(), images(), Recording()
    cheap = replace(EVERYTHING, autoattack="none", corruptions=())
    judge(cheap, net, data, log)
    before = len(log.seen)
    assert alike(judge(EVERYTHING, net, data, log), judge(EVERYTHING, net, data))
    assert len(log.seen) - before == 3 * (len(PARTS) - 3)
    assert cheap.merged_with(EVERYTHING) == EVERYTHING
    assert EVERYTHING.merged_with(cheap) == EVERYTHING
    assert cheap.cache_key == EVERYTHING.cache_key


def test_until_the_interval_is_narrow(weak):
    """Its width is from end to end, of the last attack's final value; a block more would not have been needed."""
    net, data = linear_model(), images(60)
    evaluation = replace(EVERYTHING, batch_size=6, limit=None, until=25.0)
    found = judge(evaluation, net, data)
    last = found["standard/second"]

    def width(verdicts: Verdicts) -> float:
        low, high = verdicts.forecast()
        return 100 * (high - low)

    assert 0 < len(last) < 60
    assert width(last) <= 25
    blocks = evaluation.blocks(60)
    final = blocks[len(last) // 6 - 1]
    less = Verdicts(last.bits.clone(), last.judged.clone())
    less.bits[final], less.judged[final] = False, False
    assert width(less) > 25
    whole = judge(replace(evaluation, until=None), net, data)
    assert torch.equal(last.bits, whole["standard/second"].bits & last.judged)
    assert judge(replace(evaluation, until=0.0), net, data)["pgd"].complete
    assert len(judge(replace(evaluation, until=100.0), net, data)["pgd"]) == 6  # one block in any case


def test_what_low_precision_finds_is_judged_in_float32(weak):
    """A search network that points the wrong way finds nothing; one that claims everything gains nothing."""
    net, data = linear_model(), images()
    wrong = copy.deepcopy(net)
    with torch.no_grad():
        wrong.head.weight.neg_()
    evaluation = replace(EVERYTHING, corruptions=(), batch_size=60, limit=None)
    found = judge(evaluation, net, data, search=wrong)
    assert found["pgd"].correct == found["clean"].correct > judge(evaluation, net, data)["pgd"].correct
    assert alike(judge(evaluation, net, data, search=copy.deepcopy(net)), judge(evaluation, net, data))


def test_what_leaves_the_ball_is_our_mistake(weak, monkeypatch):
    monkeypatch.setattr(Weak, "__call__", lambda self, model, x, y, key: (x + 0.03).clamp(0, 1))
    with pytest.raises(AssertionError, match="standard/first left the ball"):
        judge(EVERYTHING, linear_model(), images())


def test_inside_the_ball():
    x = torch.full((1, 1, 2, 2), 0.5)
    for ball in (Linf(0.1), L2(0.1)):
        away = torch.zeros_like(x)
        away[..., 0, 0] = ball.eps
        assert in_ball(x + away, x, ball)
        assert not in_ball(x + 1.001 * away, x, ball)
    assert not in_ball(torch.full_like(x, 1.01), torch.ones_like(x), Linf(0.1))


def test_an_image_is_corrupted_alike_wherever_it_stands(weak):
    """The block that it is in does not matter, so that all networks meet the same images."""
    net, data = linear_model(), images()
    evaluation = replace(EVERYTHING, autoattack="none", limit=None)
    a, b = (judge(replace(evaluation, batch_size=batch), net, data) for batch in (7, 60))
    assert all(torch.equal(a[part].bits, b[part].bits) for part in PARTS[5:])


def test_published_images_are_read_by_their_index(tmp_path):
    """Against the same network on the files' own rows; and files of another set are refused."""
    rng = numpy.random.default_rng(0)
    pixels, label = rng.integers(0, 256, (150, 32, 32, 3), dtype=numpy.uint8), rng.integers(0, 2, 30)
    numpy.save(tmp_path / "fog.npy", pixels)
    numpy.save(tmp_path / "labels.npy", numpy.tile(label, 5))
    head = nn.Linear(3072, 2)
    net = Network(Encoder(Normalize((0.0,) * 3, (1.0,) * 3), nn.Flatten(), 3072), head).eval()
    clean = Images(torch.zeros(30, 3, 32, 32, dtype=torch.uint8), torch.from_numpy(label), ("a", "b"), "c", "test")
    evaluation = Evaluation(
        PGD(steps=1), corruptions=("fog",), severities=(2, 5), published=str(tmp_path), batch_size=7
    )
    found = judge(evaluation, net, clean)
    for severity in (2, 5):
        rows = torch.from_numpy(pixels[30 * (severity - 1) : 30 * severity]).permute(0, 3, 1, 2)
        expected = correct(net, rows.float() / 255, clean.label)
        assert torch.equal(found[evaluation.corruption_name(Corruption("fog", severity))].bits, expected)
    other = replace(clean, label=1 - clean.label)
    with pytest.raises(ValueError, match="other labels than the test images"):
        judge(evaluation, net, other)


def test_an_exam_in_a_result_is_read_back():
    for evaluation in (EVERYTHING, Evaluation(PGD(L2(0.5), steps=7)), Evaluation().full):
        assert Evaluation.read(json.loads(json.dumps(to_json(evaluation)))) == evaluation
    old = {"type": "Evaluation", "attack": to_json(PGD(Linf(0.1), 20)), "batch_size": 256, "limit": None, "seed": 1}
    assert Evaluation.read(old) == Evaluation(PGD(Linf(0.1), 20))
    with pytest.raises(ValueError, match="is it newer"):
        Evaluation.read(old | {"patience": 3})


def test_judged_in_eval_mode_and_left_as_it_was(monkeypatch):
    """No parameter asks for a gradient meanwhile: an attack needs those of pixels alone."""
    net = linear_model().train()
    asked = []
    monkeypatch.setattr(Network, "forward", spied(Network.forward, asked))
    judge(Evaluation(PGD(Linf(0.02), steps=1)), net, images(4))
    assert asked
    assert not any(asked)
    assert net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def spied(forward, asked: list[bool]):
    def told(self, x, route):
        asked.append(self.training or any(p.requires_grad for p in self.parameters()))
        return forward(self, x, route)

    return told


def test_limit_and_missing_labels():
    net, data = linear_model(), images()
    assert len(judge(Evaluation(PGD(Linf(0.02), steps=1), limit=5), net, data)["pgd"]) == 5
    with pytest.raises(ValueError, match="no labels"):
        judge(Evaluation(), net, Images(data.pixels))
    for wrong, words in (
        ({"limit": 0}, "limit"),
        ({"until": -1.0}, r"until is a number in \[0, 100\], not -1"),
        ({"corruptions": ("fogg",)}, "there is no corruption 'fogg'.*did you mean fog"),
        ({"corruptions": ("fog",), "severities": (0, 1)}, r"whole number in \[1, 5\], not 0"),
        ({"severities": ()}, "one severity or more"),
    ):
        with pytest.raises(ValueError, match=words):
            Evaluation(**wrong)


def test_one_process_at_a_time_writes_a_file_of_verdicts(tmp_path):
    """The same process may, again and again; another one is told in a line, and its lock is free when it ends."""

    def at_work() -> None:
        log = VerdictLog(tmp_path, "an evaluation")
        print("at work", log.file, flush=True)
        time.sleep(60)

    other = Forked(at_work)
    until(lambda: other.said()[0].startswith(b"at work"), other)
    with pytest.raises(ValueError, match="another process is at work on the same evaluation"):
        VerdictLog(tmp_path, "an evaluation")
    first, second = VerdictLog(tmp_path, "another evaluation"), VerdictLog(tmp_path, "another evaluation")
    assert first.identity == second.identity
    other.send_signal(signal.SIGKILL)
    other.communicate()
    assert VerdictLog(tmp_path, "an evaluation").file.exists()
