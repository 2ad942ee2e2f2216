"""Which papers a run owes, and BibTeX: read from papers.bib, printed for a paper of one's own"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from unshaken.citations.credits import CLUSTERS, METHODS, OF_DATA, OF_NETWORK, OF_TYPE, ROUTES


@dataclass(frozen=True)
class Paper:
    """One entry of a .bib file; title and authors are written as in BibTeX.

    venue  in short: NeurIPS
    """

    kind: str
    key: str
    fields: dict[str, str]
    venue: str

    @property
    def title(self) -> str:
        return self.fields["title"]

    @property
    def authors(self) -> str:
        return self.fields["author"]

    @property
    def year(self) -> int:
        return int(self.fields["year"])

    @property
    def arxiv(self) -> str:
        return self.fields.get("eprint", "")

    @property
    def bibtex(self) -> str:
        """The entry with its venue in full."""
        width = max(map(len, self.fields))
        lines = ",\n".join(f"  {name:<{width}} = {{{value}}}" for name, value in self.fields.items())
        return f"@{self.kind}{{{self.key},\n{lines}\n}}"

    @property
    def heading(self) -> str:
        """The title for people."""
        return re.sub(r"[{}]", "", self.title)

    @property
    def who(self) -> str:
        """Jiang et al."""
        names = [name.partition(",")[0] for name in self.authors.split(" and ")]
        return " & ".join(names) if len(names) < 3 else f"{names[0]} et al."


def entries(text: str) -> list[Paper]:
    """The entries of a .bib file, its @string macros expanded.

    Each value is in braces, or is the name of a macro, which is then the venue in short.
    ValueError if an entry cannot be read, or its key is there twice.
    """
    macros: dict[str, str] = {}
    papers: dict[str, Paper] = {}
    for head in re.finditer(r"^@(\w+)(?=\{)", text, re.MULTILINE):
        kind, body = head[1], _braced(text, head.end())
        if kind == "string":
            macros |= {name: value for name, (value, _) in _fields(body, macros).items()}
            continue
        key, _, rest = body.partition(",")
        if key in papers:
            raise ValueError(f"{key} is there twice")
        fields = _fields(rest, macros)
        short = [macro for _, macro in fields.values() if macro]
        values = {name: value for name, (value, _) in fields.items()}
        venue = (*short, values.get("institution", "arXiv"))[0]
        papers[key] = Paper(kind, key, values, venue)
    return list(papers.values())


def _fields(text: str, macros: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Value, and macro if it is one, by name, of `name = {value}, name = MACRO`."""
    found, at = {}, 0
    while named := re.compile(r"\s*(\w+)\s*=\s*(?:(\w+)|(?=\{))").match(text, at):
        name, macro = named[1], named[2] or ""
        if name in found or macro and macro not in macros:
            raise ValueError(f"{name} is there twice, or {macro!r} is no macro")
        value = macros[macro] if macro else _braced(text, named.end())
        end = named.end() + (0 if macro else len(value) + 2)
        at = re.compile(r"\s*,?").match(text, end).end()
        found[name] = value, macro
    if text[at:].strip():
        raise ValueError(f"{text[at:].strip()[:40]!r} is no field")
    return found


def _braced(text: str, start: int) -> str:
    """What is between the brace at `start` and the one that closes it."""
    depth = 0
    for brace in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return text[start + 1 : brace.start()]
    raise ValueError(f"a brace is not closed: {text[start : start + 40]!r}")


BIBLIOGRAPHY = {paper.key: paper for paper in entries((files("unshaken.citations") / "papers.bib").read_text("utf-8"))}
"""By key, in the order in which a run's papers are printed."""


def of_method(name: str) -> tuple[str, ...]:
    """Of a recipe or mode, with or without a data set after it; none if it is neither."""
    credit = METHODS.get(name.partition("/")[0])
    return credit.papers if credit else ()


def of_network(name: str) -> tuple[str, ...]:
    """Of a backbone by its name; of timm's, the package and the family if it is one of these."""
    bare = name.removeprefix("timm/")
    known = tuple(key for family, key in OF_NETWORK.items() if re.match(rf"(?:{family})(?!v2)", bare))
    return known + (("wightman2019timm",) if bare != name or bare == "vit-small" else ())


def cited(recipe: dict[str, Any]) -> list[Paper]:
    """What a run used, each paper once, in the bibliography's order.

    recipe  plain JSON: a recipe, or whatever holds some: recipe.json, the header of a file, a result
    """
    keys = set(_keys(recipe))
    return [paper for key, paper in BIBLIOGRAPHY.items() if key in keys]


def _keys(node: Any, place: str = "") -> Iterator[str]:
    """Of a part and all parts in it; `place` is the name of the field that it is in."""
    if isinstance(node, list):
        for item in node:
            yield from _keys(item, place)
    elif isinstance(node, dict):
        yield from _own(node, place)
        for name, part in node.items():
            yield from _keys(part, name)
    elif isinstance(node, str) and place in ("teacher", "start"):
        yield from of_method(node)


def _own(part: dict[str, Any], place: str) -> Iterator[str]:
    """Of one part by itself. What others trained has a method's name instead of a method, and a mode's as its type."""
    kind, name = str(part.get("type", "")), str(part.get("name", ""))
    yield from OF_TYPE.get(kind, ()) or of_method(kind)
    if kind == "Imported" or place in ("teacher", "start"):
        yield from of_method(name)
    if kind == "StepSchedule" and place in ("strength", "omega"):
        yield from OF_TYPE["DynACL"]
    if kind == "DataSource":
        called = Path(name).stem.lower()  # a folder called digits holds somebody's own
        yield from OF_DATA.get(name if called == "digits" else called, ())
    if kind == "Backbone":
        yield from of_network(name)
    if kind == "Evaluation":
        asked = {"AutoAttack": part.get("autoattack", "none") != "none", "Corruption": part.get("corruptions")}
        yield from (key for attack, is_asked in asked.items() if is_asked for key in OF_TYPE[attack])
    if part.get("clusters"):
        yield from CLUSTERS
    if isinstance(part.get("routes"), list) and len(part["routes"]) > 1:  # what import says of them is a sentence
        yield from ROUTES
