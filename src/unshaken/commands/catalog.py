"""`unshaken list` and `unshaken cite`: names, a recipe's values, and the papers of a run."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unshaken.base.json_files import read_json
from unshaken.base.json_shapes import check_shape
from unshaken.base.serialize import to_json
from unshaken.base.suggest import did_you_mean
from unshaken.base.terminal import console, printable
from unshaken.citations.cite import BIBLIOGRAPHY, Paper, cited, of_method, of_network
from unshaken.citations.credits import METHODS, OF_DATA
from unshaken.interop.load import WITHIN, file_in
from unshaken.nets.backbone import sides
from unshaken.nets.checkpoint import ORIGIN, RECIPE, read_tensors
from unshaken.nets.resnet import KINDS
from unshaken.options import number_text, values_of
from unshaken.recipes.catalog import RECIPES, recipe
from unshaken.recipes.datasets import DATASETS
from unshaken.report.records import TableOptions, cell_records, print_records

Row = tuple[str, ...]
Table = tuple[Row, list[Row]]
"""The names of the columns, and the rows."""
CREDITED = ("paper", "venue", "arXiv", "what differs from the released code")
NONE = "–"
QUOTED = "; did you mean {!r}?"
MODE_LINES = {
    "slf": "standard linear",
    "alf": "adversarial linear",
    "aff": "adversarial full (TRADES)",
    "autolora": "adversarial full, clean images in a low-rank branch",
}
"""Every mode in one line; --mode all is the first three."""
LIST_USAGE = """usage: unshaken list [TOPIC | RECIPE]

  methods      recipes of pre-training: paper, venue, and what differs from the released code
  modes        the same for fine-tuning
  data         data sets, and the defaults of a recipe for each
  networks     names for --backbone.name
  acl/cifar10  or another recipe: each of its values, with the option that changes it

A table on a terminal, Markdown in a pipe or a file; for other programs --json or --csv."""
RECORD = {"recipe?": RECIPE, "pretrain?": ORIGIN, "finetune?": ORIGIN}
"""The shape of a run's record, in whichever file it is."""
CITE_USAGE = """usage: unshaken cite RUN

RUN: a run's folder, an encoder or classifier file, a result; or a recipe (acl/cifar10), a method (acl), a mode (aff)

BibTeX on standard output: unshaken cite RUN > papers.bib"""


def list_(args: list[str]) -> None:
    if args and args[0] in ("-h", "--help"):
        print(LIST_USAGE)
        raise SystemExit(0)
    if not args:
        print(summary())
        return
    args, form = [word for word in args if word not in FORMS], list_form(args)
    if not args and form.for_programs:
        print_records([{"recipe": name, "what": first_line(make)} for name, make in RECIPES.items()], form)
        return
    known = args and (args[0] in TOPICS or args[0].partition("/")[0] in RECIPES)
    if not known or len(args) > 1:
        word = args[1] if known else args[0]
        hint = did_you_mean(word, [*TOPICS, *RECIPES], QUOTED)
        topics = ", ".join(TOPICS)
        raise ValueError(f"`unshaken list` takes no arguments, a recipe, or one of {topics}; not {word!r}{hint}")
    columns, rows = TOPICS[args[0]]() if args[0] in TOPICS else recipe_table(args[0])
    if form.for_programs:
        print_records(cell_records(columns, rows), form)
    else:
        show(columns, rows)


def list_form(args: list[str]) -> TableOptions:
    return TableOptions(json="--json" in args, csv="--csv" in args)


def first_line(make: Callable[..., Any]) -> str:
    return (make.__doc__ or "").splitlines()[0]


