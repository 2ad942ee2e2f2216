"""Text from files of others, made harmless for a terminal, a page of Markdown, and whoever reads it elsewhere."""

from __future__ import annotations

import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

MARKS = r"[\\`*\[\]<>|~$&]|(?<![^\W_])_|_(?![^\W_])"
"""Signs that Markdown or HTML acts on within a line; an underscore only at the end of a word."""


def printable(value: Any, most: int = 200) -> str:
    """One line without characters that a terminal acts on; at most so many of them."""
    text = str(value)
    return "".join(sign if sign.isprintable() else "?" for sign in text[:most]) + ("..." if len(text) > most else "")


def markdown(value: Any, most: int = 200) -> str:
    """The same as text of a Markdown page: it shows as it is, and makes no link, image, table or HTML."""
    marked = re.sub(MARKS, r"\\\g<0>", printable(value, most))
    return re.sub(
        r"(?<=\w)(:)(?=//)|(?<=www)(\.)|(?<=\w)(@)(?=\w)", r"\\\g<0>", marked
    )  # what becomes a link by itself


def without_paths(value: Any) -> Any:
    """The same value with the last part of each path in the place of the path: what leaves a machine holds no path."""
    if isinstance(value, dict):
        kept = {name: without_paths(part) for name, part in value.items() if not _place(value, name)}
        return kept | ({"name": last_part(value["name"])} if value.get("type") == "DataSource" else {})
    if isinstance(value, (list, tuple)):
        return [without_paths(part) for part in value]
    return _shortened(value) if isinstance(value, str) else value


def _place(record: dict[str, Any], name: str) -> bool:
    return record.get("type") == "DataSource" and name in ("root", "download")


def last_part(name: Any) -> str:
    """What a path ends in, of whichever system it is; other names stay."""
    text = str(name)
    parts = PureWindowsPath(text) if re.match(r"[A-Za-z]:|\\\\", text) or "\\" in text else PurePosixPath(text)
    return parts.name or "unknown"


_PATH = re.compile(r"(?<![\w./:-])(?:~[\w.-]*|\.{1,2}|[A-Za-z]:)?(?:[/\\][^\s'\"`,;:()<>|]+)+")
"""In a sentence: from a slash, a drive, a home or a dot on, to the next space."""
_FILE = re.compile(r"[^'\"]*[/\\][^/\\'\"]*\.(?:safetensors|pt|pth|ckpt|json|parquet)")


def _shortened(text: str) -> str:
    """A text that is a path, or has some within."""
    whole = re.match(r"~|/|\\\\|\.{1,2}[/\\]|[A-Za-z]:[/\\]|runs/", text) and "\n" not in text
    return last_part(text) if whole or _FILE.fullmatch(text) else _PATH.sub(lambda found: last_part(found[0]), text)
