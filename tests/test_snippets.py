"""Every command and every piece of Python in README and docs works: run, or taken as far as its options.

A fenced block says by its tag what it is (python, text, bibtex). One without a tag holds commands, one a line, or it is
named in PRINTED. A command of a verb that HOW does not know, or a block that is neither, fails: then decide here.
"""

import re
import shlex
import sys
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from bench.__main__ import NAMES as COMPARISONS
from PIL import Image
from published import IMAGENET, Style, Weights, acl_head, bn_list, resnet

import unshaken
from unshaken import cli
from unshaken.commands.pretrain import PretrainOptions
from unshaken.commands.robustify import RobustifyOptions
from unshaken.evaluation.classifier import Classifier
from unshaken.evaluation.protocol import Evaluation
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import read_tensors, save_encoder, write_tensors
from unshaken.nets.heads import zero_classifier
from unshaken.options.fields import all_fields, alternatives
from unshaken.recipes.autolora import AutoFinetune
from unshaken.recipes.catalog import RECIPES
from unshaken.recipes.finetune import Finetune
from unshaken.recipes.robust import robust_recipe
from unshaken.runs import speeds, trial
from unshaken.runs.frontier import Frontier
from unshaken.train.throughput import Speed
from variants import variants

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("*/README.md"))]
SHOWN = ("text", "bibtex", "svg", "json", "toml", "yaml", "diff")
"""Tags of blocks that are there to be read."""
PRINTED = (
    "demo/summary.json and demo/table.md hold this",  # the demo's last line
    ".........",  # of pytest
    "src/unshaken/",  # the tree, which tests/test_tree.py compares
    "base",  # the order of rooms, which tests/test_layers.py reads
)
"""How blocks begin that show what a command prints."""
HOW = {
    "pretrain": "options",
    "robustify": "options",
    "finetune": "options",
    "evaluate": "options",
    "frontier": "options",
    "doctor": "options",
    "checkup": "options",
    "dial": "options",
    "demo": "options",
    "plan": "options",
    "verify": "run",
    "compare": "run",
    "report": "run",
    "board": "run",
    "submit": "run",
    "coreset": "run",
    "text-embeddings": "options",
    "import": "run",
    "export": "run",
    "list": "run",
    "cite": "run",
    "completion": "run",
    "pack": "run",
    "embed": "run",
    "predict": "run",
}
"""What is done with the commands of a verb: run, or taken as far as the work for which its options are."""
COMPARISON = {"--data", "--rounds", "--quick", "--keep", "--seconds", "--out"}
CAMPAIGN = {"--seconds", "--data", "--out", "--recipe", "--backbone", "--limit", "--batch-size", "--threads", "--seed"}
"""Options of `python -m bench NAME`, and of `python -m bench campaign`."""
NEEDS = {
    "--to onnx": ("onnx", "onnxscript"),
    "--to hub": ("huggingface_hub",),
    "import timm/": ("timm",),
    "robustify timm/": ("timm",),
}
"""Packages without which a command is taken no further than its options either."""


