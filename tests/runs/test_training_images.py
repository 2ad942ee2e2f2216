"""A run is not tested on images that it has learned from, whatever happens to the folder in between."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fitted import least_squares, write_run
from PIL import Image

import unshaken
from unshaken import cli
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.json_files import write_json
from unshaken.data.source import DataSource, source_of
from unshaken.evaluation.protocol import Evaluation
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import read_tensors
from unshaken.recipes.finetune import Finetune
from unshaken.train.training_images import TrainingImages
from unshaken.transforms.views import CropFlip, SimCLRViews

BACKBONE = Backbone("resnet-small", image_size=8)
EXAM = Evaluation(PGD(Linf(0.1), steps=1))


def draw(folder: Path, count: int, seed: int = 0) -> None:
    """Pictures of pure noise, two classes of it."""
    rng = np.random.default_rng(seed)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for k in range(count):
            noise = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / name / f"{seed}-{k:03}.png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draw(tmp_path / "photos", 30)
    return tmp_path / "photos"


@pytest.fixture
def source(photos: Path, tmp_path: Path) -> DataSource:
    return DataSource(str(photos), str(tmp_path / "root"), size=8)


@pytest.fixture
def pretrain(source: DataSource, tmp_path: Path) -> Callable[..., Path]:
    def pretrain(name: str = "simclr", **fields: object) -> Path:
        recipe = replace(unshaken.recipe(f"{name}/digits"), data=source, backbone=BACKBONE, epochs=1, batch_size=32)
        views = SimCLRViews() if name == "simclr" else recipe.views
        return unshaken.pretrain(
            replace(recipe, views=views, **fields), unshaken.Workspace(tmp_path / "runs", quiet=True)
        )

    return pretrain


def finetune(encoder: Path, source: DataSource, **fields: object) -> Path:
    return unshaken.finetune(
        encoder,
        Finetune(data=source, views=CropFlip(padding=1), epochs=1, batch_size=32, **fields),
        unshaken.Workspace(quiet=True),
    )


def judged(run: Path, **how: object) -> dict:
    return unshaken.evaluate(run, evaluation=EXAM, **how, workspace=unshaken.Workspace(quiet=True))


def test_a_whole_course_has_no_overlap(pretrain: Callable[..., Path], source: DataSource, photos: Path) -> None:
    run = finetune(pretrain(), source)
    seen, test = TrainingImages.beside(run), set(source.load("test").image_digests.tolist())
    assert len(seen.finetune) == len(seen.pretrain) == len(source.load()) == 60 - len(test)
    assert judged(run)["seen"] == {"finetune": 0, "pretrain": 0}
    # such early-sorted pictures, or one that goes, moved many images to the other side where rank decided
    draw(photos, 1, seed=7)
    for name in ("cat", "dog"):
        (photos / name / "7-000.png").rename(photos / name / "!first.png")
    (photos / source.load().files[5]).unlink()
    assert judged(run)["seen"] == {"finetune": 0, "pretrain": 0}
    assert test <= set(source.load("test").image_digests.tolist())
    later = finetune(run.parent, source, seed=2)  # on the new images too
    assert len(TrainingImages.beside(later).finetune) > len(TrainingImages.beside(later).pretrain) - 1
    assert judged(later)["seen"] == {"finetune": 0, "pretrain": 0}


def test_images_that_were_learned_from_are_refused(
    pretrain: Callable[..., Path],
    source: DataSource,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = finetune(pretrain(), source)
    train = source.load()
    other = tmp_path / "other"
    for k, file in enumerate(train.files[:4]):  # four of its training images among others, each in another file
        (other / "test" / file).parent.mkdir(parents=True, exist_ok=True)
        Image.open(photos / file).save(other / "test" / Path(file).with_name(f"new{k}.bmp"))
    draw(other / "train", 2, seed=4)
    draw(other / "test", 3, seed=5)
    theirs = replace(source, name=str(other))
    with pytest.raises(
        ValueError,
        match=r"of the 10 test images of other, the classifier was fine-tuned on 4 \(test/.*new.*\), and its encoder "
        r"was pre-trained on 4 .*: evaluate on other images \(--data\), or say --allow-seen",
    ):
        judged(run, images=theirs)
    assert judged(run, images=theirs, allow_seen=True)["seen"] == {"finetune": 4, "pretrain": 4}
    assert "they are evaluated all the same" in capsys.readouterr().err
    assert cli.run(["doctor", str(run), "--data.name", str(other), "--attacked", "0"]) == 1
    assert "leak           finding, certain\n" in capsys.readouterr().out


def test_pre_training_on_all_images_leaves_none_to_test_on(pretrain: Callable[..., Path], source: DataSource) -> None:
    encoder = pretrain(split="all")
    assert len(TrainingImages.beside(encoder).pretrain) == 60
    run = finetune(encoder, source)
    with pytest.raises(ValueError, match="its encoder was pre-trained on"):
        judged(run)


def test_what_begins_with_an_encoder_has_seen_what_that_has(
    pretrain: Callable[..., Path], source: DataSource, tmp_path: Path
) -> None:
    first = pretrain(split="all")
    second = pretrain(seed=2, start=str(first))
    assert len(TrainingImages.beside(second).pretrain) == 60
    student = pretrain("deacl", teacher=str(first))
    assert len(TrainingImages.beside(student).pretrain) == 60


def test_an_encoder_without_a_note_is_not_known(
    pretrain: Callable[..., Path], source: DataSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = pretrain()
    (tmp_path / "encoder.safetensors").write_bytes((encoder / "encoder.safetensors").read_bytes())
    run = finetune(tmp_path / "encoder.safetensors", source)
    assert judged(run)["seen"] == {"finetune": 0, "pretrain": None}
    (run / "seen.safetensors").unlink()
    assert judged(run)["seen"] == {"finetune": None, "pretrain": None}
    assert cli.run(["doctor", str(run), "--attacked", "0"]) in (0, 1)
    assert "leak           fine\n" in capsys.readouterr().out  # held against the training images themselves
    other = tmp_path / "other"
    draw(other / "train", 2, seed=4)
    draw(other / "test", 3, seed=5)
    (other / "test" / "cat" / "copy.png").write_bytes(Path(source.name, source.load().files[0]).read_bytes())
    assert cli.run(["doctor", str(run), "--data.name", str(other), "--attacked", "0"]) == 1
    assert (
        "Pixel for pixel, of the 7 test images of other, the classifier was fine-tuned on 1" in capsys.readouterr().out
    )
    assert finetune(tmp_path / "encoder.safetensors", source) == run  # it is found finished, and noted anew
    assert len(TrainingImages.beside(run).finetune) == len(source.load())


def test_images_kept_aside_stay_aside_when_the_folder_changes(
    pretrain: Callable[..., Path], source: DataSource, photos: Path
) -> None:
    run = finetune(pretrain(), source, holdout=5)
    before = judged(run, held_out=True)
    assert before["seen"] == {"finetune": 0, "pretrain": None}
    draw(photos, 10, seed=3)
    after = judged(run, held_out=True)
    assert after["seen"]["finetune"] == 0
    assert after["standard"]["n"] >= before["standard"]["n"]


def test_known_sets_are_judged_as_they_were_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits, run = DataSource("digits"), write_run(tmp_path, least_squares(0))
    test = digits.load("test").image_digests
    TrainingImages(np.sort(test[:3].numpy()), None).write(run)
    assert judged(run)["seen"] == {"finetune": 3, "pretrain": None}
    assert "of the 445 test images of digits, the classifier was fine-tuned on 3; they are" in capsys.readouterr().err


def test_a_note_of_something_else_is_refused(tmp_path: Path) -> None:
    TrainingImages(np.arange(3)).write(tmp_path)
    assert read_tensors(tmp_path / "seen.safetensors")[1]["kind"] == "seen"
    assert (TrainingImages.beside(tmp_path).finetune.tolist(), TrainingImages.beside(tmp_path).pretrain) == (
        [0, 1, 2],
        None,
    )
    (tmp_path / "seen.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="seen.safetensors"):
        TrainingImages.beside(tmp_path)


@pytest.mark.parametrize("exists", [False, True])
def test_a_source_in_a_file_leads_to_no_download_and_no_folder(exists: bool, tmp_path: Path) -> None:
    root = tmp_path / "somewhere"
    if exists:
        root.mkdir()
    saved = {"type": "DataSource", "name": "cifar10", "root": str(root), "download": True, "size": 16}
    write_json(tmp_path / "recipe.json", {})
    assert source_of(saved, tmp_path) == DataSource("cifar10", size=16)
    (root / "cache").mkdir(parents=True)  # where decoded images of this root are
    assert source_of(saved, tmp_path) == DataSource("cifar10", str(root), size=16)
    assert source_of(saved) == DataSource("cifar10", size=16)
    assert not source_of(saved, tmp_path).download
    with pytest.raises(ValueError, match=r"the recipe's data.*size"):
        source_of(saved | {"size": "16"})


def test_a_pair_of_arrays_is_judged() -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    x, y = np.random.default_rng(0).random((6, 3, 2, 2)), [0, 1, 2, 0, 1, 2.0]
    assert unshaken.evaluate(net, (x, y), EXAM, workspace=unshaken.Workspace(quiet=True))["standard"]["n"] == 6
