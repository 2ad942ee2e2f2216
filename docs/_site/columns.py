"""A docstring's two columns, a name and what it is, as a list: Markdown would join their lines into one."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROW = re.compile(r"^(\S(?:[^\n]*?\S)??) {2,}(\S.*)$")


class Columns(griffe.Extension):
    """Writes each block of rows `name  what it is` of a docstring as a list."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = "\n\n".join(map(listed, obj.docstring.value.split("\n\n")))


def listed(block: str) -> str:
    """A block as a list if its first line is a row; any other block as it is."""
    lines = block.split("\n")
    if not ROW.match(lines[0]):
        return block
    items: list[str] = []
    for line in lines:
        row = None if line.startswith(" ") else ROW.match(line)
        if row:
            items.append(f"- `{row[1]}`: {row[2]}")
        elif line.startswith(" ") and items:
            items[-1] += f" {line.strip()}"
        else:
            items.append(f"\n{line}")
    return "\n".join(items)
