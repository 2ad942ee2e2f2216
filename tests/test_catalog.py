"""`unshaken list` and `unshaken cite`, called as the command line calls them."""

import io
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import unshaken
from unshaken.base.json_files import write_json
from unshaken.citations.cite import BIBLIOGRAPHY
from unshaken.citations.credits import METHODS
from unshaken.commands import catalog as inform
from unshaken.commands.catalog import MODE_LINES, TOPICS, cite, list_
from unshaken.options import flags
from unshaken.recipes.catalog import RECIPES, recipe
from unshaken.recipes.datasets import DATASETS
from unshaken.recipes.finetune import MODES
from unshaken.runs.evaluate import default_evaluation, evaluate


def printed(capsys, verb, *args) -> str:
    verb(list(args))
    return capsys.readouterr().out


def keys(text: str) -> list[str]:
    return re.findall(r"^@\w+\{([^,]+),$", text, re.MULTILINE)


def pretrained_and_tuned(name: str, folder: Path) -> tuple[Path, Path]:
    """An encoder, and a linear classifier on it: each as short as it can be."""
    first = recipe(name)
    encoder = unshaken.pretrain(
        replace(first, epochs=1, batch_size=32, data=replace(first.data, limit=64)),
        unshaken.Workspace(folder, quiet=True),
    )
    second = unshaken.finetune_recipe(encoder, "slf")
    return encoder, unshaken.finetune(
        encoder, replace(second, epochs=1, data=replace(second.data, limit=64)), unshaken.Workspace(quiet=True)
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return pretrained_and_tuned("acl/digits", tmp_path_factory.mktemp("runs"))


def test_list_names_everything(capsys):
    shown = printed(capsys, list_)
    assert all(re.search(rf"^  {re.escape(name)} ", shown, re.MULTILINE) for name in (*RECIPES, *MODE_LINES))
    assert all(name in shown for name in (*DATASETS, *TOPICS))
    assert set(MODES) <= set(MODE_LINES) <= set(METHODS)


@pytest.mark.parametrize("topic", TOPICS)
def test_lists_are_markdown_in_a_pipe(topic, capsys):
    lines = printed(capsys, list_, topic).splitlines()
    columns, rows = TOPICS[topic]()
    assert len(lines) == len(rows) + 2
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(columns) + 1}
    assert set(lines[1]) == set("|- ")


def test_methods_are_with_paper_venue_number_and_difference(capsys):
    shown = printed(capsys, list_, "methods")
    assert (
        "| acl | Jiang et al.: Robust Pre-Training by Adversarial Contrastive Learning | NeurIPS 2020 | 2010.13337 | "
        in shown
    )
    assert all(f"| {name} | " in shown and METHODS[name].differs in shown for name in RECIPES)


def test_modes_data_and_networks(capsys):
    shown = printed(capsys, list_, "modes")
    assert all(f"| {mode} | {line} | " in shown for mode, line in MODE_LINES.items())
    assert "| stl10 | unlabeled | resnet18, 96 pixels | l∞ 8/255 | 1000 | 512 | " in printed(capsys, list_, "data")
    shown = printed(capsys, list_, "networks")
    assert "| wrn-28-10 | up to 64 | " in shown
    assert "| timm/NAME | " in shown


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("width", [80, 100, 120])
def test_lists_fit_a_terminal(topic, width, monkeypatch, capsys):
    """Nothing is cut off, and the square brackets of what differs are no markup."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for name, value in (("COLUMNS", str(width)), ("NO_COLOR", "1"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    list_([topic])
    shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    lines = shown.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in shown
    for row in TOPICS[topic]()[1]:
        assert all(word in shown for word in re.findall(r"[\w\[\]]+", " ".join(row)))


def test_a_word_that_is_no_topic(capsys):
    with pytest.raises(ValueError, match="did you mean 'methods'") as refused:
        list_(["method"])
    assert "takes no arguments" in str(refused.value)
    with pytest.raises(ValueError, match="a recipe, or one of methods, modes, data, networks; not 'all'"):
        list_(["all"])
    with pytest.raises(ValueError, match="not 'modes'"):
        list_(["methods", "modes"])


@pytest.mark.parametrize("name", ["rocl/cifar10", "dynacl++/stl10", "acl-rcs"])
def test_a_recipe_is_listed_with_every_value(name, capsys):
    """Every option of pretrain that is a field of the recipe is a row, with the recipe's own value."""
    shown = printed(capsys, list_, name)
    default = recipe(name)
    assert all(f"| {flag} | " in shown for flag in flags(default) if "--no-" not in flag and ".no-" not in flag)
    assert f"| recipe | {name if '/' in name else name + '/cifar10'} | " in shown
    assert f"| --seed | {default.seed} | Seed of all random numbers |" in shown


def test_a_recipe_s_values_in_a_table(capsys):
    shown = printed(capsys, list_, "rocl/cifar10")
    for row in ("--method | RoCL", "--method.attack.ball.eps | 8/255", "--optimizer | LARS", "--lr.peak | 1.5"):
        assert f"| {row} | " in shown
    assert "arXiv:1706.06083) |" in shown  # a meaning is one sentence, and "et al." does not end it
    with pytest.raises(ValueError, match="there is no recipe 'rocl/cifar11' \\(did you mean 'cifar10'"):
        list_(["rocl/cifar11"])


