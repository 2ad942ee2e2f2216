"""The public verbs in Python, one after the other on one small run: what each returns, writes and refuses."""

from dataclasses import replace

import numpy
import pytest
import torch

import unshaken
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.json_files import read_json, write_json
from unshaken.base.packed_bits import pack_bits
from unshaken.evaluation.result_file import read_result
from unshaken.nets.checkpoint import digest, read_tensors, write_tensors
from unshaken.nets.dual_bn import single_route

EVALUATION = unshaken.Evaluation(PGD(Linf(0.1), steps=2), batch_size=40, limit=80)
QUIET = unshaken.Workspace(quiet=True)


def short(recipe, **changes):
    """The recipe for one epoch on 256 digits."""
    return replace(recipe, data=unshaken.DataSource("digits", limit=256), epochs=1, batch_size=64, **changes)


class Adversarial(torch.nn.Module):
    """A network through its route of adversarial images, as a user would wrap it."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x, "adv")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    method = replace(unshaken.recipe("acl/digits").method, attack=PGD(Linf(0.1), 1))
    root = tmp_path_factory.mktemp("runs")
    return unshaken.pretrain(short(unshaken.recipe("acl/digits"), method=method), unshaken.Workspace(root, quiet=True))


@pytest.fixture(scope="module")
def classifier(encoder):
    return unshaken.finetune(encoder, short(unshaken.finetune_recipe(encoder, "slf")), QUIET)


@pytest.fixture(scope="module")
def result(classifier):
    return unshaken.evaluate(classifier, evaluation=EVALUATION, workspace=QUIET)


def test_a_recipe_may_be_given_by_its_name(monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr("unshaken.runs.pretrain.pretrain_encoder", lambda recipe, *others: given.append(recipe))
    unshaken.pretrain("acl/digits", unshaken.Workspace(tmp_path))
    assert given == [unshaken.recipe("acl/digits")]


def test_pretrain_writes_a_run_into_the_workspace_and_finds_it_finished(encoder):
    """The second call returns the same folder and writes nothing."""
    network, backbone, _ = unshaken.load_encoder(encoder / "encoder.safetensors")
    assert encoder.name.startswith("acl-digits-")
    assert network(torch.zeros(2, backbone.channels, 8, 8)).shape == (2, network.features)
    before = (encoder / "run.json").stat().st_mtime_ns
    method = replace(unshaken.recipe("acl/digits").method, attack=PGD(Linf(0.1), 1))
    again = short(unshaken.recipe("acl/digits"), method=method)
    assert unshaken.pretrain(again, unshaken.Workspace(encoder.parent, quiet=True)) == encoder
    assert (encoder / "run.json").stat().st_mtime_ns == before


def test_finetune_writes_its_run_beside_the_encoder(encoder, classifier):
    """SLF trains the head only: the encoder in the classifier is the pre-trained one."""
    assert classifier.parent == encoder
    assert classifier.name.startswith("slf-digits-")
    net, about = unshaken.load_classifier(classifier / "classifier.safetensors")
    assert len(about["names"]) == 10
    recipe = read_json(encoder / "recipe.json")["recipe"]
    assert about["pretrain"]["recipe"]["name"] == recipe["name"]
    trained, _, _ = unshaken.load_encoder(encoder / "encoder.safetensors")
    assert digest(net.encoder) == digest(single_route(trained, "adv"))


def test_finetune_goes_by_the_name_of_a_mode(encoder, monkeypatch):
    given = []
    monkeypatch.setattr("unshaken.runs.finetune.finetune_classifier", lambda recipe, *others: given.append(recipe))
    unshaken.finetune(encoder, "slf", QUIET)
    unshaken.finetune(encoder, "aff", QUIET)
    assert given == [unshaken.finetune_recipe(encoder, mode) for mode in ("slf", "aff")]
    with pytest.raises(ValueError, match="there is no mode 'slff'; there are slf, alf, aff"):
        unshaken.finetune(encoder, "slff", QUIET)


def test_evaluate_returns_what_its_file_says(classifier, result):
    file = classifier / f"{result['file']}.json"
    assert read_result(file) == read_json(file)
    assert {name: read_json(file)[name] for name in ("standard", "robust")} == {
        name: result[name] for name in ("standard", "robust")
    }
    assert result["standard"]["n"] == 80
    assert result["robust"]["correct"] <= result["standard"]["correct"]
    assert (classifier / "results").is_dir()


def test_evaluate_takes_a_module_and_a_pair_of_arrays(classifier, result, tmp_path):
    """The module of a run gets the run's verdicts; it keeps its mode, and writes nothing without a root."""
    net, _ = unshaken.load_classifier(classifier / "classifier.safetensors")
    images = unshaken.DataSource("digits").load("test")
    net.train()
    module = Adversarial(net)
    found = unshaken.evaluate(module, (images.floats(), images.label), EVALUATION, QUIET, name="mine")
    assert module.training
    assert found["method"] == "mine"
    assert found["standard"]["bits"] == result["standard"]["bits"]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="a classifier is a run, a module or a function, not a int"):
        unshaken.evaluate(3, images, EVALUATION, QUIET)


