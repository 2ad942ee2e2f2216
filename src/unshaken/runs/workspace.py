"""Where and how runs are computed: the folder, the device, checkpoints, output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unshaken.compute.runtime import Runtime
from unshaken.train.run_dir import Run


@dataclass(frozen=True)
class Workspace:
    """Where runs are kept and how they are computed. Nothing here changes what a run computes, but for the runtime.

    root        folder in which each run makes its own; None: pre-training uses runs/, fine-tuning the encoder's folder
    runtime     device, precision and threads
    save_every  seconds between checkpoints; 0 saves after every step
    quiet       print no progress
    profile     number of training steps to profile, from where the run begins or resumes
    """

    root: Path | str | None = None
    runtime: Runtime = Runtime()
    save_every: float = 60.0
    quiet: bool = False
    profile: int = 0

    def open(self, name: str, recipe: Any, data: dict[str, Any], beside: Path = Path("runs")) -> Run:
        """Open the run of a recipe, new or begun, with its lock. Its folder is root/NAME-HASH.

        data    what the run is trained on; a run that is resumed must be given the same
        beside  the folder to use where the workspace has no root
        """
        root = Path(beside if self.root is None else self.root).expanduser()
        return Run.open(root, name, recipe, data | self.runtime.identity)
