"""Help pages: what most users look for comes first, kinds are named, lines fit the terminal."""

import pytest

import unshaken
from unshaken.commands.evaluate import EvaluateOptions
from unshaken.commands.finetune import FinetuneOptions
from unshaken.commands.interop import VerifyOptions
from unshaken.commands.plan import PlanOptions
from unshaken.commands.pretrain import PretrainOptions
from unshaken.data.source import DataSource
from unshaken.evaluation.protocol import Evaluation
from unshaken.interop.export import ExportOptions
from unshaken.options import flags, values_of
from unshaken.options.help import help_page
from unshaken.recipes.autolora import AutoFinetune
from unshaken.recipes.catalog import RECIPES
from unshaken.recipes.finetune import Finetune
from unshaken.report.table import ReportOptions

ACL = PretrainOptions(unshaken.recipe("acl/cifar10"))
EVALUATE = EvaluateOptions(Evaluation(), DataSource("digits"))


def shown(page: str) -> list[str]:
    """The flags of a page from top to bottom."""
    return [line.split()[0].rstrip(",") for line in page.splitlines() if line.strip().startswith("--")]


def test_the_most_wanted_come_first():
    found = shown(help_page(ACL, "test", 100))
    wanted = ["--epochs", "--batch-size", "--lr", "--lr.peak", "--seed", "--data.name", "--out", "--runtime.device"]
    assert [flag for flag in found if flag in wanted] == wanted
    assert found.index("--runtime.device") < 10


@pytest.mark.parametrize("name", RECIPES)
def test_every_option_is_there_once(name):
    default = PretrainOptions(unshaken.recipe(f"{name}/digits"))
    found = shown(help_page(default, "test", 100))
    assert len(found) == len(set(found))
    assert {flag for flag in flags(default) if ".no-" not in flag and not flag.startswith("--no-")} <= set(found)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_lines_fit(width):
    assert max(map(len, help_page(ACL, "test", width).splitlines())) <= max(width, 64)


def test_a_row_has_description_and_default():
    page = " ".join(help_page(ACL, "test", 100).split())
    assert "--method.attack.steps INT Number of gradient steps. (default: 5)" in page
    assert "--method.attack.ball.eps FLOAT" in page
    assert "(default: 8/255)" in page
    assert "--data.download, --data.no-download" in page
    assert "--optimizer SGD | AdamW | LARS" in page


def test_values_are_a_recipe_from_top_to_bottom():
    found = {row.option: row.value for row in values_of(unshaken.recipe("rocl/cifar10"))}
    assert (found["--method"], found["--method.attack.ball.eps"], found["--epochs"]) == ("RoCL", "8/255", "1000")
    assert (found["--optimizer"], found["--lr.peak"], found["--coreset"]) == ("LARS", "1.5", "None")


OTHERS = (FinetuneOptions(Finetune()), FinetuneOptions(AutoFinetune()), EVALUATE, ExportOptions(), ReportOptions())


def test_every_option_has_a_description():
    values = [unshaken.recipe(f"{name}/digits") for name in RECIPES] + list(OTHERS)
    assert not {row.option for value in values for row in values_of(value) if not row.meaning}


def test_each_command_shows_its_own_main_options_first():
    assert shown(help_page(EVALUATE, "test", 100))[:3] == ["--full", "--autoattack", "--attack.ball.eps"]
    most_used = help_page(VerifyOptions(), "test", 100).partition("Most used:\n")[2]
    assert most_used.startswith("  FILES PATH ...")


def test_words_are_not_broken_at_hyphens():
    page = help_page(PlanOptions(unshaken.recipe("acl/cifar10")), "test", 100)
    assert not [line for line in page.splitlines() if line.endswith("-")]
