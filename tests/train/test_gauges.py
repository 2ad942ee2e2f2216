"""Gauges: each against its definition in float64; they change no bit of a run, and warn of what goes wrong."""

import json
from dataclasses import replace
from math import exp, log
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import unshaken
from unshaken.attacks.ball import Linf
from unshaken.base.json_files import read_json
from unshaken.base.serialize import to_json
from unshaken.losses import representation
from unshaken.nets.network import Encoder, Network, Normalize
from unshaken.train.gauges import BANK, COUNT, STEPS, GaugeOptions, Gauges, every_by_cost
from unshaken.train.image_sets import hold_out
from unshaken.transforms.views import SimCLRViews

RNG = torch.Generator().manual_seed(0)
F, BANK_F = torch.randn(12, 5, generator=RNG), torch.randn(30, 5, generator=RNG)


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a.double() @ b.double()) / a.double().norm() / b.double().norm())


def test_measures_are_their_definitions() -> None:
    sigma = torch.linalg.svdvals(F.double())
    p = (sigma / sigma.sum()).tolist()
    assert representation.effective_rank(F) == pytest.approx(exp(-sum(each * log(each) for each in p)), rel=1e-5)
    assert representation.effective_rank(torch.ones(9, 3)) == pytest.approx(1, abs=1e-4)
    pairs = [2 - 2 * cosine(a, b) for k, a in enumerate(F) for b in F[k + 1 :]]
    assert representation.uniformity(F) == pytest.approx(log(sum(exp(-2 * d) for d in pairs) / len(pairs)), rel=1e-5)
    moved = F + 0.5
    assert representation.alignment(torch.stack([F, moved])) == pytest.approx(
        sum(2 - 2 * cosine(a, b) for a, b in zip(F, moved, strict=True)) / len(F), rel=1e-5
    )
    nearest = [[max(range(30), key=lambda k, a=a: cosine(a, BANK_F[k])) for a in f] for f in (F, moved)]
    flips = sum(a != b for a, b in zip(*nearest, strict=True)) / len(F)
    assert 0 < flips < 1
    assert representation.neighbour_flips(moved, F, BANK_F) == pytest.approx(flips)
    y, labels = torch.arange(12) % 3, torch.arange(30) % 3
    right = 0
    for a, own in zip(F, y.tolist(), strict=True):
        top = sorted(range(30), key=lambda k, a=a: -cosine(a, BANK_F[k]))[:7]
        votes = [sum(exp(cosine(a, BANK_F[k]) / 0.07) for k in top if k % 3 == c) for c in range(3)]
        right += votes.index(max(votes)) == own
    assert representation.knn_accuracy(F, y, BANK_F, labels, k=7) == pytest.approx(right / 12)
    distances = sorted((a.double() - b.double()).norm().item() for k, a in enumerate(F) for b in F[k + 1 :])
    median = distances[(len(distances) - 1) // 2]
    assert representation.displacement(moved, F) == pytest.approx(0.5 * 5**0.5 / median, rel=1e-5)


IMAGES = unshaken.DataSource("digits").load("train")[:64]
QUICK = replace(unshaken.recipe("acl/digits"), epochs=2, batch_size=64, data=unshaken.DataSource("digits", limit=128))


def test_held_out_images_are_not_trained_on_and_gauges_are_taken_on_them(tmp_path: Path) -> None:
    recipe = replace(QUICK, epochs=1, holdout=3)
    assert "holdout" not in to_json(QUICK)  # recipes without it keep their names and digests
    run = unshaken.pretrain(recipe, unshaken.Workspace(tmp_path, quiet=True, gauges=GaugeOptions(1)))
    images = recipe.data.load("train")
    kept, held = hold_out(images, 3)
    assert len(kept) + len(held) == 128
    assert 32 <= len(held) < 60
    assert not {*kept.image_digests.tolist()} & {*held.image_digests.tolist()}
    assert read_json(run / "recipe.json")["data"]["images"]["n"] == len(kept)
    logged = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    (found,) = [line for line in logged if "gauges/displacement" in line]
    encoder = unshaken.load_encoder(run)[0]
    net = Network(encoder, nn.Identity())
    gauges = Gauges(held, recipe.views, recipe.method.attack.ball, 1)
    assert gauges.measure(net)["gauges/effective_rank"] == pytest.approx(found["gauges/effective_rank"], rel=1e-3)
    with pytest.raises(ValueError, match="--holdout holds out 1?[0-9] images?, and gauges need 32"):
        unshaken.pretrain(replace(recipe, holdout=30), unshaken.Workspace(tmp_path, quiet=True))
    with pytest.raises(ValueError, match="holdout is 0, or 2 and more"):
        replace(recipe, holdout=1)


def test_a_run_is_the_same_with_gauges(tmp_path: Path) -> None:
    runs = [
        unshaken.pretrain(QUICK, unshaken.Workspace(tmp_path / str(every), quiet=True, gauges=GaugeOptions(every)))
        for every in (0, 1)
    ]
    ends = [read_json(run / "run.json") for run in runs]
    assert ends[0]["digest"] == ends[1]["digest"]
    assert runs[0].name == runs[1].name
    assert "gauges" in ends[1]["spent"]
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in runs]
    assert [[key for key in line if key.startswith("gauges/")] for line in logs[0]] == [[], []]
    for line in logs[1]:
        assert 1 <= line["gauges/effective_rank"] <= 170
        assert line["gauges/displacement"] > 0
        assert {"gauges/knn", "gauges/alignment", "gauges/neighbour_flips", "gauges/divergence"} <= {*line}
    assert [line["loss"] for line in logs[0]] == [line["loss"] for line in logs[1]]
    assert "gauges/displacement" in (runs[1] / "curve.svg").read_text()
    assert [
        epoch for epoch in range(1, 9) if Gauges.of(GaugeOptions(3), IMAGES, SimCLRViews(), Linf(0.1)).due(epoch)
    ] == [3, 6]