def test_verify_holds_for_a_result_and_fails_for_another_network(classifier, result, tmp_path):
    file = classifier / f"{result['file']}.json"
    check = unshaken.verify(file, sample=40, seed=1, quiet=True)
    assert check.holds
    assert check.agree == {"clean": 40, "pgd": 40}
    changed = read_json(file) | {"weights": "0" * 32}
    write_json(tmp_path / "result.json", changed)
    with pytest.raises(ValueError, match="is of weights 0000"):
        unshaken.verify(tmp_path / "result.json", run=classifier, quiet=True)


def test_verify_compares_a_network_with_its_fingerprint(classifier, encoder, tmp_path):
    """Changed weights fail; a file without a fingerprint is refused."""
    for run in (classifier, encoder):
        proof = unshaken.verify(run)
        assert proof.holds, list(proof.lines())
    tensors, about = read_tensors(classifier / "classifier.safetensors")
    changed = {name: tensor + 0.01 if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    write_tensors(tmp_path / "classifier.safetensors", changed, about)
    assert not unshaken.verify(tmp_path / "classifier.safetensors").holds
    del about["fingerprint"]
    write_tensors(tmp_path / "classifier.safetensors", tensors, about)
    with pytest.raises(ValueError, match="has no fingerprint"):
        unshaken.verify(tmp_path / "classifier.safetensors")


def test_doctor_checks_a_run_and_a_module(classifier):
    """A softmax at the end of a module is found; with attacked=0 there are no attacks."""
    of_run = {check.name: check for check in unshaken.doctor(classifier, limit=64, attacked=0)}
    assert not of_run["leak"].left_out
    assert not of_run["pixels"].finding
    assert "huge eps" not in of_run
    net, _ = unshaken.load_classifier(classifier / "classifier.safetensors")
    images = unshaken.DataSource("digits").load("test")
    softmax = torch.nn.Sequential(Adversarial(net), torch.nn.Softmax(1)).eval()
    found = {each.name: each for each in unshaken.doctor(softmax, images, Linf(0.1), limit=64, attacked=0)}
    assert "probabilities" in found["logits"].finding.says
    assert found["gradient"].left_out
    with pytest.raises(ValueError, match="a module has no images of its own"):
        unshaken.doctor(softmax)


def test_compare_takes_results_their_files_or_their_folders(classifier, result):
    """A result does not differ from itself. If all correct answers become wrong, that is a difference."""
    lines = unshaken.compare(result, classifier / f"{result['file']}.json")
    assert [line.score for line in lines] == ["standard accuracy", "robust accuracy (PGD)"]
    assert all(line.p == 1 and line.a == line.b for line in lines)
    score = result["standard"]
    wrong = result | {"standard": score | {"bits": pack_bits(numpy.zeros(80, bool)), "correct": 0}}
    better, _ = unshaken.compare(result, wrong)
    assert (better.a_better, better.b_better) == (score["correct"], 0)
    assert better.p == pytest.approx(2 * 0.5 ** score["correct"])
    other = result | {"data": result["data"] | {"digest": "0" * 16}}
    with pytest.raises(ValueError, match="only on the same images"):
        unshaken.compare(result, other)
