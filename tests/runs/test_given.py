"""Images of a user's own program are trained and tested on; their content names the run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

import unshaken
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.json_files import read_json
from unshaken.data.given import GivenImages
from unshaken.evaluation.protocol import Evaluation

PIXELS, LABEL = load_digits(return_X_y=True)
PIXELS = (PIXELS.reshape(-1, 8, 8) / 16).astype(np.float32)
TRAIN, TEST = slice(0, 96), slice(1000, 1060)
MINE = unshaken.Images.of(PIXELS[TRAIN], LABEL[TRAIN], name="mine")
QUICK = replace(unshaken.recipe("simclr/digits"), epochs=1, batch_size=48)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def workspace(root: Path) -> unshaken.Workspace:
    return unshaken.Workspace(root, quiet=True)


@pytest.fixture(scope="module")
def encoder(workspace: unshaken.Workspace) -> Path:
    return unshaken.pretrain(QUICK, workspace, data=MINE)


@pytest.fixture(scope="module")
def classifier(encoder: Path) -> Path:
    recipe = replace(unshaken.finetune_recipe(encoder, "slf"), epochs=1, batch_size=48)
    return unshaken.finetune(encoder, recipe, unshaken.Workspace(quiet=True), data=MINE)


def test_equal_images_name_the_same_run(encoder: Path, workspace: unshaken.Workspace) -> None:
    before = (encoder / "encoder.safetensors").stat().st_mtime_ns
    torches = TensorDataset(torch.from_numpy(PIXELS[TRAIN])[:, None], torch.from_numpy(LABEL[TRAIN]))
    again = unshaken.Images.of(torches, name="mine")
    assert unshaken.pretrain(QUICK, workspace, data=again) == encoder
    assert (encoder / "encoder.safetensors").stat().st_mtime_ns == before
    other = unshaken.DataSource.of(replace(MINE, pixels=MINE.pixels.flip(0)))
    assert other.given.digest != unshaken.DataSource.of(MINE).given.digest
    saved = read_json(encoder / "recipe.json")["recipe"]["data"]
    assert saved["given"] == {"type": "GivenImages", "digest": MINE.digest}


def test_a_pair_of_arrays_is_enough(classifier: Path) -> None:
    evaluation = Evaluation(PGD(Linf(0.05), steps=1), batch_size=60)
    quiet = unshaken.Workspace(quiet=True)
    result = unshaken.evaluate(classifier, (PIXELS[TEST], LABEL[TEST]), evaluation, quiet)
    assert (result["standard"]["n"], result["seen"]) == (60, {"finetune": 0, "pretrain": 0})
    with pytest.raises(ValueError, match="the classifier was fine-tuned on 96, .* evaluate on other images"):
        unshaken.evaluate(classifier, (PIXELS[TRAIN], LABEL[TRAIN]), evaluation, quiet)
    assert unshaken.doctor(classifier, (PIXELS[TEST], LABEL[TEST]), limit=32, attacked=0)


def test_what_is_missing_is_said(encoder: Path, classifier: Path, workspace: unshaken.Workspace) -> None:
    with pytest.raises(ValueError, match="mine was given in Python and is in no file: give the images again"):
        unshaken.finetune(encoder, "slf", workspace)
    with pytest.raises(ValueError, match="has no test images: give those too"):
        unshaken.evaluate(classifier)
    with pytest.raises(ValueError, match=r"8 x 6 pixels: Images\.of\(\.\.\., size=6\)"):
        GivenImages.of(PIXELS[:4, :, :6])


def test_another_size_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    large = unshaken.Images.of(PIXELS[:64].repeat(2, 1).repeat(2, 2))
    recipe = replace(QUICK, batch_size=32)
    unshaken.pretrain(recipe, unshaken.Workspace(tmp_path, quiet=True), data=large)
    assert "images of 16 pixels, and the network is made for 8: they are used as they are" in capsys.readouterr().err