class Flat(nn.Module):
    """All images have nearly the same features."""

    def forward(self, x: Tensor) -> Tensor:
        return 1 + 1e-3 * x.flatten(1)


def measured(net: nn.Module, ball: float, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, float], str]:
    images = unshaken.DataSource("digits").load("train")[:300]
    network = Network(Encoder(Normalize((0.0,), (1.0,)), net, 64), nn.Identity())
    gauges = Gauges.of(GaugeOptions(1), images, SimCLRViews(), Linf(ball))
    found = [gauges.measure(network) for _ in range(2)]
    assert found[0] == found[1]
    return found[0], capsys.readouterr().err


def test_a_collapse_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    found, said = measured(Flat(), 0.1, capsys)
    assert found["gauges/effective_rank"] < 1.5
    assert said.count("warning: the features collapse: their effective rank is 1.0") == 1


def test_overfitting_to_one_step_is_said_once(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    found, said = measured(nn.Flatten(), 0.1, capsys)
    ratio = found["gauges/displacement"] / found["gauges/displacement_one_step"]
    assert (said, ratio) == ("", pytest.approx(1, abs=0.2))
    attacked = Gauges._attacked
    monkeypatch.setattr(
        Gauges, "_attacked", lambda self, e, x, f, steps: f if steps == 1 else attacked(self, e, x, f, steps)
    )
    _, said = measured(nn.Flatten(), 0.3, capsys)
    assert said.count("times as far as one step: catastrophic overfitting") == 1


def test_the_default_costs_at_most_two_percent() -> None:
    work = COUNT + BANK + 4 * COUNT + 3 * (STEPS + 1) * COUNT
    for images, views in ((1437, 2), (50_000, 2), (1_281_167, 4)):
        every = every_by_cost(images, views)
        assert work <= 0.02 * every * 3 * views * images
        assert every == 1 or work > 0.02 * (every - 1) * 3 * views * images
    assert every_by_cost(50_000, 2) == 1
    few = unshaken.DataSource("digits").load("train")[:31]
    assert Gauges.of(GaugeOptions(1), few, SimCLRViews(), Linf(0.1)) is None
    assert Gauges.of(GaugeOptions(0), few, SimCLRViews(), Linf(0.1)) is None
