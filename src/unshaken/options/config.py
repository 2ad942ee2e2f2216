"""Configuration files: a YAML or JSON file of options, or the recipe.json of a run"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from unshaken.base.json_files import parse_json, read_bytes
from unshaken.base.serialize import to_json
from unshaken.options.fields import FLAT, options_of
from unshaken.options.words import take_option

MOST = 1 << 20
"""The largest configuration file, in bytes, and the most values that it may have once its aliases are followed."""
RECORD = {"hash", "recipe", "data"}
"""The fields of a run's recipe.json."""
UNSET = ("code",)
"""Fields of a recipe.json that no option sets: the digest of a user's own class."""


@dataclass(frozen=True)
class Config:
    """The options in a file, by dotted names or nested. No option of the command line is in it.

    file    the file, for messages; None without one
    values  nested values, with the names of fields
    of_run  the file is a run's recipe.json, which says the values of all fields
    """

    file: Path | None = None
    values: dict[str, Any] = field(default_factory=dict)
    of_run: bool = False

    @classmethod
    def take(cls, args: list[str]) -> tuple[Config, list[str]]:
        """Read the file that --config names, if it is among the words, and return the words that are left."""
        name, rest = take_option(args, "--config")
        return (cls.read(Path(name)), rest) if name else (cls(), args)

    @classmethod
    def read(cls, file: Path) -> Config:
        """Read a file. ValueError, in one line that names it, if it is no mapping of names to values."""
        if file.is_dir():
            file = file / "recipe.json"
        content = bytes(read_bytes(file, MOST))
        found = parse_json(content, str(file)) if file.suffix == ".json" else _yaml(content, file)
        if not isinstance(found, dict):
            raise ValueError(f"{file} has to map names of options to values, such as `epochs: 30`")
        if found.keys() >= RECORD:
            return cls(file, _located(found["recipe"], file), of_run=True)
        values = _nested(found, file)
        data = values.pop("dataset", values.get("data"))  # as on the command line, --data is --data.name
        if data is not None:
            named = {"name": data} if not isinstance(data, dict) else {"name": data["type"]} if "type" in data else {}
            inner = data if isinstance(data, dict) else {}
            values["data"] = named | {key: value for key, value in inner.items() if key != "type"}
        return cls(file, _located(values, file))

    def take_value(self, *path: str) -> tuple[str | None, Config]:
        """Return one value as a word of the command line, None if it is not there, and the config without it."""
        *outer, last = path
        holder = self.values
        for name in outer:
            holder = holder.get(name, {}) if isinstance(holder, dict) else {}
        if not isinstance(holder, dict) or last not in holder:
            return None, self
        found = _words(holder[last])
        return ",".join(found), Config(self.file, _without(self.values, path), self.of_run)

    def words(self, default: Any) -> list[str]:
        """Return the words that change a default value into what the file says: nothing for what is equal already."""
        values = {key: value for key, value in self.values.items() if key not in FLAT}
        for name in FLAT:  # a recipe's fields may be written below `recipe`, or beside it
            inner = self.values.get(name)
            values |= inner if isinstance(inner, dict) else {}
        return [word for flag, words in _changes(default, values) for word in (flag, *words)]


