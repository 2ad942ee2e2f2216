"""Completion: what bash answers when the script is read and a word is begun."""

import subprocess
from pathlib import Path
from shutil import which

import pytest

from unshaken import cli
from unshaken.base.verbs import VERBS
from unshaken.commands.completion import bash, fish

TRY = """
source ./unshaken.bash
answer() { COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _unshaken; echo "${COMPREPLY[@]}"; }
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    (folder / "unshaken.bash").write_text(bash(VERBS))
    for run in ("acl-digits-1", "acl-digits-1/slf-digits-2", "no-run"):
        (folder / "runs" / run).mkdir(parents=True)
        if run != "no-run":
            (folder / "runs" / run / "recipe.json").touch()
    return folder


@pytest.mark.skipif(which("bash") is None, reason="needs bash")
def test_bash_completes_verbs_recipes_options_and_runs(place):
    asked = {
        "pret": "pretrain",
        "pretrain acl/dig": "acl/digits",
        "pretrain acl/digits --epo": "--epochs",
        "pretrain acl/digits --optimizer S": "SGD",
        "finetune ''": "runs/acl-digits-1 runs/acl-digits-1/slf-digits-2",
        "finetune x --mode a": "alf aff all autolora",
        "list mo": "modes",
        "coreset ''": "show",
        "evaluate runs/a --autoattack ''": "none standard plus rand apgd",
        "evaluate runs/a --conf": "--config",
        "completion f": "fish",
    }
    script = TRY + "\n".join(f"answer unshaken {words}" for words in asked)
    done = subprocess.run(["bash", "-c", script], cwd=place, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == list(asked.values())
    assert not done.stderr


def test_fish_has_a_line_for_each_verb_and_option():
    lines = fish(VERBS).splitlines()
    assert sum("-n __fish_use_subcommand" in line for line in lines) == len(VERBS)
    assert any("-l method.tau -d" in line and "from pretrain" in line for line in lines)


@pytest.mark.parametrize("args", [[], ["tcsh"], ["bash", "zsh"]])
def test_another_shell_is_a_mistake(args, capsys):
    assert cli.run(["completion", *args]) == 2
    assert "needs one of bash, zsh, fish" in capsys.readouterr().err


def test_zsh_reads_the_script_of_bash(capsys):
    assert cli.run(["completion", "zsh"]) == 0
    script = capsys.readouterr().out
    assert "bashcompinit" in script.splitlines()[1]
    assert script.endswith(bash(VERBS) + "\n")
