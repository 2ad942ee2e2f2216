"""A frozen dataclass as canonical text, and the short hash of it that names a run."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from unshaken.base.source_digest import code_of

ASIDE = {"aside": True}
"""Metadata of a field that says where something lies, not what it is: it is no part of the canonical text."""
LATER = {"later": True}
"""Metadata of a field that came later: left out while it has its default, so that names of before stay."""


def to_json(value: Any, whole: bool = True) -> Any:
    """Dataclasses, tuples and paths as dictionaries, lists and strings; a dataclass keeps its name under "type".

    One of a class outside this package has a digest of its code under "code" too: an edited class is another recipe.
    """
    if is_dataclass(value) and not isinstance(value, type):
        kept = [f for f in fields(value) if whole or not f.metadata.get("aside")]
        kept = [f for f in kept if not (f.metadata.get("later") and getattr(value, f.name) == f.default)]
        code = code_of(type(value))
        head = {"type": type(value).__name__} | ({"code": code} if code else {})
        return head | {f.name: to_json(getattr(value, f.name), whole) for f in kept}
    if isinstance(value, dict):
        return {str(key): to_json(item, whole) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(item, whole) for item in value]
    return str(value) if isinstance(value, Path) else value


def canonical(value: Any) -> str:
    """Equal values, equal text: JSON with sorted keys and no spaces. Floats are written so that they read back."""
    return json.dumps(to_json(value, whole=False), sort_keys=True, separators=(",", ":"), allow_nan=False)


def short_hash(value: Any) -> str:
    """8 hexadecimal digits of the canonical text."""
    return blake2b(canonical(value).encode(), digest_size=4).hexdigest()
