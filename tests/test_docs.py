"""The documentation's site: its nav, its links, its API page; the notebook runs; the README of a package index."""

import json
import re
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import unshaken

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def loaded(file: str) -> ModuleType:
    spec = spec_from_file_location(Path(file).stem, ROOT / file)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_nav():
    nav = re.findall(r"[\w/-]+\.md", json.dumps(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    made = {"index.md", "contributing.md", "changelog.md", "api.md", "notebooks/first-steps.md"}
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert {*nav} == pages | made
    assert len(nav) == len(pages | made)


def test_the_api_page_has_every_public_name():
    pytest.importorskip("mkdocs")
    page = loaded("docs/_site/hooks.py").api_page()
    found = re.findall(r"^::: unshaken\.[\w.]+\.(\w+)$", page, re.MULTILINE)
    assert found[: len(unshaken._WHERE)] == list(unshaken._WHERE)
    parts = [name for room in unshaken._ROOMS for name in import_module(f"unshaken.{room}").__all__]
    assert sorted(found[len(unshaken._WHERE) :]) == sorted(parts)


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        ("docs/laptop.md", "[a](speed.md#b)", "[a](speed.md#b)"),
        ("docs/laptop.md", "[a](../README.md)", "[a](index.md)"),
        ("docs/methods/acl.md", "[a](../../README.md)", "[a](../index.md)"),
        ("README.md", "![a](docs/readme.svg)", "![a](readme.svg)"),
        ("README.md", "[a](docs/methods/README.md)", "[a](methods/README.md)"),
        ("docs/methods/acl.md", "[the [a] results](../../results/digits)", "the [a] results"),
        ("docs/laptop.md", "[a](https://arxiv.org/abs/1) and [b](#c)", "[a](https://arxiv.org/abs/1) and [b](#c)"),
    ],
)
def test_links_stay_within_the_site_or_become_words(source, text, expected):
    pytest.importorskip("mkdocs")
    hooks = loaded("docs/_site/hooks.py")
    assert hooks.LINK.sub(lambda match: hooks.linked(match, source), text) == expected
    hooks.SOURCE = "https://host/o/unshaken/blob/main"
    outside = hooks.LINK.sub(lambda match: hooks.linked(match, "docs/a.md"), "[r](../results)")
    assert outside == "[r](https://host/o/unshaken/blob/main/results)"


def test_a_docstring_s_columns_become_a_list():
    pytest.importorskip("griffe")
    listed = loaded("docs/_site/columns.py").listed
    assert listed("a, b   one\n       and more\nlong  two") == "- `a, b`: one and more\n- `long`: two"
    assert listed("A sentence. Another one.\nIts second line.") == "A sentence. Another one.\nIts second line."


@pytest.mark.extra
def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    """Every cell in one process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((DOCS / "notebooks" / "first-steps.ipynb").read_text())
    names = {"__name__": "__notebook__"}
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "it is kept without what it printed"
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert names["found"].values.shape == (445, 64)
    assert names["result"]["standard"]["n"] == 64


@pytest.fixture
def hook(monkeypatch):
    """The build's hook, also where hatchling is not installed."""
    if "hatchling" not in sys.modules:
        stand_in = ModuleType("hatchling.metadata.plugin.interface")
        stand_in.MetadataHookInterface = object
        for name in ("hatchling", "hatchling.metadata", "hatchling.metadata.plugin"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    return loaded("hatch_build.py")


def test_the_addresses_of_an_index_are_below_that_of_the_repository(hook):
    assert hook.urls_of("") == {}
    assert hook.urls_of("https://host/o/unshaken/blob/main") == {
        "Homepage": "https://host/o/unshaken",
        "Documentation": "https://host/o/unshaken/blob/main/docs/tutorial.md",
        "Changelog": "https://host/o/unshaken/blob/main/CHANGELOG.md",
        "Issues": "https://host/o/unshaken/issues",
    }


def test_the_readme_of_an_index_has_no_dead_link(hook):
    for_index = hook.for_index
    text = (ROOT / "README.md").read_text()
    relative = r"\]\((?!https?:|#)"
    assert len(re.findall(relative, text)) > 20
    assert not re.findall(relative, for_index(text, ""))
    found = for_index(text, "https://host/o/unshaken/blob/main")
    assert not re.findall(relative, found)
    assert "(https://host/o/unshaken/blob/main/docs/readme.svg?raw=true)" in found
    assert "](https://host/o/unshaken/blob/main/docs/glossary.md)" in found
