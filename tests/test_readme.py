"""The README's tree is the tree: each file that it captions is captioned as the file's own first line says."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "unshaken"
README = (ROOT / "README.md").read_text()


def captions() -> dict[str, str]:
    """Path to caption of the README's tree; a folder ends in a slash and stands for its __init__.py."""
    block = re.search(r"```\n(src/unshaken/.*?)```", README, re.DOTALL).group(1)
    found, folders = {}, []
    for line in block.splitlines()[1:]:
        indent, name, caption = re.fullmatch(r"([│├└─ ]*)(\S+) *(.*)", line).groups()
        depth = len(indent) // 4
        folders = folders[: depth - 1]
        found["".join(folders) + name] = caption
        if name.endswith("/"):
            folders.append(name)
    return found


def first_line(module: Path) -> str:
    return ast.get_docstring(ast.parse(module.read_text())).splitlines()[0]


def modules() -> dict[str, str]:
    """Path to first docstring line of every module of the package."""
    found = {}
    for module in SOURCE.rglob("*.py"):
        path = str(module.relative_to(SOURCE))
        found[path.removesuffix("__init__.py") if module.name == "__init__.py" else path] = first_line(module)
    found.pop("", None)
    return found


@pytest.mark.parametrize("path", sorted(modules()))
def test_captions_are_first_lines(path):
    assert captions().get(path, "is not in the README's tree").rstrip(".") == modules()[path].rstrip(".")


def test_nothing_in_the_tree_is_gone():
    assert set(captions()) == set(modules())


def test_the_commands_are_real():
    """The two commands are targets of the Makefile, and make test is what CI runs."""
    targets = (ROOT / "Makefile").read_text()
    assert all(
        re.search(rf"^{name}:", targets, re.MULTILINE) for name in re.findall(r"^make (\w+)", README, re.MULTILINE)
    )
    assert "make test" in (ROOT / ".ci" / "run").read_text()
