"""Extra image sets: what an epoch sees of each, one set of them all, and how a run records them."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unshaken
from unshaken import cli
from unshaken.base.rng import Key
from unshaken.base.safe_text import without_paths
from unshaken.base.schedule import Constant
from unshaken.base.serialize import short_hash, to_json
from unshaken.data.images import Images
from unshaken.options import extra_data
from unshaken.train import mixture as module
from unshaken.train.batches import BatchStream
from unshaken.train.mixture import Mixture, extra_set, joined
from unshaken.train.training_images import TrainingImages
from unshaken.transforms.views import CropFlip


def some(count: int, seed: int, name: str = "some") -> Images:
    pixels = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 1, 8, 8), np.uint8))
    return Images(pixels, torch.arange(count) % 2, ("a", "b"), name, "train")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two folders: 24 photos, and 20 synthetic images."""
    root = tmp_path_factory.mktemp("sets")
    for name, count in (("photos", 24), ("synthetic", 20)):
        (root / name).mkdir()
        for k, image in enumerate(some(count, count).pixels):
            Image.fromarray(image[0].numpy()).save(root / name / f"{k:02}.png")
    return {name: root / name for name in ("photos", "synthetic")}


def test_an_epoch_sees_images_by_their_weights() -> None:
    mixture = Mixture((10, 8, 5), (1.0, 0.5, 2.4))
    epochs = [mixture.rows(Key(1) / "mixture" / epoch).tolist() for epoch in range(40)]
    assert len(mixture) == len(epochs[0]) == 10 + 4 + 12
    for rows in epochs:
        seen = Counter(rows)
        assert [seen[row] for row in range(10)] == [1] * 10
        assert sorted(seen[row] for row in range(10, 18)) == [0] * 4 + [1] * 4
        assert sorted(seen[row] for row in range(18, 23)) == [2, 2, 2, 3, 3]
    often = Counter(row for rows in epochs for row in rows if 10 <= row < 18)
    assert all(8 <= often[row] <= 32 for row in range(10, 18)), "others in each epoch"
    assert mixture.rows(Key(1) / "mixture" / 3).tolist() == epochs[3]


def test_a_feed_takes_what_the_mixture_says() -> None:
    images = joined([some(10, 0), some(8, 1)])
    feed = BatchStream(images, CropFlip(padding=1), Constant(1.0), 7, 3, Key(0), mixture=Mixture((10, 8), (1.0, 0.5)))
    assert (feed.count, len(feed)) == (14, 2)
    for epoch in range(2):
        order = feed.order(epoch)
        assert sorted(order.tolist()) == sorted(feed.mixture.rows(feed.key / "mixture" / epoch).tolist())
        assert order.tolist() != sorted(order.tolist())
    plain = BatchStream(images, CropFlip(padding=1), Constant(1.0), 7, 3, Key(0))
    assert sorted(plain.order(0).tolist()) == list(range(18))


def test_the_joined_set_has_the_images_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = [some(4, 0, "a"), some(3, 1, "b"), some(2, 2, "c")]
    held = joined(sets)
    monkeypatch.setattr(module, "IN_MEMORY_LIMIT", 0)
    kept = joined(sets)
    assert (held.in_file, kept.in_file, held.label, held.name) == (False, True, None, "a + b + c")
    assert torch.equal(kept.pixels[:], held.pixels)
    assert torch.equal(held.pixels, torch.cat([each.pixels for each in sets]))
    assert torch.equal(held.image_digests, torch.cat([each.image_digests for each in sets]))
    assert held.digest == kept.digest != joined(sets[::-1]).digest
    assert joined(sets[:1]) is sets[0]


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("photos", ("photos", 1.0)),
        ("a/b:0.5", ("a/b", 0.5)),
        ("C:/photos", ("C:/photos", 1.0)),
        ("x:y:2", ("x:y", 2.0)),
    ],
)
def test_names_and_weights(word: str, found: tuple[str, float]) -> None:
    assert extra_set(word) == found


@pytest.mark.parametrize("word", ["", "a:0", "a:-1", "a:nan", "a:inf", ":2"])
def test_weights_that_are_none(word: str) -> None:
    with pytest.raises(ValueError, match="--extra takes NAME or NAME:WEIGHT with a weight above 0"):
        extra_set(word)


def test_a_second_data_is_extra() -> None:
    assert extra_data(["--data", "a", "--epochs", "3", "--data", "b:0.5", "--data=c"]) == [
        *("--data.name", "a", "--epochs", "3", "--extra", "b:0.5", "c")
    ]
    assert extra_data(["--extra", "b", "--data", "a"]) == ["--data.name", "a", "--extra", "b"]
    assert extra_data(["--data", "a"]) == ["--data.name", "a"]


def test_a_run_records_extra_images_apart_and_as_training_images(photos: dict[str, Path], tmp_path: Path) -> None:
    extra = f"{photos['synthetic']}:0.5"
    simclr = unshaken.recipe("simclr/digits")
    rgb = replace(simclr.backbone, channels=3, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    source = unshaken.DataSource(str(photos["photos"]), str(tmp_path))
    recipe = replace(simclr, data=source, backbone=rgb, epochs=1, batch_size=16, extra=(extra,))
    run = unshaken.pretrain(recipe, unshaken.Workspace(tmp_path, quiet=True))
    saved = json.loads((run / "recipe.json").read_text())
    assert saved["recipe"]["extra"] == [extra]
    assert without_paths(saved["recipe"])["extra"] == ["synthetic:0.5"]
    assert (saved["data"]["images"]["name"], saved["data"]["images"]["n"]) == ("photos", 24)
    assert [(each["name"], each["n"]) for each in saved["data"]["extra"]] == [("synthetic", 20)]
    assert json.loads((run / "log.jsonl").read_text().splitlines()[-1])["step"] <= 2, "34 images are two batches"
    seen = TrainingImages.beside(run)
    for name, count in (("photos", 24), ("synthetic", 20)):
        images = unshaken.DataSource(str(photos[name]), str(tmp_path), size=8).load()
        assert int(seen.overlap(images).pretrain.sum()) == count
    assert "extra" not in to_json(simclr)
    assert short_hash(replace(simclr, extra=())) == short_hash(simclr) != short_hash(replace(simclr, extra=("x",)))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["acl/digits", "--data", "digits", "--data", "./digits"], "no image set './digits'"),
        (["acl/digits", "--data", "digits", "--data", "digits:2"], "digits is among the training images already"),
        (["acl/digits", "--extra", "x:0"], "--extra takes NAME or NAME:WEIGHT"),
        (["st/digits", "--extra", "x"], "st learns from labels, and extra images have none"),
        (["acl-rcs/digits", "--extra", "x:2"], "a coreset is chosen among all images"),
    ],
)
def test_mistakes(args: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["pretrain", *args, "--out", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err
