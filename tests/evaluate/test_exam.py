"""The exam against the exact robust accuracy of a linear model, and against being stopped."""

import pytest
import torch
from torch import nn

from unshaken.data.images import Images
from unshaken.evaluate.exam import Exam, Notes, correct
from unshaken.evaluate.verdicts import Verdicts
from unshaken.nets.embed import Encoder, Network, Normalize
from unshaken.threat.ball import L2, Linf
from unshaken.threat.pgd import PGD

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
    verdicts = Exam(PGD(ball, steps=20), batch=16).judge(net, data, Notes())
    assert torch.equal(verdicts["pgd"].bits, expected)
    assert torch.equal(verdicts["clean"].bits, margin > 0)
    assert 0 < expected.sum() < (margin > 0).sum()


class Inverted(nn.Module):
    """Right about class "b" only on images that were tampered with: pixels that are no multiple of 1/255."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        levels = 255 * x.detach()
        tampered = ((levels - levels.round()).abs() > 1e-2).any(1).float() + 0 * x.sum(1)
        return torch.stack([1 - tampered, tampered], 1)


@pytest.mark.parametrize("restarts", [1, 3])
def test_what_is_wrong_before_the_attack_stays_wrong(restarts):
    """An attack that makes a wrong answer right has not made the network robust."""
    net = Network(Encoder(Normalize((0.0,), (1.0,)), nn.Flatten(), SIDE * SIDE), Inverted()).eval()
    data = Images(images().pixels, torch.ones(60, dtype=torch.int64), ("a", "b"))
    verdicts = Exam(PGD(Linf(0.02), steps=0, restarts=restarts), batch=7).judge(net, data, Notes())
    assert verdicts["clean"].correct == 0
    assert verdicts["pgd"].correct == 0
    x_adv = Linf(0.02).sample(data.floats(), torch.Generator().manual_seed(0))
    assert correct(net, x_adv, data.label).all()


def test_a_logit_that_is_no_number_is_wrong():
    net, data = linear_model(), images(4)
    with torch.no_grad():
        net.head.bias[0] = torch.nan
    assert not correct(net, data.floats(), data.label).any()


def test_stopped_and_gone_on(tmp_path):
    """Batches judged before are not judged again, and the bits are those of an exam that was not stopped."""
    net, data, exam = linear_model(), images(), Exam(PGD(Linf(0.02), steps=5), batch=16)
    whole = exam.judge(net, data, Notes())
    file = tmp_path / "verdicts.json"

    class Told(Notes):
        def write(self, name: str, verdicts: Verdicts) -> None:
            super().write(name, verdicts)
            seen.append((name, len(verdicts)))
            if seen == [("clean", 16), ("clean", 32), ("clean", 48), ("clean", 60), ("pgd", 16), ("pgd", 32)]:
                raise KeyboardInterrupt

    seen = []
    with pytest.raises(KeyboardInterrupt):
        exam.judge(net, data, Told(file, "me"))
    seen = []
    again = exam.judge(net, data, Told(file, "me"))
    assert seen == [("pgd", 48), ("pgd", 60)]
    assert torch.equal(again["pgd"].bits, whole["pgd"].bits)
    other = Notes(file, "someone else")
    assert len(other.read("pgd")) == 0


def test_the_mode_is_left_as_it_was():
    net = linear_model().train()
    Exam(PGD(Linf(0.02), steps=1)).judge(net, images(4), Notes())
    assert net.training
    assert all(p.grad is None for p in net.parameters())


def test_limit_and_missing_labels():
    net, data = linear_model(), images()
    assert len(Exam(PGD(Linf(0.02), steps=1), limit=5).judge(net, data, Notes())["pgd"]) == 5
    with pytest.raises(ValueError, match="no labels"):
        Exam().judge(net, Images(data.pixels), Notes())
    with pytest.raises(ValueError, match="limit"):
        Exam(limit=0)
