"""Imports point up the drawing in CONTRIBUTING; rooms of one line do not know each other; no module is in a circle."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import unshaken
from variants import for_each

SOURCE = Path(unshaken.__file__).parent
PAGE = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
DRAWING = re.search(r"```\n(base\n.*?)```", PAGE, re.DOTALL).group(1)
LAYERS = [set(line.split()) for line in DRAWING.splitlines()]
LEVEL = {place: level for level, places in enumerate(LAYERS) for place in places}
MODULES = sorted(SOURCE.rglob("*.py"))


def place(module: Path) -> str:
    """The folder right below the package, or the file's own name."""
    inside = module.relative_to(SOURCE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


@cache
def parsed(module: Path) -> ast.Module:
    return ast.parse(module.read_text())


def imported(module: Path) -> set[str]:
    """The folders of the package that a module imports from, at its top or within a function."""
    places = set()
    for node in ast.walk(parsed(module)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            whole = node.module == "unshaken"
            names = [f"unshaken.{a.name}" for a in node.names] if whole else [node.module or ""]
        places |= {name.split(".")[1] for name in names if name.startswith("unshaken.")}
    return places - {"__version__"}


@for_each(MODULES, lambda m: str(m.relative_to(SOURCE)))
def test_imports_point_down(module):
    here = place(module)
    for there in imported(module) - {here}:
        assert LEVEL[there] < LEVEL[here], f"{here} may not import {there}"


def named(module: Path) -> str:
    parts = module.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def arrows() -> dict[str, set[str]]:
    """Which modules each module imports, at its top, within a function, or for a type checker alone."""
    names, found = {named(module) for module in MODULES}, {}
    for module in MODULES:
        to = set()
        for node in ast.walk(parsed(module)):
            if isinstance(node, ast.Import):
                to |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                to |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        found[named(module)] = (to & names) - {named(module), "unshaken"}
    return found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules of which each imports the next, and the last the first; none if there are none."""
    done: set[str] = set()

    def look(at: str, path: list[str]) -> list[str]:
        if at in path:
            return path[path.index(at) :]
        if at in done:
            return []
        found = next((c for to in sorted(graph.get(at, ())) if (c := look(to, [*path, at]))), [])
        done.add(at)
        return found

    return next((c for name in sorted(graph) if (c := look(name, []))), [])


def test_no_module_is_in_a_circle():
    assert circle(arrows()) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


def test_every_folder_has_a_layer():
    assert {place(module) for module in MODULES} == set(LEVEL)


def test_the_test_sees_a_wrong_arrow(tmp_path):
    module = tmp_path / "wrong.py"
    module.write_text("def f():\n    from unshaken.recipes.catalog import recipe\n    import unshaken.nets.network\n")
    assert imported(module) == {"recipes", "nets"}


@for_each(MODULES, lambda m: str(m.relative_to(SOURCE)))
def test_devices_and_processes_are_the_runtimes(module):
    """Only runtime.py says cuda, autocast or compile in code, and distributed.py and shared_batch.py distributed."""
    many = dict.fromkeys(("distributed.py", "shared_batch.py"), {"distributed"})
    own = ({"runtime.py": {"cuda", "autocast", "compile"}} | many).get(module.name, set())
    nodes = list(ast.walk(parsed(module)))
    names = {n.id for n in nodes if isinstance(n, ast.Name)} | {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    names -= {"compile"} if re.search(r"re\.compile", module.read_text()) else set()
    assert not names & ({"cuda", "autocast", "compile", "distributed"} - own)


def editors_names() -> dict[str, str]:
    """Where an editor finds the public names: the imports that only a type checker follows."""
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    blocks = [n.body for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    lines = [n for block in blocks for n in block if isinstance(n, ast.ImportFrom)]
    assert all(a.asname == a.name for n in lines for a in n.names), "only `X as X` counts as exported"
    return {a.name: n.module or "" for n in lines for a in n.names}


def test_an_editor_sees_the_names_that_are_loaded_when_needed():
    assert editors_names() == unshaken._WHERE
    assert set(unshaken.__all__) == {*unshaken._WHERE, *unshaken._ROOMS, "__version__"}
    assert (SOURCE / "py.typed").is_file()


REPORTS = [f"import unshaken.report.{file.stem}" for file in (SOURCE / "report").glob("[a-z]*.py")]


@pytest.mark.parametrize("statement", ["import unshaken", "import unshaken.cli", *sorted(REPORTS)])
def test_no_torch_before_it_is_needed(statement):
    done = subprocess.run([sys.executable, "-c", f"{statement}; import sys; assert 'torch' not in sys.modules"])
    assert done.returncode == 0


@pytest.mark.extra
def test_no_scikit_learn_before_it_is_needed():
    done = subprocess.run([sys.executable, "-c", "import unshaken.commands, sys; assert 'sklearn' not in sys.modules"])
    assert done.returncode == 0