def summary() -> str:
    recipes = [f"  {name:<14} {first_line(make)}" for name, make in RECIPES.items()]
    modes = [f"  {mode:<14} {line}" for mode, line in MODE_LINES.items()]
    return "\n".join(
        [
            "Recipes of pre-training, METHOD/SET:",
            *recipes,
            f"  SET is {', '.join(DATASETS)}; or any of them with --data PATH for images of your own.",
            "Fine-tuning, --mode:",
            *modes,
            f"More: unshaken list {' | '.join(TOPICS)}; every value of a recipe, unshaken list METHOD/SET;",
            "for BibTeX, unshaken cite METHOD or RUN.",
        ]
    )


def recipe_table(name: str) -> Table:
    """Every value of a recipe: the option that changes it, the value, and its meaning."""
    found = recipe(name)
    method, _, data = name.partition("/")
    title = first_line(RECIPES[method])
    values = [(row.option, row.value, first_sentence(row.meaning)) for row in values_of(found)]
    return ("option", "value", "meaning"), [("recipe", f"{method}/{data or 'cifar10'}", title), *values]


def first_sentence(text: str) -> str:
    """The text up to its first full stop before a capital letter; "et al." is none."""
    return re.split(r"(?<!\bal)\.\s+(?=[A-Z0])", text, maxsplit=1)[0].rstrip(".")


def methods() -> Table:
    return ("recipe", *CREDITED), [(name, *credited(name)) for name in RECIPES]


def modes() -> Table:
    return ("mode", "what", *CREDITED), [(mode, line, *credited(mode)) for mode, line in MODE_LINES.items()]


def credited(name: str) -> Row:
    """The cells under CREDITED: the paper that introduced a method, if there is one."""
    credit = METHODS[name]
    if not credit.papers:
        return NONE, NONE, NONE, credit.differs
    paper = BIBLIOGRAPHY[credit.papers[0]]
    return f"{paper.who}: {paper.heading}", f"{paper.venue} {paper.year}", paper.arxiv, credit.differs


def data() -> Table:
    rows = []
    for name, s in DATASETS.items():
        norm = s.ball.norm
        network = f"{s.backbone.name}, {s.backbone.image_size} pixels"
        origin = BIBLIOGRAPHY[OF_DATA[name][0]]
        rows.append(
            (
                name,
                s.split,
                network,
                f"{norm} {number_text(s.ball.eps)}",
                str(s.epochs),
                str(s.batch_size),
                f"{origin.who} {origin.year}",
            )
        )
    return ("set", "pre-trains on", "network", "ε", "epochs", "batch", "from"), rows


def networks() -> Table:
    rows = []
    for name in (*KINDS, "wrn-28-10", "vit-small", "timm/NAME"):
        paper = BIBLIOGRAPHY[of_network(name)[0]]
        pixels = str(sides(name)).replace(" pixels", "")
        origin = f"{paper.who}, {paper.venue} {paper.year}"
        rows.append((name, pixels, NETWORK_NOTES.get(name, ""), origin, paper.arxiv or NONE))
    return ("name", "for pixels", "note", "paper", "arXiv"), rows


NETWORK_NOTES = {
    "resnet-small": "two stages of one block, for digits",
    "wrn-28-10": "or another depth and factor, wrn-34-10",
    "vit-small": "needs unshaken[timm]",
    "timm/NAME": "any name of timm's; needs unshaken[timm]",
}
FORMS = ("--json", "--csv")
TOPICS: dict[str, Callable[[], Table]] = {
    "methods": methods,
    "modes": modes,
    "data": data,
    "networks": networks,
}


def show(columns: Row, rows: list[Row]) -> None:
    """Print a table on a terminal, and Markdown to a pipe or a file."""
    if not sys.stdout.isatty():
        lines = [columns, ("---",) * len(columns), *rows]
        print("\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines))
        return
    from rich import table
    from rich.text import Text

    columns, rows = stacked(columns, rows)
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    shown = table.Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, int(max(widths) > 60), 0))
    for column, width in zip(columns, widths, strict=True):
        shown.add_column(column, no_wrap=width < 16, overflow="fold")
    for first, *others in rows:
        shown.add_row(Text(printable(first), style="bold"), *(Text(printable(cell)) for cell in others))
    console().print(shown)


