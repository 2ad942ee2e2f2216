"""Features and predictions of a set, models by name, and what a hub gets and gives: no test opens the network."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unshaken
from unshaken import cli
from unshaken.nets.checkpoint import load_classifier, load_encoder
from unshaken.nets.dual_bn import merge_route
from unshaken.nets.locate import home_of, is_repo

QUIET = unshaken.Workspace(quiet=True)
hub = pytest.importorskip("huggingface_hub")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    base = unshaken.recipe("acl/digits")
    quick = replace(base, data=replace(base.data, limit=64), epochs=1, batch_size=32)
    run = unshaken.pretrain(quick, unshaken.Workspace(folder, quiet=True))
    tuned = unshaken.finetune(run, replace(unshaken.finetune_recipe(run, "slf"), epochs=1), QUIET)
    unshaken.evaluate(tuned, evaluation=unshaken.Evaluation(limit=20), workspace=QUIET)
    return run


@pytest.fixture(scope="module")
def classifier(run) -> Path:
    return next(run.glob("slf-*"))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_model_is_loaded_in_eval_mode_on_its_robust_route(run, classifier, x):
    model = unshaken.load(run)
    assert (model.kind, model.route, model.training) == ("encoder", "adv", False)
    encoder = load_encoder(run / "encoder.safetensors")[0]
    torch.testing.assert_close(model(x), merge_route(encoder, "adv")(x), rtol=0, atol=0)
    clean = unshaken.load(run, route="clean")
    torch.testing.assert_close(clean(x), merge_route(encoder, "clean")(x), rtol=0, atol=0)
    assert not torch.equal(clean(x), model(x))
    judge = unshaken.load(classifier / "classifier.safetensors")
    torch.testing.assert_close(judge(x), load_classifier(classifier / "classifier.safetensors")[0](x, "adv"))
    assert judge.names == tuple("0123456789")


def test_an_encoder_comes_back_from_a_folder_for_a_hub(run, x, tmp_path):
    model = unshaken.load(run)
    model.save_pretrained(tmp_path / "hub")
    again = unshaken.HubModel.from_pretrained(tmp_path / "hub")
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
    with pytest.raises(ValueError, match="floats in .0, 1., not torch.uint8"):
        again((255 * x).byte())


def test_a_folder_for_a_hub_comes_back_and_has_a_model_index(classifier, x, tmp_path):
    model = unshaken.load(classifier)
    model.save_pretrained(tmp_path / "hub")
    again = unshaken.HubModel.from_pretrained(tmp_path / "hub")
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
    card = hub.ModelCard.load(tmp_path / "hub" / "README.md")
    (file,) = classifier.glob("result*.json")
    result = json.loads(file.read_text())
    values = {each.metric_name.partition(",")[0]: each.metric_value for each in card.data.eval_results}
    assert values["clean accuracy"] == result["standard"]["percent"]
    assert values["robust accuracy (PGD-20"] == result["robust"]["percent"]
    again.save_pretrained(tmp_path / "hub")  # over itself
    torch.testing.assert_close(unshaken.load(tmp_path / "hub")(x), model(x), rtol=0, atol=0)


def test_push_to_hub_uploads_the_folder(classifier, monkeypatch):
    """What huggingface_hub is given: the three files, complete."""
    seen = {}
    monkeypatch.setattr(hub.HfApi, "create_repo", lambda self, repo_id, **_: type("Repo", (), {"repo_id": repo_id})())
    monkeypatch.setattr(
        hub.HfApi,
        "upload_folder",
        lambda self, folder_path, **named: seen.update({f.name: f.stat().st_size for f in Path(folder_path).iterdir()}),
    )
    unshaken.load(classifier).push_to_hub("me/model")
    assert set(seen) == {"model.safetensors", "config.json", "README.md"}
    assert min(seen.values()) > 100


def test_a_name_on_the_hub_is_taken_by_every_verb(run, classifier, x, tmp_path, monkeypatch, capsys):
    """With a download that is there already; what is made lies under runs/."""
    for path, name in ((run, "encoder"), (classifier, "classifier")):
        unshaken.load(path).save_pretrained(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "snapshot_download", lambda repo, **_: tmp_path / repo.partition("/")[2])
    torch.testing.assert_close(unshaken.load("me/encoder")(x), unshaken.load(run)(x), rtol=0, atol=0)
    assert cli.run(["finetune", "me/encoder", "--mode", "slf", "--epochs", "1", "--data.limit", "64"]) == 0
    assert list((tmp_path / "runs" / "me-encoder").glob("slf-digits-*/classifier.safetensors"))
    assert cli.run(["evaluate", "me/classifier", "--limit", "10", "--attack.steps", "1"]) == 0
    assert list((tmp_path / "runs").glob("me-classifier-*/result-steps1-first10.json"))
    assert {file.name for file in (tmp_path / "classifier").iterdir()} == {
        "model.safetensors",
        "config.json",
        "README.md",
    }
    assert cli.run(["doctor", "me/classifier", "--limit", "4", "--attacked", "0"]) in (0, 1)


def test_offline_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was opened"))
    assert cli.run(["evaluate", "me/model"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("unshaken: there is no path me/model here, and the Hub gave none: ")
    assert len(lines) == 2


def test_which_names_are_of_a_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert is_repo("me/model.v2")
    assert not any(
        map(is_repo, ("model", "mine/model", "runs/acl", "./me/model", "a/b/c", "timm/resnet18", "/me/model"))
    )
    assert home_of("me/model") == Path("runs/me-model")


def pictures(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name, count in (("b", 3), ("a", 4)):
        (folder / name).mkdir(parents=True)
        for k in range(count):
            Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8)).save(folder / name / f"{k}.png")


def test_features_of_a_set_are_those_of_the_model(run, tmp_path):
    images = unshaken.DataSource("digits").load("test")
    found = unshaken.embed(run, images[:50], batch_size=16, quiet=True)
    expected = unshaken.load(run)(images[:50].floats())
    np.testing.assert_allclose(found.values, expected.numpy(), rtol=1e-5, atol=1e-6)
    assert found.files[:2] == ("0", "1")


def test_a_folder_becomes_a_table_with_names(tmp_path, monkeypatch):
    """All images of it, whatever a test would take; written twice alike; in each form the same numbers."""
    pictures(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
    for suffix in ("csv", "npy", "parquet"):
        pytest.importorskip("pyarrow") if suffix == "parquet" else None
        for name in ("one", "two"):
            found = unshaken.embed(net, "photos", f"{name}.{suffix}", batch_size=3, quiet=True)
        assert Path(f"one.{suffix}").read_bytes() == Path(f"two.{suffix}").read_bytes()
    assert sorted(found.files) == sorted([f"a/{k}.png" for k in range(4)] + [f"b/{k}.png" for k in range(3)])
    rows = list(csv.reader(io.StringIO(Path("one.csv").read_text())))
    assert [row[0] for row in rows[1:]] == list(found.files) == Path("one.npy.txt").read_text().splitlines()
    np.testing.assert_allclose([[float(v) for v in row[1:]] for row in rows[1:]], found.values, rtol=1e-6)
    np.testing.assert_array_equal(np.load("one.npy"), found.values)
    from pyarrow import parquet

    table = parquet.read_table("one.parquet")
    np.testing.assert_array_equal(np.array(table["features"].to_pylist(), np.float32), found.values)
    first = np.asarray(Image.open(tmp_path / "photos" / found.files[0]).convert("RGB")).transpose(2, 0, 1) / 255
    expected = first.reshape(3, 2, 6, 2, 6).mean((2, 4)).ravel()
    np.testing.assert_allclose(found.values[0], expected, rtol=1e-5)


def test_predictions_have_classes_and_probabilities(classifier, tmp_path, capsys):
    assert cli.run(["predict", str(classifier), "--data", "digits", "--out", str(tmp_path / "p.csv"), "--quiet"]) == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "p.csv").read_text())))
    logits = unshaken.load(classifier)(unshaken.DataSource("digits").load("test").floats())
    assert [row["class"] for row in rows] == [str(k) for k in logits.argmax(1).tolist()]
    probabilities = [[float(row[f"p({k})"]) for k in range(10)] for row in rows]
    np.testing.assert_allclose(probabilities, logits.softmax(1), atol=1e-6)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["embed", "RUN", "--data", "digits"], "needs a file to write"),
        (["embed", "RUN", "--out", "x.csv"], "needs images: --data FOLDER"),
        (["embed", "RUN", "--data", "digits", "--out", "x.txt"], "ends in .parquet, .csv, .npy"),
        (["predict", "RUN", "--data", "digits", "--out", "x.csv"], "is no classifier with named classes"),
        (["embed", "RUN", "--data", "digits", "--out", "x.csv", "--route", "other"], "other"),
        (["embed", "RUN", "--data", "photos", "--out", "x.csv"], "photos has 3 channel(s), and the model reads 1"),
    ],
)
def test_mistakes(args, words, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "photos")
    assert cli.run([str(run) if word == "RUN" else word for word in args]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.glob("x.*"))
