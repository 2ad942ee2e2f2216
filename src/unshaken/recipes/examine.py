"""The exam of a fine-tuned classifier: result.json, and the log that readers of the papers expect."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from unshaken.base.canon import plain
from unshaken.base.files import read_json, write_json, write_text
from unshaken.data.images import Images
from unshaken.data.source import Source
from unshaken.evaluate.exam import Exam, Notes
from unshaken.evaluate.result import paper_log, result_of
from unshaken.nets.saved import backbone_of, digest, load_classifier
from unshaken.recipes.finetune import Finetune
from unshaken.recipes.pretrain import fitting, met
from unshaken.recipes.settings import setting_of, source_of
from unshaken.threat.pgd import PGD
from unshaken.train.runtime import Runtime


def exam_for(run: Path) -> Exam:
    """PGD-20 at the ε that goes with the run's data set."""
    return Exam(PGD(setting_of(tuned_on(run)).ball, steps=20))


def tuned_on(run: Path) -> Source:
    """What a fine-tuning run took its labels from."""
    recipe = read_json(run / "recipe.json").get("recipe", {})
    if "data" not in recipe:
        raise ValueError(f"{run / 'recipe.json'} is not of a fine-tuning run")
    return source_of(recipe["data"])


def examine(
    run: Path,
    exam: Exam | None = None,
    data: Source | None = None,
    runtime: Runtime = Runtime(),
    quiet: bool = False,
    held_out: bool = False,
) -> dict[str, Any]:
    """Judge a fine-tuning run on the test split: writes result.json and results/log.txt into it; returns the result.

    held_out  judge on the training images that it kept aside instead: writes choice-held-out.json, which is no result
    The network is judged in float32 whatever precision it was trained in.
    """
    file = run / "classifier.safetensors"
    if not file.exists():
        hint = "its fine-tuning has not finished" if (run / "recipe.json").exists() else "name a fine-tuning run"
        raise ValueError(f"there is no classifier in {run}: {hint}")
    net, about = load_classifier(file)
    exam = exam or exam_for(run)
    images = _held_out(about) if held_out else _test_images(about, data)
    runtime = replace(runtime, precision="float32")
    fabric = runtime.open()
    net, images = net.to(fabric.device), images.to(fabric.device)
    world = runtime.world(fabric.device)
    part = "" if exam.limit is None else f"-first{exam.limit}"  # a part never takes the place of the whole
    part = f"-held-out{part}" if held_out else part
    notes = Notes(run / f"verdicts{part}.json", plain(exam), digest(net), images.digest, world)
    verdicts = exam.judge(net, images, notes, quiet)
    result = result_of(
        about,
        plain(exam),
        met(images),
        verdicts,
        weights=digest(net),
        seconds={
            "pretrain": _noted(run.parent, "seconds"),
            "finetune": _noted(run, "seconds"),
            "exam": round(notes.seconds, 2),
        },
        spent=_noted(run.parent, "spent"),
        world=world,
    )
    if held_out:  # `report` reads results, and this is not one
        write_json(run / f"choice{part}.json", result)
        return result
    write_json(run / f"result{part}.json", result)
    write_text(run / "results" / f"log{part}.txt", paper_log(result))
    return result


def _noted(run: Path, what: str) -> Any:
    """What a run noted at its end, if it lies where it was made and notes such things."""
    return read_json(run / "run.json").get(what) if (run / "run.json").exists() else None


def _held_out(about: dict[str, Any]) -> Images:
    recipe = about["finetune"]["recipe"]
    return Finetune(data=source_of(recipe["data"]), hold=recipe.get("hold", 0)).images(
        backbone_of(about), held_out=True
    )


def _test_images(about: dict[str, Any], data: Source | None) -> Images:
    backbone = backbone_of(about)
    source = data or source_of(about["finetune"]["recipe"]["data"])
    images = fitting(replace(source, size=source.size or backbone.stem).load("test"), backbone)
    if images.label is not None and list(images.names) != about["names"]:
        raise ValueError(
            f"{images.name} has other classes ({', '.join(images.names[:3])}, ...) than the classifier "
            f"({', '.join(about['names'][:3])}, ...); name the set that it was fine-tuned on by --data"
        )
    return images