def _changes(default: Any, values: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield the flag and the words of each value that differs from the default's."""
    now = to_json(default)
    for name in FLAT:
        now = now | now.pop(name) if isinstance(now.get(name), dict) else now
    switches = {option.flag for option in options_of(default) if option.is_switch}

    def walk(values: Mapping[str, Any], now: Any, prefix: str) -> Iterator[tuple[str, list[str]]]:
        for name, value in values.items():
            flag, old = f"--{prefix}{name.replace('_', '-')}", now.get(name, ...) if isinstance(now, dict) else ...
            if name in UNSET or (name == "type" and prefix) or _same(value, old):
                continue
            if not isinstance(value, dict):
                yield _flag(flag, value, switches)
                continue
            kind = value.get("type")
            if isinstance(old, dict) and kind in (None, old.get("type")):
                yield from walk(value, old, f"{flag[2:]}.")
            else:
                if kind is not None:
                    yield flag, [str(kind)]
                yield from walk(value, {}, f"{flag[2:]}.")

    yield from walk(values, now, "")


def _flag(flag: str, value: Any, switches: set[str]) -> tuple[str, list[str]]:
    """Return an option as words; a switch is on or off by its flag alone."""
    words = _words(value)
    if flag in switches and words in (["true"], ["True"], ["yes"], ["on"]):
        return flag, []
    if flag in switches and words in (["false"], ["False"], ["no"], ["off"]):
        path, dot, name = flag.removeprefix("--").rpartition(".")
        return f"--{path}{dot}no-{name}", []
    return flag, words


def _located(values: dict[str, Any], file: Path) -> dict[str, Any]:
    """Return the values with the paths of data and encoders as they are seen from here.

    A relative path is looked for in this folder, and then in those of the file, from its own to the root. What is
    taken from there, or could be, is said.
    """
    data = values.get("data")
    if isinstance(data, dict) and isinstance(data.get("name"), str) and not data.get("given"):
        values = values | {"data": data | {"name": _nearest(data["name"], file)}}
    names = {key: values[key] for key in ("teacher", "start") if isinstance(values.get(key), str)}
    return values | {key: _nearest(name, file) for key, name in names.items()}


def _nearest(name: str, file: Path) -> str:
    from unshaken.data.source import STANDARD  # it needs torch, which a report does without

    path = Path(name).expanduser()
    if not name or name in STANDARD or path.is_absolute():
        return name
    there = next((above / path for above in file.resolve().parents if (above / path).exists()), None)
    if there is None or (path.exists() and path.samefile(there)):
        return name
    taken = path.resolve() if path.exists() else there
    beside = f", and not {there}" if path.exists() else ""
    print(f"note: {name} in {file} is taken as {taken}{beside}", file=sys.stderr)
    return name if path.exists() else str(there)


def _words(value: Any) -> list[str]:
    """Return a value as one would type it."""
    if isinstance(value, list):
        return [word for each in value for word in _words(each)]
    if value is None or value in ("null", "~", ""):
        return ["None"]
    return [str(value)]


def _same(value: Any, old: Any) -> bool:
    """Return whether a value of a file is the default's, also if the file has it as text."""
    if isinstance(value, dict) or isinstance(old, dict) or old is ...:
        return value == old
    words = [str(each).lower() for each in _words(value)]
    return words == [str(each).lower() for each in _words(old)]


def _without(values: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    name, *inner = path
    if inner:
        return values | {name: _without(values[name], tuple(inner))}
    return {key: value for key, value in values.items() if key != name}


def _nested(values: dict[str, Any], file: Path) -> dict[str, Any]:
    """Return values with dotted names as nested ones, and with _ for -: a.b-c is a: {b_c: ...}."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        *outer, last = str(name).removeprefix("--").replace("-", "_").split(".")
        value = _nested(value, file) if isinstance(value, dict) else value
        holder = found
        for part in outer:
            if not isinstance(holder.setdefault(part, {}), dict):
                holder[part] = {"type": holder[part]}  # optimizer: SGD, and then optimizer.momentum: 0.5
            holder = holder[part]
        old = holder.get(last)
        if isinstance(old, dict) != isinstance(value, dict) and last in holder:
            old, value = ({"type": each} if not isinstance(each, dict) else each for each in (old, value))
        if last in holder and not (isinstance(old, dict) and not old.keys() & value.keys()):
            raise ValueError(f"{file} gives {name} twice")
        holder[last] = old | value if isinstance(old, dict) else value
    return found


class _Loader(yaml.BaseLoader):
    """Reads every scalar as text, so that `no`, 1e-3 and 8/255 stay as they are written."""


def _mapping(loader: yaml.BaseLoader, node: yaml.MappingNode) -> dict[str, Any]:
    pairs = [tuple(loader.construct_object(each, deep=True) for each in pair) for pair in node.value]
    names = [name for name, _ in pairs]
    if any(not isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise yaml.YAMLError("a name is there twice, or is no text")
    return dict(pairs)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def _yaml(content: bytes, file: Path) -> Any:
    try:
        found = yaml.load(content.decode(), _Loader)  # noqa: S506 (a BaseLoader makes no objects)
        json_size(found)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read as YAML ({' '.join(str(error).split())[:200]})") from None
    return {} if found in (None, "") else found


def json_size(value: Any) -> None:
    """Raise a YAMLError if aliases blow a value up beyond MOST characters."""
    size = 0
    for piece in json.JSONEncoder().iterencode(value):
        size += len(piece)
        if size > MOST:
            raise yaml.YAMLError("its aliases make it too large")
