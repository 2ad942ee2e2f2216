"""The rows on natural images: their recipes, a row from images to its result, and the page that quotes the results."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bench.air_forms import Kept, MeasuredACL
from bench.evidence import ROWS, Evidence, PatchWRN, Row, recipe
from PIL import Image

import unshaken
from bench import evidence, evidence_page
from unshaken.base.json_files import read_json
from unshaken.methods.acl import ACL

ROOT = Path(__file__).parents[2]


def test_each_row_is_a_recipe_of_its_own_on_the_same_network():
    recipes = {name: row.recipe() for name, row in ROWS.items()}
    assert {one.backbone.name for one in recipes.values()} == {"bench.evidence:PatchWRN"}
    assert {one.batch_size for one in recipes.values()} == {250}
    assert len({repr(one) for one in recipes.values()}) == len(recipes)
    assert {row.teacher for row in ROWS.values()} <= {None, *ROWS}
    attacked = {name: one.method.attack.steps for name, one in recipes.items() if hasattr(one.method, "attack")}
    assert attacked
    assert set(attacked.values()) == {evidence.STEPS}
    assert all(recipes[f"acl-air-{form}"].method.acl.attack.steps == 2 for form in ("kl", "normalized", "released"))


def test_the_network_sees_patches():
    net = PatchWRN()
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 256)
    assert net.net.conv1(torch.rand(1, 3, 32, 32)).shape[-2:] == (8, 8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 6)):
        for k in range(count):
            file = folder / part / "ab"[k % 2] / f"{k}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(file)
    return folder


@pytest.mark.extra
def test_a_row_goes_from_images_to_a_result_and_is_found_again(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evidence, "source", lambda data, out: unshaken.DataSource(str(data)))
    monkeypatch.setattr(evidence, "FEW", {"few": 4})
    small = Row(lambda: replace(recipe("simclr", 1), batch_size=6), {"slf": 3, "alf": 3, "few": 1})
    learned = Row(lambda: replace(recipe("deacl", 1), batch_size=6), {}, teacher="first")
    monkeypatch.setattr(evidence, "ROWS", {"first": small, "second": learned})
    rows = Evidence(photos, tmp_path, seed=2)
    rows.make("first")
    kept = tmp_path / "results/first-slf-seed2.json"
    result = read_json(kept)
    assert (result["standard"]["n"], result["seeds"]["pretrain"], result["pretrain"]["recipe"]["epochs"]) == (6, 2, 1)
    made = {
        mode: read_json(tmp_path / f"results/first-{mode}-seed2.json")["finetune"]["recipe"]
        for mode in ("slf", "alf", "few")
    }
    assert [one["data"]["limit"] for one in made.values()] == [None, None, 4]
    assert [one["method"]["type"] for one in made.values()] == ["SLF", "ALF", "AFF"]
    assert [one["method"]["attack"]["steps"] for one in made.values() if "attack" in one["method"]] == [2, 2]
    assert str(tmp_path) not in kept.read_text()
    assert not Path(result["pretrain"]["recipe"]["data"]["name"]).is_absolute()
    encoder = rows.encoder("second")
    assert read_json(encoder / "recipe.json")["recipe"]["teacher"]
    capsys.readouterr()
    rows.make("first")
    assert "epochs of" not in capsys.readouterr().err  # nothing was trained again
    assert read_json(kept) == result


@pytest.mark.extra
def test_the_terms_of_air_are_measured_beside_acl_and_change_nothing(photos, tmp_path):
    one = replace(recipe("acl", 1), batch_size=6, data=unshaken.DataSource(str(photos)))
    assert isinstance(one.method, ACL)
    kept = Kept()
    workspace = unshaken.Workspace(tmp_path, quiet=True)
    measured = unshaken.pretrain(replace(one, method=MeasuredACL(one.method)), workspace, observers=[kept])
    plain = unshaken.pretrain(one, workspace)
    a, b = (unshaken.load_encoder(run / "encoder.safetensors")[0].state_dict() for run in (measured, plain))
    same = [name for name in a if "running" not in name and "tracked" not in name]
    assert same
    assert all(torch.equal(a[name], b[name]) for name in same)
    assert all(kept.lines[-1][f"{form}_norm"] > 0 for form in ("kl", "normalized", "released"))


def test_the_page_quotes_the_results():
    page, found = (ROOT / "docs/evidence.md").read_text(), evidence_page.results(ROOT / "results/cifar10")
    assert found
    assert evidence_page.filled(page, found) == page
    assert page.count(" of 10,000) |") >= 2 * len(found)
    readme = (ROOT / "README.md").read_text()
    assert "| acl | " in readme
    assert evidence_page.filled(readme, found) == readme
    assert (ROOT / "docs/evidence.svg").read_text() == evidence_page.figure(found)


def test_means_are_those_of_the_counts_of_all_seeds():
    found = evidence_page.results(ROOT / "results/cifar10")
    (row,) = [line for line in evidence_page.means(found).splitlines() if line.startswith("| acl |")]
    files = sorted((ROOT / "results/cifar10").glob("acl-slf-seed*.json"))
    clean, attacked = (
        100 * sum(read_json(file)[score]["correct"] for file in files) / (10_000 * len(files))
        for score in ("standard", "robust")
    )
    assert row.split(" | ")[1] == f"{clean:.1f}, **{attacked:.1f}** ({len(files)})"
