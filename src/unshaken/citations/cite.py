"""Citations: which papers a run has to cite, as BibTeX from papers.bib."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from unshaken.citations.credits import CLUSTERS, GHOST_BATCH, METHODS, OF_DATA, OF_NETWORK, OF_TYPE, ROUTES


@dataclass(frozen=True)
class Paper:
    """One entry of a .bib file; the title and the authors are in BibTeX's notation.

    venue  the short name of the venue, such as NeurIPS
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
        """The entry as BibTeX, with the full name of the venue."""
        width = max(map(len, self.fields))
        lines = ",\n".join(f"  {name:<{width}} = {{{value}}}" for name, value in self.fields.items())
        return f"@{self.kind}{{{self.key},\n{lines}\n}}"

    @property
    def heading(self) -> str:
        """The title without BibTeX's braces."""
        return re.sub(r"[{}]", "", self.title)

    @property
    def who(self) -> str:
        """The authors in short, such as Jiang et al."""
        names = [name.partition(",")[0] for name in self.authors.split(" and ")]
        return " & ".join(names) if len(names) < 3 else f"{names[0]} et al."


def entries(text: str) -> list[Paper]:
    """Read the entries of a .bib file and expand its @string macros.

    Each value is in braces or is the name of a macro. The macro's name is the short name of the venue.
    ValueError if an entry cannot be read, or two entries have the same key.
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
            raise ValueError(f"two entries have the key {key}")
        fields = _fields(rest, macros)
        short = [macro for _, macro in fields.values() if macro]
        values = {name: value for name, (value, _) in fields.items()}
        venue = (*short, values.get("institution", "arXiv"))[0]
        papers[key] = Paper(kind, key, values, venue)
    return list(papers.values())


def _fields(text: str, macros: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Read fields such as `name = {value}, name = MACRO`: by name, the value and the macro's name or ""."""
    found, at = {}, 0
    while named := re.compile(r"\s*(\w+)\s*=\s*(?:(\w+)|(?=\{))").match(text, at):
        name, macro = named[1], named[2] or ""
        if name in found or macro and macro not in macros:
            raise ValueError(f"an entry has the field {name} twice, or {macro!r} is not a macro")
        value = macros[macro] if macro else _braced(text, named.end())
        end = named.end() + (0 if macro else len(value) + 2)
        at = re.compile(r"\s*,?").match(text, end).end()
        found[name] = value, macro
    if text[at:].strip():
        raise ValueError(f"{text[at:].strip()[:40]!r} is not a field")
    return found


def _braced(text: str, start: int) -> str:
    """Return the text between the brace at `start` and its closing brace."""
    depth = 0
    for brace in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return text[start + 1 : brace.start()]
    raise ValueError(f"a brace is not closed: {text[start : start + 40]!r}")


BIBLIOGRAPHY = {paper.key: paper for paper in entries((files("unshaken.citations") / "papers.bib").read_text("utf-8"))}
"""All papers by key, in the order in which those of a run are printed."""


def of_method(name: str) -> tuple[str, ...]:
    """Return the papers of a recipe (acl or acl/cifar10) or of a fine-tuning mode; none for any other name."""
    credit = METHODS.get(name.partition("/")[0])
    return credit.papers if credit else ()


def of_network(name: str) -> tuple[str, ...]:
    """Return the papers of a backbone by its name: its family's, and that of timm if it comes from there."""
    bare = name.removeprefix("timm/")
    family_papers = tuple(key for family, key in OF_NETWORK.items() if re.match(rf"(?:{family})(?!v2)", bare))
    return family_papers + (("wightman2019timm",) if bare != name or bare == "vit-small" else ())


def cited(recipe: dict[str, Any]) -> list[Paper]:
    """Return the papers that a run used, each once, in the bibliography's order.

    recipe  plain JSON that is or contains recipes: recipe.json, the header of a file, a result
    """
    keys = set(_keys(recipe))
    return [paper for key, paper in BIBLIOGRAPHY.items() if key in keys]


def _keys(node: Any, field: str = "") -> Iterator[str]:
    """Iterate over the papers of a node and all nodes in it; `field` is the name of the field that holds the node."""
    if isinstance(node, list):
        for item in node:
            yield from _keys(item, field)
    elif isinstance(node, dict):
        yield from _own(node, field)
        for name, value in node.items():
            yield from _keys(value, name)
    elif isinstance(node, str) and field in ("teacher", "start"):
        yield from of_method(node)


def _own(node: dict[str, Any], field: str) -> Iterator[str]:
    """Iterate over the papers of one node, without those of the nodes in it.

    The recipe of an imported network has no method: the method's name is the recipe's, and its type may be a mode.
    """
    kind, name = str(node.get("type", "")), str(node.get("name", ""))
    yield from OF_TYPE.get(kind, ()) or of_method(kind)
    if kind == "Imported" or field in ("teacher", "start"):
        yield from of_method(name)
    if kind == "StepSchedule" and field in ("strength", "omega"):
        yield from OF_TYPE["DynACL"]
    if kind == "DataSource":
        called = Path(name).stem.lower()
        # a folder named digits holds somebody's own images; one named cifar10 is a copy of the standard set
        yield from OF_DATA.get(name if called == "digits" else called, ())
    for word in node.get("extra", ()) if kind == "Pretrain" else ():
        yield from OF_DATA.get(str(word).partition(":")[0], ())
    if kind == "Backbone":
        yield from of_network(name)
    if kind == "Evaluation":
        used = {"AutoAttack": node.get("autoattack", "none") != "none", "Corruption": node.get("corruptions")}
        yield from (key for attack, is_used in used.items() if is_used for key in OF_TYPE[attack])
    if node.get("clusters"):
        yield from CLUSTERS
    if node.get("ghost_batch"):
        yield from GHOST_BATCH
    if isinstance(node.get("routes"), list) and len(node["routes"]) > 1:  # an import's report has a text there
        yield from ROUTES
