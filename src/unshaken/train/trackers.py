"""Observers that write what other tools read: CSV, TensorBoard, Weights & Biases, MLflow. None needs a connection."""

from __future__ import annotations

import csv
import os
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from unshaken.base.atomic_files import write_text
from unshaken.base.suggest import did_you_mean
from unshaken.train.observers import RunInfo

PLACES = ("step", "epoch")


class CSV:
    """Write metrics.csv into the run's folder: a column for each number of the log, a row for each line."""

    def start(self, run: RunInfo) -> None:
        self.file, self.rows = run.folder / "metrics.csv", []
        if run.step and self.file.exists():
            with self.file.open(newline="") as text:
                self.rows = [row for row in csv.DictReader(text) if int(row["step"]) < run.step]
        self.write()

    def line(self, line: dict[str, Any]) -> None:
        self.rows.append(numbers(line))
        self.write()

    def write(self) -> None:
        """Write all rows: a later line may have numbers that earlier ones lack."""
        columns = dict.fromkeys(key for row in self.rows for key in row)
        lines = [",".join(columns), *(",".join(str(row.get(key, "")) for key in columns) for row in self.rows)]
        write_text(self.file, "\n".join(lines) + "\n")


class TensorBoard:
    """Write events into tensorboard/ in the run's folder: `tensorboard --logdir runs`. Extra: tensorboard."""

    def __init__(self) -> None:
        needed("tensorboard", "tensorboard")
        self.writer_of = needed("torch.utils.tensorboard", "tensorboard").SummaryWriter

    def start(self, run: RunInfo) -> None:
        self.writer = self.writer_of(str(run.folder / "tensorboard"), purge_step=run.step or None)
        self.writer.add_text("recipe", "\n".join(f"    {key} = {value}" for key, value in flat(run.recipe).items()))

    def line(self, line: dict[str, Any]) -> None:
        for name, value in named(line).items():
            self.writer.add_scalar(name, value, int(line["step"]))
        self.writer.flush()

    def end(self, outcome: str, summary: dict[str, Any]) -> None:
        self.writer.close()


class WandB:
    """Log to Weights & Biases: offline, unless WANDB_MODE says otherwise; `wandb sync` uploads. Extra: wandb."""

    def __init__(self, project: str = "unshaken") -> None:
        self.wandb, self.project = needed("wandb", "wandb"), project

    def start(self, run: RunInfo) -> None:
        mode = os.environ.get("WANDB_MODE", "offline")
        self.run = self.wandb.init(
            project=self.project, id=run.name, name=run.name, config=flat(run.recipe), dir=str(run.folder),
            resume="allow", mode=mode,
        )  # fmt: skip

    def line(self, line: dict[str, Any]) -> None:
        self.run.log(named(line), step=int(line["step"]))

    def end(self, outcome: str, summary: dict[str, Any]) -> None:
        self.run.summary["outcome"] = outcome
        self.run.finish(exit_code=int(outcome == "failed"))


class MLflow:
    """Log to MLflow: to MLFLOW_TRACKING_URI, or to mlflow.db beside the run's folder. Extra: mlflow."""

    def __init__(self, experiment: str = "unshaken") -> None:
        self.client_of, self.experiment = needed("mlflow", "mlflow").MlflowClient, experiment

    def start(self, run: RunInfo) -> None:
        self.client = self.client_of(os.environ.get("MLFLOW_TRACKING_URI") or place_beside(run.folder))
        found = self.client.get_experiment_by_name(self.experiment)
        experiment = found.experiment_id if found else self.client.create_experiment(self.experiment)
        mine = self.client.search_runs([experiment], f"tags.unshaken = '{run.name}'", max_results=1) if run.step else []
        if mine:
            self.id = mine[0].info.run_id
            return
        self.id = self.client.create_run(experiment, run_name=run.name, tags={"unshaken": run.name}).info.run_id
        for key, value in flat(run.recipe).items():
            self.client.log_param(self.id, key, str(value)[:500])

    def line(self, line: dict[str, Any]) -> None:
        for name, value in named(line).items():
            self.client.log_metric(self.id, name, value, step=int(line["step"]))

    def end(self, outcome: str, summary: dict[str, Any]) -> None:
        self.client.set_terminated(self.id, {"finished": "FINISHED", "stopped": "KILLED"}.get(outcome, "FAILED"))


TRACKERS = {"csv": CSV, "tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}


def trackers(names: tuple[str, ...]) -> tuple[Any, ...]:
    """Return the observers of these names. ValueError for another name, and for a package that is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"--observe is {', '.join(TRACKERS)}, not {name!r}{did_you_mean(name, list(TRACKERS))}")
    return tuple(TRACKERS[name]() for name in dict.fromkeys(names))


def needed(module: str, extra: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        raise ValueError(f"{module} is not installed: pip install 'unshaken[{extra}]' ({error})") from None


def place_beside(folder: Path) -> str:
    return f"sqlite:///{(folder.parent / 'mlflow.db').resolve()}"


def numbers(line: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a line; it also has words, such as the precision."""
    return {key: value for key, value in line.items() if isinstance(value, (int, float)) and value is not True}


def named(line: dict[str, Any]) -> dict[str, float]:
    """Return a line's numbers under the names that these tools group by: train/loss, epoch, gauges/rank."""
    own = {key: value for key, value in numbers(line).items() if key != "step"}
    return {key if "/" in key or key in PLACES else f"train/{key}": float(value) for key, value in own.items()}


def flat(recipe: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of a recipe under dotted names, as options have them."""
    if not isinstance(recipe, dict):
        return {prefix: recipe}
    return {
        key: value for name, each in recipe.items() for key, value in flat(each, f"{prefix}.{name}".strip(".")).items()
    }
