"""A campaign on a CPU: it ends in its time, goes on when it is called again, and what it says can be verified."""

from dataclasses import replace
from pathlib import Path

import pytest
from bench.campaign import Campaign, State

import unshaken
from bench import campaign
from unshaken.base.json_files import read_json
from unshaken.compute.runtime import Runtime
from unshaken.runs.plan import Plan, Stage, slf_of, teacher_recipe, with_epochs
from unshaken.runs.verify import recheck
from unshaken.train.attack_policy import with_attack_steps

pytestmark = pytest.mark.extra
WANTED = replace(unshaken.recipe("deacl/digits"), epochs=4)
SECONDS = 14.0
RUNTIME = Runtime(device="cpu", threads=1)


def planned(wanted, *_, **__) -> Plan:
    """A plan that does not depend on how busy the machine is: what measures is tested with the plan."""
    stages = (
        Stage("teacher", with_epochs(teacher_recipe(wanted), 2), 1000.0, 2.0),
        Stage("pretrain", with_epochs(wanted, 2), 1000.0, 3.0),
        Stage("slf", with_epochs(slf_of(wanted), 2), 5000.0, 1.0),
        Stage("evaluation", None, 3000.0, 1.0),
        Stage("autoattack", None, 3000.0, 1.0),
    )
    return Plan(SECONDS, RUNTIME, 1352, stages)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("campaign")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(campaign, "make_plan", planned)
        return folder, Campaign(WANTED, SECONDS, folder, RUNTIME).run()


@pytest.mark.extra
def test_a_campaign_is_whole(done):
    folder, found = done
    state = read_json(folder / "campaign.json")
    assert list(state["seconds"]) == ["plan", "teacher", "pretrain", "slf", "evaluation", "autoattack"]
    assert state["used"] == pytest.approx(sum(state["seconds"].values()), abs=2)
    result, harder = read_json(folder / "result.json"), read_json(folder / "result-autoattack.json")
    assert result["robust"]["n"] >= min(445, state["choices"]["evaluation"]["block"])
    assert harder["autoattack"]["n"] >= state["choices"]["autoattack"]["block"]
    assert found["autoattack"]["autoattack"]["correct"] == harder["autoattack"]["correct"]
    assert recheck(folder / "result.json", sample=16, seed=1, run=Path(found["classifier"]), quiet=True).holds


@pytest.mark.extra
def test_called_again_it_changes_nothing(done):
    folder, found = done
    again = Campaign(WANTED, SECONDS, folder, RUNTIME).run()
    same = {name: again["result"][name] for name in ("seconds", "file") if name in again["result"]}
    assert again["result"] == found["result"] | same
    assert again["classifier"] == found["classifier"]


def test_another_recipe_is_refused_and_more_time_is_another_plan(tmp_path):
    tmp_path.joinpath("campaign.json").write_text("{}")
    first = Campaign.__new__(Campaign)
    first.wanted = WANTED
    kept = {"recipe": first.identity, "budget": 10.0, "used": 4.0, "choices": {"slf": {}}, "seconds": {"plan": 1.0}}
    campaign.write_json(tmp_path / "campaign.json", kept)
    assert Campaign(WANTED, 10.0, tmp_path, RUNTIME).state == State(10.0, 4.0, {"slf": {}}, {"plan": 1.0})
    assert Campaign(WANTED, 20.0, tmp_path, RUNTIME).state == State(20.0)
    fewer = replace(WANTED, method=with_attack_steps(WANTED.method, 2))
    for other in (replace(WANTED, seed=2), fewer):
        with pytest.raises(SystemExit, match="another recipe; choose another --out"):
            Campaign(other, 10.0, tmp_path, RUNTIME)


def test_attack_steps_of_ones_own(monkeypatch, tmp_path):
    wanted = []
    monkeypatch.setattr(campaign.Campaign, "run", lambda self: wanted.append(self.wanted))
    usual = ["--seconds", "10", "--data", "data", "--recipe", "deacl/digits"]
    for number, options in enumerate(([], ["--attack-steps", "2"])):
        campaign.main([*usual, "--out", str(tmp_path / str(number)), *options])
    assert [one.method.attack.steps for one in wanted] == [WANTED.method.attack.steps, 2]
