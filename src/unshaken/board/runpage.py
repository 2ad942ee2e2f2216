"""The page about one run or several, as a single HTML file."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import as_file, files
from itertools import combinations
from pathlib import Path
from typing import Any

from unshaken.base.amounts import amount
from unshaken.base.json_files import write_text
from unshaken.board import examples
from unshaken.board.collect import Receipt, receipts
from unshaken.board.remake import commands
from unshaken.board.rows import leaves, rows_of, spoken
from unshaken.board.tasks import NORMS, attack_of, epsilon, task_of
from unshaken.charts import svg
from unshaken.charts.curve import curve_svg, read_log
from unshaken.report.cells import attack_kind
from unshaken.report.compare import compared
from unshaken.report.grouping import unseeded

MODES = {
    "slf": "a linear classifier learned on the frozen encoder by standard training (SLF)",
    "alf": "a linear classifier learned on the frozen encoder by adversarial training (ALF)",
    "aff": "encoder and classifier learned together by adversarial training (AFF)",
    "autolora": "encoder and classifier learned together, clean images in a low-rank branch (AutoLoRa)",
}
NAME = 18
"""The longest name, in characters, that fits beside the bars of all runs."""
MOST_PAIRS = 15
"""The most paired tests of all pairs; with more runs each is compared only with the first."""


def write_page(paths: list[Path], out: Path) -> list[Receipt]:
    """Write the page of the results at or below the paths. ValueError names a file that fails a check."""
    found = receipts(paths)
    from jinja2 import Environment, FileSystemLoader

    names = run_names(found)
    runs = [page_of(receipt, name) for receipt, name in zip(found, names, strict=True)]
    values = {
        "title": names[0] if len(found) == 1 else f"{len(found)} runs compared",
        "runs": runs,
        "charts": svg.RULES,
        "tests": paired(found, names),
        "css": files("unshaken.board").joinpath("static/run.css").read_text(),
        "overview": overview(found, names) if len(found) > 1 else "",
    }
    with as_file(files("unshaken.board").joinpath("templates")) as folder:
        env = Environment(loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True)
        write_text(out, env.get_template("run.html.j2").render(**values))
    return found


def run_names(found: list[Receipt]) -> list[str]:
    """Return a unique name for each run: method and mode, then differences of recipes, seeds, ε or folders."""
    flat = [dict(leaves(unseeded(receipt.pretrain), "")) for receipt in found]
    usual = {key: Counter(each.get(key) for each in flat).most_common(1)[0][0] for each in flat for key in each}
    names = []
    for receipt, mine in zip(found, flat, strict=True):
        same = [k for k, other in enumerate(found) if other.result["method"] == receipt.result["method"]]
        differ = [key for key in mine if mine[key] != usual[key] and len(same) > 1]
        parts = [f"{receipt.result['method']}, {receipt.mode.upper()}", *(f"{spoken(k)} {mine[k]}" for k in differ[:3])]
        names.append(", ".join(parts))
    for many in ("seeds", "eps", "folder", "file"):
        counts = Counter(names)
        for k, receipt in enumerate(found):
            if counts[names[k]] > 1:
                eps = epsilon(receipt.result["evaluation"]["attack"]["ball"]["eps"])
                file = {"folder": receipt.file.parent.name, "file": receipt.file.stem}
                more = ({"seeds": f"seeds {receipt.seeds}", "eps": f"ε {eps}"} | file)[many]
                names[k] = f"{names[k]}, {more}"
    return names


def page_of(receipt: Receipt, name: str) -> dict[str, Any]:
    """Return everything on the page about one run."""
    result, run = receipt.result, receipt.file.parent
    seen = examples.seen(run, result)
    corruptions = {
        each.replace("_", " "): {f"CS-{level}": score["percent"] for level, score in by.items()}
        for each, by in result.get("corruptions", {}).items()
    }
    logs = [("Pre-training", run.parent / "log.jsonl"), ("Fine-tuning", run / "log.jsonl")]
    curves = [(title, lines) for title, file in logs if len(lines := [x for x in read_log(file) if "epoch" in x]) > 1]
    row = rows_of([receipt])[0]
    return {
        "name": name,
        "sentence": sentence(result),
        "file": receipt.file.as_posix(),
        "bars": svg.bars(score_rows(result), f"Accuracy of {name}"),
        "counts": [(words, result[key]) for words, key in SCORES if key in result],
        "curves": [(title, curve_svg(lines, f"{title} of {name}", alone=False)) for title, lines in curves],
        "corruptions": svg.heat(corruptions, f"Accuracy under corruptions of {name}") if corruptions else "",
        "classes": svg.heat(seen.classes, f"Accuracy by class of {name}") if seen.classes else "",
        "epsilon": epsilon_chart(seen, name),
        "seen": seen,
        "sheets": examples.selection_sheets(run.parent),
        "checks": result.get("checks"),
        "facts": facts(receipt),
        "commands": commands(row, str(result["seeds"]["pretrain"])),
        "recipe": json.dumps(
            {k: result[k] for k in ("pretrain", "finetune", "evaluation")}, indent=1, ensure_ascii=False
        ),
    }


SCORES = (("SA, clean images", "standard"), ("RA, PGD", "robust"), ("AA, AutoAttack", "autoattack"))


def score_rows(result: dict[str, Any]) -> list[tuple[str, float, float, float]]:
    rows = []
    for words, key in SCORES:
        if key in result:
            low, high = examples.interval(result[key])
            rows.append((words, 100 * result[key]["correct"] / result[key]["n"], low, high))
    return rows


def sentence(result: dict[str, Any]) -> str:
    """Return a sentence that describes a run."""
    pretrain, attack = result["pretrain"]["recipe"], result["evaluation"]["attack"]
    task, images = task_of(result), result["pretrain"].get("data", {}).get("images", {})
    seen = f"{amount(images['n'], 'image')} of {task.pretrain}" if "n" in images else f"images of {task.pretrain}"
    epochs = f" for {amount(pretrain['epochs'], 'epoch')}" if "epochs" in pretrain else ""
    kind = pretrain.get("method", {}).get("type")
    labels = "with" if kind in ("ST", "SAT", "TRADES") else "without"
    coreset = pretrain.get("coreset")
    chosen = f", on a coreset of {coreset['fraction']:.0%} by {coreset['type']}" if coreset else ""
    mode = MODES.get(result["mode"], f"a classifier was fine-tuned ({result['mode']})")
    norm = NORMS.get(attack["ball"]["type"], attack["ball"]["type"])
    return (
        f"{result['method']} pre-trained a {task.network} on {seen} {labels} labels{epochs}{chosen}; then {mode}; then "
        f"{result['standard']['n']:,} test images were judged, clean and under {attack_kind(attack)} in the {norm} "
        f"ball of ε = {epsilon(attack['ball']['eps'])}."
    )


def epsilon_chart(seen: examples.Seen, name: str) -> str:
    if not seen.against_epsilon:
        return ""
    return svg.panels({"accuracy, %": {name: seen.against_epsilon}}, "ε", f"Robustness of {name} against ε", columns=1)


def facts(receipt: Receipt) -> list[tuple[str, str]]:
    result = receipt.result
    world = result.get("world", {})
    took = ", ".join(f"{part} {value:.0f} s" for part, value in result["seconds"].items() if value is not None)
    return [
        ("result", receipt.file.as_posix()),
        ("seeds", ", ".join(f"{part} {seed}" for part, seed in result["seeds"].items())),
        ("weights", result["weights"]),
        ("test images", f"{result['data']['name']} ({result['data']['split']}), digest {result['data']['digest']}"),
        ("attack", ", ".join(f"{key} {value}" for key, value in attack_of(result).items() if value is not None)),
        ("time", took),
        ("made with", ", ".join(f"{key} {value}" for key, value in world.items())),
    ]


def overview(found: list[Receipt], names: list[str]) -> str:
    """Return bars of all runs, labelled by name if names are short, else by the numbers of the headings."""
    short = all(len(name) <= NAME for name in names)
    rows = [
        (f"{words.partition(',')[0]}  {name if short else f'run {k}'}", mean, low, high)
        for k, (receipt, name) in enumerate(zip(found, names, strict=True), 1)
        for words, mean, low, high in score_rows(receipt.result)
    ]
    return svg.bars(rows, "All runs")


def paired(found: list[Receipt], names: list[str]) -> list[tuple[str, str, list[str]]]:
    """Return, for pairs of runs, the paired test of each score in words, or the reason why there is none."""
    pairs = list(combinations(range(len(found)), 2))
    if len(pairs) > MOST_PAIRS:
        pairs = [(0, k) for k in range(1, len(found))]
    said = []
    for i, j in pairs:
        try:
            lines = [x if isinstance(x, str) else x.line() for x in compared(found[i].result, found[j].result)]
        except ValueError as error:
            lines = [str(error)]
        said.append((names[i], names[j], lines))
    return said
