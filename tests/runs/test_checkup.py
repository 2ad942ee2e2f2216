"""A check-up without labels: every number where it is known in closed form, and the files of the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from unshaken import cli
from unshaken.base.rng import Key
from unshaken.data.images import Images
from unshaken.evaluation.embedding_drift import Drift, Gallery, in_metric
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import save_encoder
from unshaken.nets.network import Encoder, Normalize, seeded
from unshaken.report.checkup_page import page
from unshaken.runs import checkup as running
from unshaken.runs.checkup import Checkup, checkup


def on_a_line(count: int = 20) -> Gallery:
    """Embeddings (k, 1), each at distance 1 from its neighbours, but that 0 and 1 are a half apart."""
    z = torch.stack([torch.arange(float(count)), torch.ones(count)], 1)
    z[0, 0] = 0.5
    return Gallery.of(z, "l2")


def moved(gallery: Gallery, index: list[int], by: float) -> Tensor:
    return gallery.z[index] + torch.tensor([by, 0.0], dtype=torch.float64)


def test_drift_is_in_units_of_the_distance_to_the_nearest_other_image():
    gallery = on_a_line()
    found = Drift.of(gallery, torch.tensor([0, 10]), moved(gallery, [0, 10], 0.2))
    assert found.relative.tolist() == pytest.approx([0.4, 0.2])
    assert found.lost.tolist() == [False, False]
    found = Drift.of(gallery, torch.tensor([0, 10]), moved(gallery, [0, 10], 0.3))
    assert found.relative.tolist() == pytest.approx([0.6, 0.3])
    assert found.lost.tolist() == [True, False]  # 0.8 is nearer to 1 than to 0.5


def test_neighbours_and_hash_bits():
    gallery = on_a_line()
    still = Drift.of(gallery, torch.tensor([3, 12]), gallery.z[[3, 12]])
    assert (still.kept.tolist(), still.bits.tolist(), still.flipped.tolist()) == ([1, 1], [0, 0], [False, False])
    # the nearest ten of 10.4 beside 10 itself: 5 to 15 become 5.. no longer, 6 to 15 and 16 or 5
    found = Drift.of(gallery, torch.tensor([10]), moved(gallery, [10], 1.2))
    assert found.lost.tolist() == [True]
    assert 0.8 <= float(found.kept) < 1
    across = Drift.of(gallery, torch.tensor([9]), moved(gallery, [9], 2.0))
    assert gallery.axes.shape == (2, 2)
    assert float(across.bits) == pytest.approx(0.5)  # the mean lies at 9.5: one of two bits, for the other is constant


def test_below_a_half_the_identity_cannot_be_lost():
    z = torch.randn(300, 8, generator=Key("z").on("cpu"))
    for metric in ("cosine", "l2"):
        gallery, index = Gallery.of(z, metric), torch.arange(300)
        noise = torch.randn(z.shape, generator=Key("n").on("cpu"))
        found = Drift.of(gallery, index, in_metric(z + 0.4 * noise, metric))
        below = found.relative < 0.5
        assert 20 < int(below.sum()) < 280
        assert not bool((found.lost & below).any())
        assert bool(found.lost.any())


def test_cosine_is_that_of_the_definition():
    z = torch.eye(12)
    turned = torch.roll(z, 1, 1) + z
    found = Drift.of(Gallery.of(z), torch.arange(12), in_metric(turned, "cosine"))
    assert found.cosine.tolist() == pytest.approx([1 - 0.5**0.5] * 12)


def test_the_summary_counts_and_ranks():
    values = torch.linspace(0, 1, 21, dtype=torch.float64)
    lost = torch.arange(21) < 5
    found = Drift(values, values, lost, ~lost, values, values).summary()
    assert (found["lost"]["count"], found["flipped"]["count"], found["n"]) == (5, 16, 21)
    assert found["relative"] == {"median": 0.5, "p95": 0.95, "worst": 1.0}
    assert found["kept"] == {"median": 0.5, "p95": pytest.approx(0.05), "worst": 0.0, "mean": pytest.approx(0.5)}
    assert found["lost"]["low"] < 100 * 5 / 21 < found["lost"]["high"]


def test_a_gallery_has_neighbours():
    with pytest.raises(ValueError, match="needs 12 images or more, and these are 11"):
        Gallery.of(torch.randn(11, 4))


class Mean(nn.Module):
    """The embedding (mean of all pixels, 1): an l∞ attack moves it by ε, its closed form."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x.mean((1, 2, 3)), torch.ones(len(x))], 1)


def test_an_attack_reaches_the_closed_form(monkeypatch):
    backbone = Backbone("resnet-small", 8, mean=(0.0,) * 3, std=(1.0,) * 3)
    encoder = Encoder(Normalize((0.0,) * 3, (1.0,) * 3), Mean(), 2)
    monkeypatch.setattr(running, "encoder_of", lambda word: (encoder, backbone))
    levels = np.linspace(60, 190, 40).round().astype(np.uint8)
    images = Images.of(np.broadcast_to(levels[:, None, None, None], (40, 3, 8, 8)).copy(), name="grey")
    how = Checkup(40, 40, (2 / 255,), 10, (), metric="l2", worst=3)
    found = checkup("x", images, how, quiet=True)
    attack, noise = found.report["changes"]
    assert (attack["change"], noise["change"]) == ("attack 2/255", "noise 2/255")
    steps = np.diff(np.unique(levels))
    assert attack["relative"]["worst"] == pytest.approx(2 / steps.min(), rel=1e-3)
    assert noise["relative"]["worst"] < 0.3 * attack["relative"]["worst"]
    assert found.worst.shape == (6, 3, 8, 8)
    assert np.abs(found.worst[0].astype(int) - found.worst[1]).max() == 2


def test_the_command_writes_numbers_and_a_page(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    draws = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for k in range(16):
        Image.fromarray(draws.integers(0, 256, (12, 12, 3), np.uint8)).save(tmp_path / f"photos/{k}.png")
    backbone = Backbone("resnet-small", 8)
    for name, key in (("a", 0), ("b<i>", 1)):
        encoder = seeded(backbone.build, Key(key)).eval()
        save_encoder(tmp_path / f"{name}.safetensors", encoder, backbone, {"pretrain": {}})
    few = ["--gallery", "16", "--queries", "4", "--eps", "1/255", "--steps", "2", "--corruptions", "fog"]
    args = ["checkup", "a.safetensors", "--data", "photos", *few, "--severities", "1", "--before", "b<i>.safetensors"]
    assert cli.run(args) == 0
    report = json.loads((tmp_path / "a/checkup-photos/checkup.json").read_text())
    assert [each["change"] for each in report["changes"]] == ["attack 1/255", "noise 1/255", "fog 1"]
    assert report["before"]["encoder"]["digest"] != report["encoder"]["digest"]
    text = (tmp_path / "a/checkup-photos/checkup.html").read_text()
    assert "b&lt;i&gt;" in text
    assert "b<i>" not in text
    assert "→" in text
    assert "data:image/png;base64," in text
    with Image.open(tmp_path / "a/checkup-photos/worst.png") as sheet:
        assert sheet.size[0] > 8
    assert "identity lost" in capsys.readouterr().out
    assert page(report).count("<tr>") == 4


def test_images_are_named(capsys):
    assert cli.run(["checkup", "x"]) == 2
    assert "name the images by --data" in capsys.readouterr().err
