"""Completion: what bash, zsh and fish answer when the script is read and a word is begun."""

import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path
from shutil import which

import pytest

from unshaken import cli
from unshaken.base.verbs import VERBS
from unshaken.commands.completion import bash, defaults, fish, zsh

TRY = """
source ./unshaken.bash
answer() { COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _unshaken; echo "${COMPREPLY[@]}"; }
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    for shell in (bash, zsh, fish):
        (folder / f"unshaken.{shell.__name__}").write_text(shell(VERBS))
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
        "pretrain --rec": "--recipe",
        "pretrain acl/digits --ep": "--epochs --eps",
        "evaluate x --ep": "--eps",
        "robustify x --obj": "--objective",
        "robustify x --objective f": "fare",
        "robustify x --im": "--image-size",
    }
    script = TRY + "\n".join(f"answer unshaken {words}" for words in asked)
    done = subprocess.run(["bash", "-c", script], cwd=place, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == list(asked.values())
    assert not done.stderr


def test_fish_has_a_line_for_each_verb_and_option():
    lines = fish(VERBS).splitlines()
    assert sum("-n __fish_use_subcommand" in line for line in lines) == len(VERBS)
    assert any("-l method.tau -d" in line and "from pretrain" in line for line in lines)


@pytest.mark.skipif(which("fish") is None, reason="needs fish")
def test_fish_completes_the_same(place):
    asked = {
        "pret": ["pretrain"],
        "pretrain acl/dig": ["acl/digits"],
        "pretrain acl/digits --ep": ["--epochs", "--eps"],
        "pretrain acl/digits --optimizer S": ["SGD"],
        "robustify x --objective f": ["fare"],
        "finetune runs/acl": ["runs/acl-digits-1", "runs/acl-digits-1/", "runs/acl-digits-1/slf-digits-2"],
        "evaluate x --data ru": ["runs/"],
        "completion f": ["fish"],
    }
    script = "source unshaken.fish\n" + "\n".join(
        f"for each in (complete -C 'unshaken {words}'); string replace -r -- '\\t.*' '' $each; end; echo =="
        for words in asked
    )
    done = subprocess.run(["fish", "--no-config", "-c", script], cwd=place, capture_output=True, text=True, check=True)
    answers = [sorted(each.split()) for each in done.stdout.split("==\n")[:-1]]
    assert dict(zip(asked, answers, strict=True)) == asked
    assert not done.stderr


@pytest.mark.skipif(which("zsh") is None, reason="needs zsh")
def test_zsh_completes_the_line_that_is_typed(place):
    """A word is typed at a prompt, and the tabulator pressed."""
    asked = {
        "unshaken pretrain acl/digits --epo": "--epochs",
        "unshaken robustify x --objective fa": "fare",
        "unshaken finetune runs/acl-digits-1/s": "runs/acl-digits-1/slf-digits-2",
    }
    ours, its = pty.openpty()
    how = {"env": {**os.environ, "TERM": "vt100"}, "cwd": place, "start_new_session": True}
    shell = subprocess.Popen(["zsh", "-f", "-i"], stdin=its, stdout=its, stderr=its, **how)
    os.close(its)

    def until(word: str, seconds: float = 20) -> str:
        said, end = "", time.monotonic() + seconds
        while word not in said and time.monotonic() < end:
            if select.select([ours], [], [], 0.05)[0]:
                said += re.sub(r"\x1b\[[\d;?]*[a-zA-Z]|[\x00\x07]", "", os.read(ours, 1 << 16).decode())
        return said

    try:
        os.write(ours, b"source ./unshaken.zsh; print re''ady\n")
        assert "ready" in until("ready\r\n")
        for words, answer in asked.items():
            os.write(ours, f"{words}\t".encode())
            assert answer in until(answer)
            os.write(ours, b"\x15")
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)


def test_every_verb_with_options_has_them_completed():
    without = {"list", "cite", "completion"}
    assert {*VERBS} - without == {*defaults()}


@pytest.mark.parametrize("args", [[], ["tcsh"], ["bash", "zsh"]])
def test_another_shell_is_a_mistake(args, capsys):
    assert cli.run(["completion", *args]) == 2
    assert "needs one of bash, zsh, fish" in capsys.readouterr().err


@pytest.mark.extra
def test_zsh_reads_the_script_of_bash(capsys):
    assert cli.run(["completion", "zsh"]) == 0
    script = capsys.readouterr().out
    assert "bashcompinit" in script.splitlines()[1]
    assert script.endswith(bash(VERBS) + "\n")
