"""Callbacks in a real Lightning training: views become adversarial, nothing else of the module changes."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import unshaken
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.evaluation.protocol import Evaluation
from unshaken.nets.torchvision_ops import declare_operators

declare_operators()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pl = pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")
    from unshaken.runs.lightning import AdversarialViews, Probed, RobustProbe, encoder_of, images_in

pytestmark = pytest.mark.filterwarnings("ignore")
DIGITS = unshaken.DataSource("digits").load("train")[:96]
MEAN, STD = (0.3,), (0.5,)
X = (DIGITS.floats() - 0.3) / 0.5


class Toy(pl.LightningModule):
    """Two views in a batch, as lightly has them, normalised; it notes the batches that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
        self.seen: list[list[Tensor]] = []

    def training_step(self, batch, batch_idx):
        self.seen.append([view.clone() for view in batch[0]])
        return (self.backbone(batch[0][0]) - self.backbone(batch[0][1])).square().mean() + 1

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def pairs(rows):
    images, labels = (torch.stack(column) for column in zip(*rows, strict=True))
    return [images.clone(), images.clone()], labels


def fit(*callbacks) -> Toy:
    torch.manual_seed(0)
    module = Toy()
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks),
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(X, DIGITS.label), 48, collate_fn=pairs))
    module.metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return module


def test_views_are_adversarial_and_in_the_ball() -> None:
    plain, module = fit(), fit(AdversarialViews(PGD(Linf(0.1), steps=3), mean=MEAN, std=STD))
    first, second = module.seen[0]
    assert torch.equal(second, X[:48])
    moved = (first - X[:48]) * 0.5
    assert float(moved.abs().max()) == pytest.approx(0.1, abs=1e-5)
    pixels = first * 0.5 + 0.3
    assert float(pixels.min()) > -1e-6
    assert float(pixels.max()) < 1 + 1e-6
    torch.manual_seed(0)
    net = Toy().backbone.eval()
    with torch.no_grad():
        noise = ((X[:48] * 0.5 + 0.3 + 0.1 * torch.randn(moved.shape).sign()).clamp(0, 1) - 0.3) / 0.5
        distance = [(net(x) - net(X[:48])).norm(dim=1).mean() for x in (first, noise)]
    assert distance[0] > 1.1 * distance[1]
    assert torch.equal(plain.seen[0][0], X[:48])
    assert module.backbone.training
    assert all(p.requires_grad for p in module.parameters())


def test_a_probe_is_logged_and_evaluated_at_the_end() -> None:
    test = unshaken.DataSource("digits").load("test")[:60]
    evaluation = Evaluation(PGD(Linf(0.05), steps=1), batch_size=60)
    probe = RobustProbe(DIGITS, test, every=1, limit=30, evaluation=evaluation, mean=MEAN, std=STD)
    with_probe, without = fit(probe), fit()
    assert all(torch.equal(a, b) for a, b in zip(with_probe.parameters(), without.parameters(), strict=True))
    running = [module.backbone[1].running_mean for module in (with_probe, without)]
    assert torch.equal(*running)
    assert {*with_probe.metrics} == {"robust/standard", "robust/robust"}
    assert probe.result["standard"]["n"] == 60
    classifier = Probed(with_probe.backbone, probe.pixels, DIGITS, torch.device("cpu")).eval()
    right = classifier(test.floats()).argmax(1) == test.label
    assert probe.result["standard"]["correct"] == int(right.sum()) > 40
    assert probe.result["robust"]["correct"] < probe.result["standard"]["correct"]


def test_what_is_not_found_is_said() -> None:
    with pytest.raises(ValueError, match="Linear has no backbone or encoder: name its encoder"):
        encoder_of(nn.Linear(1, 1), None)
    assert encoder_of(nn.Sequential(nn.ReLU()), lambda module: module[0]).__class__ is nn.ReLU
    batch = {"idx": torch.arange(2), "x": [X[:2], (X[2:4],)], "y": torch.zeros(2)}
    assert [len(each) for each in images_in(batch)] == [2, 2]
