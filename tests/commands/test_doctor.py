"""`unshaken doctor` on runs and on checkpoints of others: what it says, and its exit code."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from tests.diagnostics.sound import Through, taught
from torch import nn

from unshaken import cli
from unshaken.base.rng import Key
from unshaken.data.digits import digits
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import load_classifier, save_classifier, save_encoder
from unshaken.nets.dual_bn import RoutedBatchNorm, single_route, with_routes
from unshaken.nets.network import Network, seeded

BACKBONE = Backbone("resnet-small", image_size=8, channels=1, mean=(0.5,), std=(0.5,))
ABOUT = {"finetune": {"recipe": {"data": {"type": "DataSource", "name": "digits"}}}, "pretrain": {}}


def written(folder: Path, net: Network) -> Path:
    """The encoder with its routes, and below it the run of a classifier on its adversarial one."""
    save_encoder(folder / "encoder.safetensors", net.encoder, BACKBONE, {})
    plain = Network(single_route(net.encoder, "adv"), net.head)
    save_classifier(folder / "slf" / "classifier.safetensors", plain, BACKBONE, digits("test").names, ABOUT)
    return folder / "slf"


@pytest.fixture(scope="module")
def net() -> Network:
    """Only its adversarial route was ever trained."""
    net = seeded(lambda: Network(with_routes(BACKBONE.build(), ("clean", "adv")), nn.Linear(64, 10)), Key(0))
    taught(Through(net, "adv"), epochs=3)
    return net


@pytest.fixture(scope="module")
def run(net, tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("run"), net)


def test_a_sound_run(run, capsys):
    assert cli.run(["doctor", str(run)]) == 0
    said = capsys.readouterr().out
    assert said.count("  fine\n") == 15
    assert "nothing found: 15 checks on 192 images, 48 of them attacked" in said
    assert re.search(r"always answering '\d' is right on \d+ of these images", said)
    assert "\x1b" not in said


def test_a_finding_is_an_exit_code_and_says_what_to_do(run, capsys):
    assert cli.run(["doctor", str(run), "--ball.eps", "0.0001", "--limit", "64", "--attacked", "0"]) == 1
    said = capsys.readouterr().out
    assert "eps            finding, likely\n" in said
    assert "\neps (likely)\nε = 0.0001 (l∞) is 0.026 of 255 grey levels" in said
    assert "\nWhat to do: " in said
    assert "1 finding: 11 checks on 64 images, 0 of them attacked" in said


def test_the_routes_of_the_encoder_beside_are_looked_at(net, tmp_path, capsys):
    """The untrained route, where it is taken for the adversarial one: what comes after that is left out."""
    other = deepcopy(net)
    for part in [part for part in other.modules() if isinstance(part, RoutedBatchNorm)]:
        part.routes["clean"], part.routes["adv"] = part.routes["adv"], part.routes["clean"]
    assert cli.run(["doctor", str(written(tmp_path, other) / "classifier.safetensors")]) == 1
    said = capsys.readouterr().out
    assert "6 of 6 batch norms in the route 'adv', of clean, adv, have the mean 0 and the variance 1" in said
    assert said.count("left out") == 10


def test_a_checkpoint_of_somebody_else(run, tmp_path, capsys):
    net, _ = load_classifier(run / "classifier.safetensors")
    weights = net.encoder.backbone.state_dict() | {f"fc.{name}": value for name, value in net.head.state_dict().items()}
    torch.save({"state_dict": weights}, tmp_path / "theirs.pt")
    how = ["--layout", "finetuned", "--image-size", "8", "--mean", "0.5", "--std"]
    assert cli.run(["doctor", str(tmp_path / "theirs.pt"), *how, "0.5", "--data", "digits", "--limit", "96"]) == 0
    assert "nothing found: 15 checks on 96 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["{run}/../encoder.safetensors"], "an encoder without a classifier"),
        (["nowhere"], "no file nowhere"),
        (["{run}", "--limit", "0"], "--limit is a whole number ≥ 1"),
        (["{run}", "--limmit", "3"], "did you mean --limit?"),
        (["{run}", "--ball.eps", "8"], "did you mean 8/255?"),
        ([], "CHECKPOINT"),
    ],
)
def test_mistakes_are_one_line(run, args, words, capsys):
    assert cli.run(["doctor", *(arg.format(run=run) for arg in args)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
