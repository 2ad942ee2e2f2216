"""The workspace: the folder of runs, the device, the interval of checkpoints, the output."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unshaken.base.distributed import processes
from unshaken.base.serialize import short_hash
from unshaken.compute.runtime import Runtime
from unshaken.train.gauges import GaugeOptions
from unshaken.train.loop import Execution
from unshaken.train.observers import Observers
from unshaken.train.run_dir import Run


@dataclass(frozen=True)
class Workspace:
    """The folder of runs and the way they are computed. Only the runtime changes what a run computes.

    root        the folder of runs; None: runs/ for pre-training, the encoder's folder for fine-tuning
    runtime     device, precision and threads
    save_every  seconds between checkpoints; 0 saves after every step
    quiet       print neither progress nor notes
    profile     number of training steps to profile, from where the run starts or resumes
    observers   objects that are told what happens in a run: see train/observers.py
    gauges      how often a pre-training measures its representation: see train/gauges.py
    """

    root: Path | str | None = None
    runtime: Runtime = Runtime()
    save_every: float = 60.0
    quiet: bool = False
    profile: int = 0
    observers: tuple[Any, ...] = ()
    gauges: GaugeOptions = GaugeOptions()

    def open(self, name: str, recipe: Any, data: dict[str, Any], beside: Path = Path("runs")) -> Run:
        """Open and lock the run of a recipe, a new one or one to resume. Its folder is root/NAME-HASH.

        data    the identity of the training data; a run can be resumed only on the same data
        beside  the folder if the workspace has no root
        """
        root = self.folder(name, recipe, beside).parent
        observers = Observers(self.observers if processes().rank == 0 else ())
        run = Run.open(root, name, recipe, data | self.runtime.identity)
        run.observers = observers
        return run

    def folder(self, name: str, recipe: Any, beside: Path = Path("runs")) -> Path:
        """Return the folder of a recipe's run."""
        return Path(beside if self.root is None else self.root).expanduser() / f"{name}-{short_hash(recipe)}"

    def observed_by(self, observers: Iterable[Any]) -> Workspace:
        """Return the workspace with more observers."""
        return replace(self, observers=(*self.observers, *observers))

    def execution(self, run: Run, fabric: Any) -> Execution:
        """Return how a training loop of this run computes, saves and reports."""
        return Execution(run, fabric, self.save_every, self.quiet, self.profile)