def blocks() -> list[tuple[str, str, str]]:
    """(page and line, tag, text) of every fenced block."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            place = f"{page.relative_to(ROOT)}:{text[: match.start()].count(chr(10)) + 1}"
            found.append((place, match[1], match[2]))
    return found


def commands_of(text: str) -> list[str]:
    """The lines of a block that are commands. In a block with $ before some lines, the others are what those print."""
    lines = [line for line in text.splitlines() if line.strip()]
    if any(line.startswith("$ ") for line in lines):
        return [line[2:] for line in lines if line.startswith("$ ")]
    return [line for line in lines if re.match(r"(unshaken|make|python -m bench) ", line)]


NAMES_OF_VERBS = ("unshaken coreset show", "unshaken frontier RECIPE")
"""What is within a line and names a verb, which wants more words."""
BLOCKS = blocks()
COMMANDS = [(place, commands_of(text)) for place, tag, text in BLOCKS if tag == "" and commands_of(text)]
SNIPPETS = [(place, text) for place, tag, text in BLOCKS if tag == "python"]
INLINE = sorted(
    {
        (str(page.relative_to(ROOT)), command)
        for page in PAGES
        for command in re.findall(r"(?<!`)`(unshaken [a-z]+ [^`\n]+)`(?!`)", page.read_text())
        if command not in NAMES_OF_VERBS
    }
)


@pytest.mark.parametrize(("place", "tag", "text"), BLOCKS, ids=[place for place, _, _ in BLOCKS])
def test_every_block_is_of_a_known_kind(place, tag, text):
    if tag:
        assert tag in (*SHOWN, "python"), f"{place}: say in tests/test_snippets.py what a block of {tag!r} is"
        return
    lines = [line for line in text.splitlines() if line.strip()]
    commands = commands_of(text)
    whole = len(commands) == len(lines) or any(line.startswith("$ ") for line in lines)
    assert (commands and whole) or lines[0].startswith(PRINTED), f"{place}: neither commands nor in PRINTED"


def test_there_are_many():
    """So that a pattern that finds nothing is seen."""
    assert sum(len(lines) for _, lines in COMMANDS) > 60
    assert len(SNIPPETS) >= 2
    assert len(INLINE) > 12


class Reached(Exception):
    """The work began for which the options were: they were understood."""


def reached(*args, **named):
    raise Reached


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """What the commands name: a run with selections, its classifiers and results, photos, checkpoints."""
    folder = tmp_path_factory.mktemp("made")
    base = unshaken.recipe("acl-rcs/digits")
    quick = replace(base, data=replace(base.data, limit=64), epochs=2, batch_size=32)
    quick = replace(quick, coreset=replace(base.coreset, fraction=0.5, warmup=1, every=1))
    run = unshaken.pretrain(quick, unshaken.Workspace(folder, quiet=True))
    for mode in ("slf", "alf"):
        tuned = unshaken.finetune_recipe(run, mode)
        tuned = replace(tuned, data=replace(tuned.data, limit=64), epochs=1, batch_size=32)
        classifier = unshaken.finetune(run, tuned, unshaken.Workspace(quiet=True))
        unshaken.evaluate(classifier, workspace=unshaken.Workspace(quiet=True))
        classifier.rename(folder / mode)
    run.rename(folder / "run")
    for mode in ("slf", "alf"):
        (folder / mode).rename(folder / "run" / mode)
    photos(folder / "photos", 6)
    for name in ("cats", "dogs"):
        photos(folder / "labelled-photos" / name, 6)
    encoders(folder)
    return folder


def encoders(folder: Path) -> None:
    """Checkpoints of others, and a run of ours with a ResNet-18."""
    torch.save(published(), folder / "theirs.pt")
    grey = Backbone("resnet-small", image_size=8, channels=1, mean=(0.5,), std=(0.5,))
    torch.save(grey.build().backbone.state_dict(), folder / "plain.pt")
    weights = Weights()
    for branch in (0, 1):
        style = Style(norm=bn_list, shortcut=("downsample.conv", "downsample.bn"), normalize=IMAGENET, stored=True)
        resnet(weights, torch.rand(2, 3, 32, 32), style, branch)
    acl_head(weights, 64, 2)
    torch.save({"state_dict": weights.state}, folder / "ACL_DS.pt")
    net = unshaken.recipe("acl/cifar10").build_network()
    about = read_tensors(folder / "run" / "encoder.safetensors")[1]
    save_encoder(folder / "run18" / "encoder.safetensors", net.encoder, Backbone(), {"pretrain": about["pretrain"]})


def named(method: str, data: str) -> str:
    """The folder of a run by a method, for commands that go by it: the tiny run under another name."""
    folder = Path("runs") / f"{method}-{data}"
    tensors, about = read_tensors(Path("run/encoder.safetensors"))
    recipe = about["pretrain"]["recipe"]
    recipe |= {"name": method, "data": recipe["data"] | {"name": data, "limit": None}}
    write_tensors(folder / "encoder.safetensors", tensors, about)
    return str(folder)


def photos(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for k in range(count):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{k}.png")


def published() -> dict:
    """A ResNet-18 as torchvision keys it."""
    backbone = Backbone("resnet18", image_size=224).build().backbone
    return {**backbone.state_dict(), **{f"fc.{k}": v for k, v in zero_classifier(512, 1000).state_dict().items()}}


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """A folder as a reader has it, and the work of hours left out."""
    monkeypatch.setattr(Frontier, "run", reached)
    for module in (speeds, trial):  # as if measured: 100 images a second
        monkeypatch.setattr(module, "pretrain_speed", lambda *given: Speed(100.0, 0.0, 64))
    monkeypatch.setattr(trial, "SECONDS", 0.0)
    monkeypatch.setattr(import_module("unshaken.commands.children"), "run_children", reached)
    monkeypatch.setattr(import_module("unshaken.runs.pretrain"), "pretrain", reached)
    monkeypatch.setattr(import_module("unshaken.runs.robustify"), "pretrain", reached)
    monkeypatch.setattr(import_module("unshaken.runs.finetune"), "finetune", reached)
    monkeypatch.setattr(import_module("unshaken.runs.doctor"), "check_images", reached)
    monkeypatch.setattr(import_module("unshaken.commands.evaluate"), "evaluate_one", reached)
    monkeypatch.setattr(import_module("unshaken.commands.plan"), "make_plan", reached)
    monkeypatch.setattr(
        Classifier, "of_name", lambda name: (Classifier.of_module(torch.nn.Identity(), name, Path("runs")), 224)
    )
    monkeypatch.chdir(tmp_path)
    for there in made.iterdir():
        (tmp_path / there.name).symlink_to(there)
    return tmp_path


WORDS = {
    "RUN": "run",
    "ENCODER": "run",
    "FILE": "run/encoder.safetensors",
    "A/result.json": "run/slf/result.json",
    "B/result.json": "run/alf/result.json",
    "RUN/result.json": "run/slf/result.json",
    "METHOD/digits": "acl/digits",
    "timm/NAME": "timm/resnet18",
    "S": "1",
    "PATH": "photos",
    "RECIPE": "acl/digits",
    "runs": "run",
}
"""What stands for something of the reader's, and what it is here."""


