"""What a result holds of the verdicts, and the log that the papers' own scripts leave of it."""

import json
from collections import defaultdict

import pytest
import torch

from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.corruptions.severity import FIFTEEN
from unshaken.evaluation.protocol import Evaluation
from unshaken.evaluation.result import log_of_modes, log_of_result, scores, verdicts_by_stage
from unshaken.evaluation.verdicts import Verdicts

FULL = Evaluation(PGD(Linf(0.1), steps=20, restarts=2)).full


def verdicts(evaluation: Evaluation, n: int = 200, seed: int = 0) -> dict[str, Verdicts]:
    """At random; a severity more is harder."""
    rng = torch.Generator().manual_seed(seed)
    found = {}
    for k, part in enumerate(evaluation.stages):
        level = part.name.partition("/")[2]
        hardness = float(level) / 8 if level.isdecimal() and "pgd" not in part.name else 0.1 * k
        found[part.name] = Verdicts.of(torch.rand(n, generator=rng) >= hardness)
    return found


def result(seed: int = 0, mode: str = "slf", evaluation: Evaluation = FULL) -> dict:
    of = scores(evaluation, verdicts(evaluation, seed=seed), defaultdict(lambda: 0.25), size=32)
    return json.loads(json.dumps(of)) | {"mode": mode, "evaluation": {"attack": {"steps": 20}}}


def test_each_attack_and_corruption_has_its_verdicts():
    found, each = result(), verdicts(FULL)
    assert found["standard"]["correct"] == each["clean"].correct
    assert found["robust"]["correct"] == each["pgd"].correct
    assert found["robust"]["seconds"] == 0.5  # of two restarts
    stages = found["autoattack"]["stages"]
    assert list(stages) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert found["autoattack"]["bits"] == stages["square"]["bits"]
    assert found["autoattack"]["version"] == "standard"
    assert found["autoattack"]["seconds"] == 1.0
    assert list(found["corruptions"]) == list(FIFTEEN)
    assert found["corruptions"]["fog"]["3"]["correct"] == each["fog/3"].correct
    assert found["corrupted"]["constants"] == "cifar"
    assert list(found["corrupted"]["substitutes"]) == ["frost"]
    again = verdicts_by_stage(FULL, found)
    assert list(again) == [part for part in each if part != "pgd/1"]
    assert all(torch.equal(again[part].bits, each[part].bits) for part in again)


def test_cheap_results_have_no_more():
    found = result(evaluation=Evaluation())
    assert not {"autoattack", "corruptions", "corruption_accuracy"} & set(found)
    assert log_of_result(found).count("\n") == 2


def test_the_log_of_one_mode():
    """Line by line as spec'd by the papers' scripts, with means over fifteen and then over five computed here."""
    found, each = result(mode="alf"), verdicts(FULL)
    at = [sum(each[f"{name}/{level}"].correct for name in FIFTEEN) / 15 / 2 for level in range(1, 6)]
    lines = [
        f"ALF standard acc: {each['clean'].correct / 2:.2f}",
        f"ALF PGD20 acc: {each['pgd'].correct / 2:.2f}",
        f"ALF robust acc: {each['standard/square'].correct / 2:.2f}",
        f"ALF mean corruption acc: {sum(at) / 5:.2f}",
        *(f"ALF corruption severity-{level} acc: {value:.2f}" for level, value in enumerate(at, 1)),
    ]
    assert log_of_result(found).splitlines() == lines
    assert at == sorted(at, reverse=True)


def test_the_log_of_three_modes_ends_with_their_means():
    three = [result(seed, mode) for seed, mode in enumerate(("slf", "alf", "aff"))]
    lines = log_of_modes("acl-cifar10-0/encoder.safetensors", three).splitlines()
    assert lines[0] == "Finetuning checkpoint: acl-cifar10-0/encoder.safetensors"
    assert "\n".join(lines[1:28]) + "\n" == "".join(map(log_of_result, three))

    def mean(score: str) -> float:
        return sum(each[score]["correct"] for each in three) / 3 / 2

    assert lines[28] == f"mean robust accuracy: {mean('autoattack'):.2f}"
    assert lines[29] == f"mean standard accuracy: {mean('standard'):.2f}"
    assert lines[30].startswith("mean corruption accuracy: ")
    shown = [float(line.split()[-1]) for line in lines[1:28] if "mean corruption" in line]
    assert float(lines[30].split()[-1]) == pytest.approx(sum(shown) / 3, abs=0.011)
    assert len(lines) == 31


def test_a_mean_of_fewer_corruptions_is_none():
    evaluation = Evaluation(corruptions=("fifteen",), severities=(1, 2, 3, 4))
    assert "corruption_accuracy" not in result(evaluation=evaluation)
    assert "mean corruption" not in log_of_result(result(evaluation=evaluation))
    assert "corruption_accuracy" in result(evaluation=Evaluation(corruptions=("fifteen", "extra")))


def test_a_mean_over_other_images_is_none():
    """Of a part of the set some corruptions may have been judged on more images than others."""
    part, of = Verdicts.none(200), verdicts(FULL)
    part.judged[:50] = True
    of["fog/3"] = part
    assert "corruption_accuracy" not in scores(FULL, of, defaultdict(float), size=32)
