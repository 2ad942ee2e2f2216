"""The tree in CONTRIBUTING is the tree: every module is captioned by the first line of its own docstring."""

import ast
import re
from functools import cache
from pathlib import Path

from variants import for_each

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "unshaken"
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
LONGEST = 300
"""Lines of a file, at most: a longer one is two ideas."""
LARGEST = 0.10
"""The part of all lines that one room may have."""


@cache
def captions() -> dict[str, str]:
    """Path to caption of the tree; a folder ends in a slash and stands for its __init__.py."""
    block = re.search(r"```\n(src/unshaken/.*?)```", PAGE, re.DOTALL).group(1)
    found, folders = {}, []
    for line in block.splitlines()[1:]:
        indent, name, caption = re.fullmatch(r"( *)(\S+) *(.*)", line).groups()
        folders = folders[: len(indent) // 4 - 1]
        found["".join(folders) + name] = caption
        if name.endswith("/"):
            folders.append(name)
    return found


def first_line(module: Path) -> str:
    return ast.get_docstring(ast.parse(module.read_text())).splitlines()[0]


@cache
def modules() -> dict[str, str]:
    """Path to first docstring line of every module of the package."""
    found = {}
    for module in SOURCE.rglob("*.py"):
        path = str(module.relative_to(SOURCE))
        found[path.removesuffix("__init__.py") if module.name == "__init__.py" else path] = first_line(module)
    found.pop("", None)
    return found


@for_each(sorted(modules()))
def test_captions_are_first_lines(path):
    assert captions().get(path, "is not in the tree").rstrip(".") == modules()[path].rstrip(".")


def test_nothing_in_the_tree_is_gone():
    assert set(captions()) == set(modules())


def lines(module: Path) -> int:
    return len(module.read_text().splitlines())


@for_each(sorted(SOURCE.rglob("*.py")), lambda m: str(m.relative_to(SOURCE)))
def test_a_file_is_one_idea(module):
    assert lines(module) <= LONGEST


def test_no_room_is_a_landing():
    rooms = {room.name: sum(map(lines, room.rglob("*.py"))) for room in SOURCE.iterdir() if room.is_dir()}
    total = sum(rooms.values())
    assert {name: count for name, count in rooms.items() if count > LARGEST * total} == {}


def test_no_description_is_a_clause_without_a_sentence():
    """A docstring that begins with "What ..." or "Whether ..." has no subject: the reader has to supply it.

    "What to do about ..." is a question that an option answers, and stays.
    """
    opening = re.compile(r'^\s*(?:r?""")(?:What (?!to )|Whether )')
    found = [
        f"{module.relative_to(SOURCE)}:{number}"
        for module in sorted(SOURCE.rglob("*.py"))
        for number, line in enumerate(module.read_text().splitlines(), 1)
        if opening.match(line)
    ]
    assert found == []