def worded(command: str) -> list[str]:
    """The words of a command, with what is here in the place of what a reader has."""
    words = []
    for word in shlex.split(command, comments=True):
        if "*" in word:
            words += [str(found) for found in sorted(ROOT.glob(word))]
        elif re.match(r"runs/[\w+.-]+/\w+-[\w+.-]+$", word):
            words.append("run/slf")
        elif run := re.match(r"runs/([\w+-]+)-(\w+)(-\.\.\.|-[0-9a-f]{8})$", word):
            words.append("run" if words[1] == "evaluate" else named(run[1], run[2]))
        elif (words + [word])[1:] in (["export", "RUN"], ["doctor", "RUN"], ["submit", "RUN"]):
            words.append("run/slf" if words[1] != "export" else "run18" if "--to torchvision" in command else "run")
        elif (words + [word])[1:] == ["embed", "RUN"] and "--data photos" in command:
            words.append("run18")
        elif word == "FOLDER":
            drawn = [str(found) for found in sorted(ROOT.glob("results/coresets/*.json"))]
            words += drawn if words[1] == "frontier" else ["run"]
        elif word == "...":
            words += ["run"] if words[-1] in ("--teacher", "finetune") else []
        else:
            words.append(WORDS.get(word, word))
    return words


def done(command: str) -> None:
    """Run a command, or take it as far as its options."""
    words = worded(command)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command
        return
    if words[:3] == ["python", "-m", "bench"]:
        assert words[3] in COMPARISONS, command
        known = (
            CAMPAIGN if words[3] == "campaign" else {"--data", "--rounds", "--quick", "--keep", "--seconds", "--out"}
        )
        assert {word for word in words if word.startswith("--")} <= known, command
        return
    verb = words[1]
    assert verb in HOW, f"{command}: say in tests/test_snippets.py what is done with {verb!r}"
    lacking = [package for part, packages in NEEDS.items() if part in command for package in packages]
    if any(not there(package) for package in lacking):
        pytest.skip(f"needs {', '.join(lacking)}")
    try:
        code = cli.run(words[1:])
    except Reached:
        code = 0
    except SystemExit as exit:  # of --help
        code = exit.code
    assert code == 0, command