def stacked(columns: Row, rows: list[Row]) -> Table:
    """Write the four columns under CREDITED as two, because a terminal is narrow."""
    if columns[-len(CREDITED) :] != CREDITED:
        return columns, rows
    stacks = []
    for *others, paper, venue, arxiv, differs in rows:
        where = "" if venue == NONE else f"\n{venue}, arXiv {arxiv}"
        stacks.append((*others, paper + where, differs))
    return (*columns[: -len(CREDITED)], CREDITED[0], CREDITED[-1]), stacks


def cite(args: list[str]) -> None:
    if args and args[0] in ("-h", "--help"):
        print(CITE_USAGE)
        raise SystemExit(0)
    if len(args) != 1:
        raise ValueError("`unshaken cite` needs one thing to cite: a run, a file, or a method such as acl")
    what, papers = of_word(args[0])
    comment = printable(" ".join(what.split())).replace("@", " at ")  # BibTeX reads an entry after every @
    print("\n\n".join([f"% {comment}", *(paper.bibtex for paper in papers)]))


def of_word(name: str) -> tuple[str, list[Paper]]:
    """Return a line about a run, file, recipe or method, and its papers. Raises ValueError for any other word."""
    path = Path(name)
    if path.exists():
        record = check_shape(record_of(path), RECORD, name)
        return f"What {name} used: {made_by(record)}", cited(record)
    if "/" in name and name.partition("/")[0] in RECIPES:
        return f"What the recipe {name} uses", cited(planned(name))
    if name in METHODS:
        papers = [BIBLIOGRAPHY[key] for key in of_method(name)]
        more = f"; `unshaken cite {name}/cifar10` has all that the recipe uses" if name in RECIPES else ""
        return f"{'Papers of' if papers else 'There is no paper of'} {name}{more}", papers
    raise ValueError(f"{name!r} is neither a run, nor a file, nor a method{did_you_mean(name, METHODS, QUOTED)}")


def planned(name: str) -> dict[str, Any]:
    """A recipe by name as a record, with the recipe of its teacher."""
    values = to_json(recipe(name))
    teacher = values.get("teacher")
    return {"recipe": values} | ({"teacher": planned(teacher)} if teacher else {})


def record_of(path: Path) -> dict[str, Any]:
    """The record of a run: from the header of its file, and from its result if there is one."""
    if path.suffix == ".json":
        content = read_json(path)
        if not content.keys() & {"recipe", "pretrain"}:
            raise ValueError(f"{path} is neither a result nor a recipe")
        beside = path.with_name("classifier.safetensors")
        return (read_tensors(beside)[1] if beside.exists() else {}) | content
    if (path / "recipe.json").exists() and not any((path / name).exists() for name in WITHIN):
        unfinished = read_json(path / "recipe.json")
        if "encoder" in check_shape(unfinished, {"data?": {}}, str(path / "recipe.json")).get("data", {}):
            raise ValueError(f"the fine-tuning in {path} has not finished; cite its encoder, in {path.parent}")
        return unfinished
    header = read_tensors(file_in(path))[1]
    if header.get("kind") not in ("encoder", "classifier"):
        raise ValueError(f"{path} is a file of kind {header.get('kind')!r}; name an encoder or a classifier")
    # The shortest name is that of the usual evaluation.
    results = sorted(path.glob("result*.json"), key=lambda file: (len(file.name), file.name))
    return header | ({"evaluation": read_json(results[0]).get("evaluation")} if results else {})


def made_by(record: dict[str, Any]) -> str:
    """The steps of a run in words: acl on digits, then AFF on digits."""
    steps = []
    for part in (record.get("pretrain", record), record.get("finetune", {})):
        made = part.get("recipe", {})
        name = made.get("name") or made.get("method", {}).get("type", "")
        steps += [f"{name} on {made.get('data', {}).get('name', 'unknown images')}"] if name else []
    return ", then ".join(steps) or "unknown"
