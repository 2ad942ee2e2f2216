"""Adversarial views and a robust probe in a Lightning training, as one has it with lightly or solo-learn.

python examples/lightning_callbacks.py [FOLDER]      (extra: lightning)
"""

import sys
import warnings

warnings.simplefilter("ignore")
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import unshaken
from unshaken.attacks import PGD, Linf
from unshaken.losses import nt_xent
from unshaken.runs.lightning import AdversarialViews, RobustProbe

import pytorch_lightning as pl  # isort: skip

pixels, label = load_digits(return_X_y=True)
x, y = torch.tensor(pixels).float().view(-1, 1, 8, 8) / 16, torch.tensor(label)


class SimCLR(pl.LightningModule):
    """An encoder in `backbone`, two views in a batch, and the contrastive loss: what such modules have in common."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(32 * 16, 64)

    def training_step(self, batch, batch_idx):
        views, _ = batch
        return nt_xent(torch.stack([self.head(self.backbone(view)) for view in views]), 0.5)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def two_views(rows):
    images, labels = (torch.stack(column) for column in zip(*rows, strict=True))
    return [(images + 0.1 * torch.randn_like(images)).clamp(0, 1) for _ in range(2)], labels


evaluation = unshaken.Evaluation(PGD(Linf(0.1), steps=5))
train, test = (x[:512], y[:512]), (x[1200:1400], y[1200:1400])
probe = RobustProbe(train, test, every=1, limit=100, evaluation=evaluation)
trainer = pl.Trainer(
    max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False, default_root_dir=sys.argv[1] if len(sys.argv) > 1 else "runs",
    callbacks=[AdversarialViews(PGD(Linf(0.1), steps=2)), probe],
)  # fmt: skip
trainer.fit(SimCLR(), DataLoader(TensorDataset(x[:512], y[:512]), 128, shuffle=True, collate_fn=two_views))
print("logged:", {name: f"{float(value):.1f} %" for name, value in trainer.callback_metrics.items()})
print(f"at the end: {probe.result['robust']['correct']} of {probe.result['robust']['n']} withstand the attack")