def there(package: str) -> bool:
    return find_spec(package) is not None


EXPECTED = {"unshaken pretrain acl/cifar10 --method.attack.ball.eps 8": 2}
"""Commands that README shows for the line that they end in."""


COSTLY = ("--to onnx", "--html")
"""What takes seconds. README's commands are all run by `make test`, such ones of other pages by `make test-all`."""
QUICK = [
    (at, commands)
    for at, commands in COMMANDS
    if at.startswith("README") or not any(word in command for command in commands for word in COSTLY)
]


@pytest.mark.parametrize(("at", "commands"), variants(COMMANDS, QUICK), ids=[at for at, _ in COMMANDS])
def test_commands(at, commands, place, capsys):
    """One after the other, in one folder, as a reader does."""
    for command in commands:
        if command in EXPECTED:
            capsys.readouterr()
            assert cli.run(worded(command)[1:]) == EXPECTED[command]
            shown = next(text for found, _, text in BLOCKS if found == at)
            assert capsys.readouterr().err.strip() in shown
        else:
            done(command)


QUICK_INLINE = [each for each in INLINE if each[0] == "README.md" or not any(word in each[1] for word in COSTLY)]


@pytest.mark.parametrize(
    ("page", "command"), variants(INLINE, QUICK_INLINE), ids=[f"{page}: {command}" for page, command in INLINE]
)
def test_commands_within_a_line(page, command, place):
    done(command)


def dotted_options() -> set[str]:
    """Every option of a component of some recipe, and of the kinds that can replace the component."""
    found = set()
    recipes = (PretrainOptions(unshaken.recipe(f"{name}/cifar10")) for name in RECIPES)
    robust = RobustifyOptions(robust_recipe("deacl", "ENCODER", Backbone(), unshaken.DataSource("digits")))
    for value in (Finetune(), AutoFinetune(), Evaluation(), robust, *recipes):
        for option in all_fields(value):
            kinds = alternatives(option.hint) if option.is_component else ()
            found |= {option.flag, *(f"{option.flag}.{name}" for kind in kinds for name in kind.__annotations__)}
            fields = [field for kind in kinds for field in kind.__annotations__.items()]
            found |= {f"{option.flag}.no-{name}" for name, hint in fields if hint == "bool"}
    return {flag.replace("_", "-") for flag in found}


def test_the_pages_name_options_that_exist():
    known = dotted_options()
    pages = [page for page in PAGES if page.name not in ("log.md", "CHANGELOG.md")]
    named = {option for page in pages for option in re.findall(r"--[a-z]+(?:\.[a-z0-9-]+)+", page.read_text())}
    assert len(named) > 50
    assert named - known == set()


PRELUDE = "import unshaken\nfrom dataclasses import replace\n"


@pytest.mark.parametrize(("at", "text"), SNIPPETS, ids=[at for at, _ in SNIPPETS])
def test_python(at, text, made, tmp_path, monkeypatch):
    """As it stands, but on fewer images and for an epoch: training is made quick, nothing is left out."""
    monkeypatch.chdir(tmp_path)
    verbs = import_module("unshaken.runs.pretrain"), import_module("unshaken.runs.finetune")
    pretrain, finetune = verbs[0].pretrain, verbs[1].finetune

    def shorter(recipe, workspace=unshaken.Workspace()):
        recipe = unshaken.recipe(recipe) if isinstance(recipe, str) else recipe
        recipe = replace(recipe, data=replace(recipe.data, limit=64), epochs=1, batch_size=32)
        return pretrain(recipe, replace(workspace, quiet=True))

    def shorter_tuning(encoder, recipe="slf", workspace=unshaken.Workspace()):
        recipe = unshaken.finetune_recipe(encoder, recipe) if isinstance(recipe, str) else recipe
        return finetune(encoder, replace(recipe, epochs=1), replace(workspace, quiet=True))

    monkeypatch.setattr(verbs[0], "pretrain", shorter)
    monkeypatch.setattr(verbs[1], "finetune", shorter_tuning)
    exec(compile(PRELUDE + text, at, "exec"), {"__name__": "__snippet__"})
    assert "torch" in sys.modules
