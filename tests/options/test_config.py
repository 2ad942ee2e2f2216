"""Options in a file: nested or dotted; what is typed wins; a recipe.json goes back in; mistakes name the file."""

from dataclasses import replace

import pytest

import unshaken
from unshaken.base.json_files import write_json
from unshaken.base.serialize import short_hash, to_json
from unshaken.commands.finetune import of_file
from unshaken.commands.pretrain import PretrainOptions, named_recipe
from unshaken.options import Config, parse
from unshaken.recipes.catalog import RECIPES
from unshaken.train.optim import SGD
from variants import variants

YAML = """
epochs: 3
optimizer: SGD
optimizer.momentum: 1/2
method:
  attack.steps: 2
  tau: 0.3
data: photos
data.limit: 64
runtime:
  compile: no
views.ratio: [0.5, 2]
"""


def test_names_may_be_nested_or_dotted_and_what_is_typed_wins(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(YAML)
    found = parse(PretrainOptions(unshaken.recipe("acl/cifar10")), ["--config", str(file), "--epochs", "5"], "test")
    recipe = found.recipe
    assert (recipe.epochs, recipe.optimizer, recipe.views.ratio) == (5, SGD(momentum=0.5), (0.5, 2))
    assert (recipe.method.attack.steps, recipe.method.tau) == (2, 0.3)
    assert (recipe.data.name, recipe.data.limit, found.runtime.compile) == ("photos", 64, "no")


@pytest.mark.parametrize("name", variants(RECIPES, ("acl-rcs", "dynacl-air", "dynacl++", "advcl", "deacl", "sat")))
def test_the_recipe_of_a_run_goes_back_in(name, tmp_path):
    """Whatever was changed: a number, a component's kind, a switch."""
    words = ["--seed", "3", "--data.download"]
    default = unshaken.recipe(f"{name}/digits")
    if hasattr(default, "lr"):
        words += ["--lr", "Constant", "--lr.value", "0.5", "--backbone.std", "0.3"]
    chosen = parse(PretrainOptions(default), words, "test").recipe
    file = tmp_path / "recipe.json"
    write_json(file, {"hash": short_hash(chosen), "recipe": to_json(chosen), "data": {}})
    found, config = named_recipe(Config.read(file))
    assert found == f"{name}/digits"
    assert parse(PretrainOptions(unshaken.recipe(found)), [], "test", config).recipe == chosen


def test_a_relative_path_is_found_from_another_folder_and_that_is_said(tmp_path, monkeypatch, capsys):
    photos, elsewhere, file = tmp_path / "photos", tmp_path / "elsewhere", tmp_path / "runs" / "acl-1" / "recipe.json"
    photos.mkdir()
    elsewhere.mkdir()
    chosen = replace(unshaken.recipe("deacl"), data=unshaken.DataSource("photos"), teacher="simclr/cifar10")
    write_json(file, {"hash": short_hash(chosen), "recipe": to_json(chosen), "data": {}})
    monkeypatch.chdir(elsewhere)
    found = Config.read(file).values
    assert (found["data"]["name"], found["teacher"]) == (str(photos), "simclr/cifar10")
    assert capsys.readouterr().err == f"note: photos in {file} is taken as {photos}\n"
    (elsewhere / "photos").mkdir()  # other images of that name: as the command line would take them
    assert Config.read(file).values["data"]["name"] == "photos"
    assert f"is taken as {elsewhere / 'photos'}, and not {photos}" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert Config.read(file).values["data"]["name"] == "photos"
    (tmp_path / "mine.yaml").write_text("data: photos\nteacher: runs/acl-1")
    monkeypatch.chdir(photos)
    capsys.readouterr()
    words = ["--config", "../mine.yaml"]
    recipe = parse(PretrainOptions(unshaken.recipe("deacl")), words, "test").recipe
    assert (recipe.data.name, recipe.teacher) == (str(photos), str(file.parent))
    with pytest.raises(ValueError, match=f"no image set 'phots': .* nor an existing path .looked for in {photos}"):
        unshaken.DataSource("phots").load()


BLOWN_UP = "a: &a [1, 1, 1, 1]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 8)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epohcs: 3", "mine.yaml: there is no option --epohcs; did you mean --epochs?"),
        ("epochs: many", "mine.yaml: --epochs is a whole number ≥ 1, not 'many'"),
        ("method: {tua: 1}", "mine.yaml: there is no option --method.tua; did you mean --method.tau?"),
        ("epochs: 3\nepochs: 4", "mine.yaml cannot be read as YAML (a name is there twice"),
        ("method.tau: 1\nmethod: {tau: 2}", "mine.yaml gives method twice"),
        ("- epochs", "has to map names of options to values"),
        ("epochs: [3", "cannot be read as YAML"),
        (BLOWN_UP, "aliases make it too large"),
    ],
)
def test_mistakes_are_one_line_that_names_the_file(text, words, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        parse(PretrainOptions(unshaken.recipe("acl/digits")), ["--config", str(file)], "test")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_makes_no_objects(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("epochs: !!python/object/apply:os.getpid []")
    assert Config.read(file).values == {"epochs": []}


def test_fields_of_another_mode_are_left_out(tmp_path):
    """A file for several modes may have what only one of them has."""
    slf, aff = (replace(unshaken.recipe("acl/digits"), name=name) for name in ("a", "b"))
    file = tmp_path / "mine.yaml"
    file.write_text("method.attack.steps: 3\nepochs: 2")
    config = Config.read(file)
    plain = unshaken.recipe("simclr/digits")
    assert parse(plain, [], "test", config, [plain, slf, aff]).epochs == 2
    with pytest.raises(ValueError, match="no option --method.attack.steps"):
        parse(plain, [], "test", config)


def test_what_a_fine_tuning_reads_before_its_other_options(tmp_path):
    """Modes, images and protocol are taken out; of a run's recipe.json the method says the mode."""
    file = tmp_path / "mine.yaml"
    file.write_text("mode: [slf, alf]\ndata: photos\ndata.size: 64\nprotocol: leaked\nepochs: 3")
    given, left = of_file(Config.read(file))
    assert given == {"mode": ["slf", "alf"], "data": "photos", "size": "64", "protocol": "leaked"}
    assert left.values == {"data": {}, "epochs": "3"}
    tuned = Config(file, {"method": {"type": "AFF"}, "data": {"name": "digits", "size": None}}, of_run=True)
    assert of_file(tuned)[0] == {"mode": ["aff"], "data": "digits", "size": None, "protocol": None}
