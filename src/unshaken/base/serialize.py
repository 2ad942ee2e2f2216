"""Canonical text of a frozen dataclass, and the short hash of it that names a run."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from unshaken.base.source_digest import code_of

ASIDE = {"aside": True}
"""Metadata of a field that says where something lies, not what it is: the canonical text leaves it out."""
LATER = {"later": True}
"""Metadata of a field that was added later: left out while it has its default, so that older runs keep their names."""

UNSAVED = {"unsaved": True}
"""Metadata of a field that is never written: an object in memory, of which another field holds the digest."""


def to_json(value: Any, whole: bool = True) -> Any:
    """Turn dataclasses, tuples and paths into dictionaries, lists and strings.

    A dataclass has its class name under "type". A class outside this package also has a digest of its code under
    "code", because a recipe with an edited class is another recipe; so has a value that has a `code` of its own.
    whole  include the fields that say where something lies
    """
    if is_dataclass(value) and not isinstance(value, type):
        included = [f for f in fields(value) if not f.metadata.get("unsaved")]
        included = [f for f in included if whole or not f.metadata.get("aside")]
        included = [f for f in included if not (f.metadata.get("later") and getattr(value, f.name) == f.default)]
        code = code_of(type(value)) or getattr(value, "code", "")
        head = {"type": type(value).__name__} | ({"code": code} if code else {})
        return head | {f.name: to_json(getattr(value, f.name), whole) for f in included}
    if isinstance(value, dict):
        return {str(key): to_json(item, whole) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(item, whole) for item in value]
    return str(value) if isinstance(value, Path) else value


def canonical(value: Any) -> str:
    """Return JSON with sorted keys and no spaces, in which equal values have equal text and floats keep all bits."""
    return json.dumps(to_json(value, whole=False), sort_keys=True, separators=(",", ":"), allow_nan=False)


def short_hash(value: Any) -> str:
    """Return 8 hexadecimal digits of a hash of the canonical text."""
    return blake2b(canonical(value).encode(), digest_size=4).hexdigest()
