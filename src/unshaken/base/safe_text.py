"""Escaping of untrusted text for terminals and Markdown, and removal of local paths."""

from __future__ import annotations

import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

MARKS = r"[\\`*\[\]<>|~$&]|(?<![^\W_])_|_(?![^\W_])"
"""Characters with a meaning in Markdown or HTML; an underscore only at the start or end of a word."""


def printable(value: Any, most: int = 200) -> str:
    """Return the text on one line, with "?" for control characters, cut after `most` characters."""
    text = str(value)
    return "".join(c if c.isprintable() else "?" for c in text[:most]) + ("..." if len(text) > most else "")


def markdown(value: Any, most: int = 200) -> str:
    """Escape text for a Markdown page, so that it shows as it is and makes no link, image, table or HTML."""
    escaped = re.sub(MARKS, r"\\\g<0>", printable(value, most))
    # addresses become links even without brackets
    return re.sub(r"(?<=\w)(:)(?=//)|(?<=www)(\.)|(?<=\w)(@)(?=\w)", r"\\\g<0>", escaped)


def without_paths(value: Any) -> Any:
    """Shorten every path within a JSON value to its last component, so that a published file shows no local path."""
    if isinstance(value, dict):
        rest = {name: without_paths(item) for name, item in value.items() if not _is_local(value, name)}
        if value.get("type") == "Pretrain" and "extra" in value:
            rest["extra"] = [last_part(name) for name in value["extra"]]
        return rest | ({"name": last_part(value["name"])} if value.get("type") == "DataSource" else {})
    if isinstance(value, (list, tuple)):
        return [without_paths(item) for item in value]
    return _shorten_paths(value) if isinstance(value, str) else value


def _is_local(record: dict[str, Any], name: str) -> bool:
    """Return whether a field says where the data lie on this machine."""
    return record.get("type") == "DataSource" and name in ("root", "download")


def last_part(name: Any) -> str:
    """Return the last component of a path in Unix or Windows form; other names are returned unchanged."""
    text = str(name)
    parts = PureWindowsPath(text) if re.match(r"[A-Za-z]:|\\\\", text) or "\\" in text else PurePosixPath(text)
    return parts.name or "unknown"


_PATH = re.compile(r"(?<![\w./:-])(?:~[\w.-]*|\.{1,2}|[A-Za-z]:)?(?:[/\\][^\s'\"`,;:()<>|]+)+")
"""A path within a sentence: it begins with a slash, a drive, a home or a dot, and ends before the next space."""
_FILE = re.compile(r"[^'\"]*[/\\][^/\\'\"]*\.(?:safetensors|pt|pth|ckpt|json|parquet)")


def _shorten_paths(text: str) -> str:
    """Shorten a path, or every path within a sentence."""
    is_path = re.match(r"~|/|\\\\|\.{1,2}[/\\]|[A-Za-z]:[/\\]|runs/", text) and "\n" not in text
    return last_part(text) if is_path or _FILE.fullmatch(text) else _PATH.sub(lambda found: last_part(found[0]), text)