@pytest.mark.parametrize(("verb", "words"), [(list_, "networks"), (cite, "RUN")])
def test_help(verb, words, capsys):
    with pytest.raises(SystemExit) as done:
        verb(["--help"])
    assert not done.value.code
    assert words in capsys.readouterr().out


def test_a_method_is_cited_by_its_papers(capsys):
    shown = printed(capsys, cite, "dynacl-air")
    assert shown.startswith("% Papers of dynacl-air; ")
    assert set(keys(shown)) == {"xu2023air", "luo2023dynacl", "jiang2020robust"}
    assert shown.rstrip().endswith("}")
    assert keys(printed(capsys, cite, "aff")) == ["zhang2019theoretically"]
    assert printed(capsys, cite, "slf") == "% There is no paper of slf\n"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_cited(name, capsys):
    assert set(keys(printed(capsys, cite, name))) == set(METHODS[name].papers)


def test_a_recipe_is_cited_with_what_it_begins_with(capsys):
    found = keys(printed(capsys, cite, "dynacl++/digits"))
    assert {"luo2023dynacl", "arthur2007kmeans", "zhang2019theoretically", "you2017large", "he2016deep"} <= set(found)
    assert len(found) == len(set(found))


def test_runs_files_and_results_are_cited(runs, capsys):
    encoder, run = runs
    first = printed(capsys, cite, str(encoder))
    assert first.splitlines()[0] == f"% What {encoder} used: acl on digits"
    assert keys(first)[0] == "jiang2020robust"
    assert "alpaydin1998digits" in keys(first)
    tuned = printed(capsys, cite, str(run))
    assert tuned.splitlines()[0] == f"% What {run} used: acl on digits, then SLF on digits"
    assert keys(tuned) == keys(first)  # SLF has no paper of its own; its pre-training's are there
    for file in (encoder / "encoder.safetensors", encoder / "recipe.json", run / "classifier.safetensors"):
        assert keys(printed(capsys, cite, str(file))) == keys(first)


def test_the_attack_of_the_exam_is_cited_too(capsys, tmp_path):
    _, run = pretrained_and_tuned("simclr/digits", tmp_path)
    assert "madry2018towards" not in keys(printed(capsys, cite, str(run)))
    evaluation = default_evaluation(run)
    evaluate(
        run,
        evaluation=replace(evaluation, attack=replace(evaluation.attack, steps=1), batch_size=512),
        workspace=unshaken.Workspace(quiet=True),
    )
    capsys.readouterr()
    found = keys(printed(capsys, cite, str(run)))
    assert "madry2018towards" in found
    assert keys(printed(capsys, cite, str(run / "result-steps1.json"))) == found
    alone = tmp_path / "elsewhere.json"
    alone.write_text((run / "result-steps1.json").read_text())
    assert keys(printed(capsys, cite, str(alone))) == found


def test_a_run_that_has_not_finished(runs, capsys, tmp_path):
    encoder, run = runs
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "recipe.json").write_text((encoder / "recipe.json").read_text())
    assert keys(printed(capsys, cite, str(begun))) == keys(printed(capsys, cite, str(encoder)))
    (begun / "recipe.json").write_text((run / "recipe.json").read_text())
    with pytest.raises(ValueError, match="has not finished; cite its encoder"):
        cite([str(begun)])


def test_the_comment_begins_no_entry(runs, capsys, tmp_path):
    """An @ would, even in a comment: BibTeX knows none."""
    folder = tmp_path / "me@home"
    folder.mkdir()
    (folder / "recipe.json").write_text((runs[0] / "recipe.json").read_text())
    shown = printed(capsys, cite, str(folder))
    assert shown.startswith("% ")
    assert shown.count("@") == len(keys(shown))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "needs one thing to cite"),
        (["acl", "simclr"], "needs one thing to cite"),
        (["acll"], "did you mean 'acl'"),
        (["nowhere/at-all"], "neither a run, nor a file, nor a method"),
        (["acl/digit"], "did you mean 'digits'"),
        (["empty"], "name a finished run or a file"),
        (["strange.json"], "neither a result nor a recipe"),
        (["broken.json"], "cannot be read as JSON"),
        (["notes.txt"], "not a complete safetensors file"),
    ],
)
def test_mistakes_are_one_line(args, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_json(tmp_path / "strange.json", {"a": 1})
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "notes.txt").write_text("a note")
    with pytest.raises(ValueError, match=re.escape(words)) as refused:
        cite(args)
    assert "\n" not in str(refused.value)
    assert not capsys.readouterr().out


def test_nothing_is_printed_but_bibtex(capsys):
    """One comment, then entries, each as the bibliography has it."""
    shown = printed(capsys, cite, "a-infonce/cifar10")
    comment, *entries = shown.rstrip("\n").split("\n\n")
    assert comment.startswith("% ")
    assert entries == [BIBLIOGRAPHY[key].bibtex for key in keys(shown)]
    assert inform.CITE_USAGE.startswith("usage: unshaken cite")
