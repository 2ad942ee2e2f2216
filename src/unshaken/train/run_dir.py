"""The directory of a run: recipe, log, checkpoint, digest, and the record of its environment."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from unshaken.base.distributed import processes
from unshaken.base.json_files import Lines, read_json, sweep, write_json
from unshaken.base.json_shapes import Each, Items, Number, Or, Whole
from unshaken.base.locks import Busy, Lock
from unshaken.base.serialize import short_hash, to_json
from unshaken.charts.curve import write_curve
from unshaken.compute.runtime import Runtime, measured_memory, peak_memory
from unshaken.nets.checkpoint import checksum_in, digest, read_tensors, write_tensors
from unshaken.train.batches import Position
from unshaken.train.observers import Observers
from unshaken.train.optim import flatten, unflatten
from unshaken.train.signals import Interrupted

if TYPE_CHECKING:
    from lightning_fabric import Fabric

RECIPE_FILE = {"hash": str, "recipe": {}, "data": {}}
RUN_FILE = {
    "digest": str,
    "seconds": Or((Number(0), None)),
    "spent?": Each(Number(0)),
    "memory_gb?": Number(0),
    "files?": Each(str),
    "kept?": {"epoch": Whole(1), "scores": Each(Items(Number()))},
}
CHECKPOINT = {
    "kind": ("checkpoint",),
    "place": {"step": Whole(0), "epoch": Whole(0), "batch": Whole(0)},
    "optimizer": Each(Each(object)),
    "spent?": Each(Number(0)),
    "device": str,
}
"""The shapes of recipe.json, run.json and the header of a checkpoint."""
PRODUCTS = ("encoder.safetensors", "classifier.safetensors")
"""The files of trained networks."""


class Run:
    """The directory of one run, named by the recipe's hash.

    recipe.json              the recipe, and the identity of the images
    log.jsonl                every few steps: step, epoch, learning rate, the loss's terms, images/s, precision, mode
    checkpoint.safetensors   parameters, optimiser and position; removed at the end
    curve.svg                the log as curves
    run.json                 written last: digest, seconds by account, peak memory, all environments ("worlds"), and the
                             ways in which layers were computed

    The same recipe opens the same directory and resumes the run. Of several processes that train together the first one
    holds the directory and writes; what goes wrong there goes wrong in all of them.
    """

    def __init__(self, path: Path, recipe: Any, data: dict[str, Any]) -> None:
        self.path, self.recipe, self.data = path, recipe, data
        self.spent, self.note = {"training": 0.0}, {}
        self.computation: list[str] = []
        self.worlds: list[dict[str, Any]] = []
        self.same_world, self.memory = False, peak_memory
        self.observers = Observers()
        self.processes = processes()
        self._lock: Lock | None = None
        self.processes.first(self._take)

    def _take(self) -> None:
        """Make the directory, lock it, and check that it is this run's."""
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = Lock(self.path / ".lock")
        except Busy:
            raise ValueError(f"another process is working in {self.path}") from None
        self._folder = identity(self.path)
        try:
            self._check(self.data)
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, root: Path, name: str, recipe: Any, data: dict[str, Any]) -> Run:
        """Open root/name-hash. `data` identifies the images; a resumed run must have the same images."""
        return cls(root / f"{name}-{short_hash(recipe)}", recipe, data)

    def _check(self, data: dict[str, Any]) -> None:
        """Raise a ValueError if the directory belongs to another recipe or other images."""
        sweep(self.path)
        file = self.path / "recipe.json"
        if not file.exists():
            write_json(file, {"hash": short_hash(self.recipe), "recipe": to_json(self.recipe), "data": data})
        found = read_json(file, RECIPE_FILE)
        if found["hash"] != short_hash(self.recipe):
            raise ValueError(f"{self.path} belongs to another recipe; choose another folder for runs")
        if found["data"] != data:
            raise ValueError(
                f"{self.path} was started with {found['data']}, but now there is {data}; "
                "put the original data back, or choose another folder for runs"
            )

    def compute(self, runtime: Runtime) -> Fabric:
        """Open the runtime, and record its settings and environment in the run."""
        fabric = runtime.open("together")
        self.note, self.same_world = runtime.note, runtime.same_world
        self.computation = list(runtime.ways) or ["plain"]
        self.worlds = [self._shared(runtime.world(fabric.device))]
        self.memory = measured_memory(fabric.device)
        return fabric

    def _shared(self, world: dict[str, Any]) -> dict[str, Any]:
        """Return the environment with the number of processes, if there are several."""
        return world | ({"processes": self.processes.count} if self.processes.count > 1 else {})

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.observers.end("stopped" if kind and issubclass(kind, (Interrupted, KeyboardInterrupt)) else "failed", {})
        self.close()

    @property
    def seconds(self) -> float:
        """Total seconds of all accounts."""
        return sum(self.spent.values())

    def spend(self, account: str, seconds: float) -> None:
        """Add seconds to an account: training, or in runs with coresets also warmup and selection."""
        self.spent[account] = self.spent.get(account, 0.0) + seconds

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.safetensors"

    def finished(self, product: str) -> bool:
        """Return whether the run is finished and its network is there, and print a line if so.

        ValueError if one of the two files was damaged since.
        """
        return self.processes.first(lambda: self._finished(product))

    def _finished(self, product: str) -> bool:
        end, file = self.path / "run.json", self.path / product
        if not (end.exists() and file.exists()):
            return False
        stated = read_json(end, RUN_FILE).get("files", {})
        try:
            found = checksum_in(file)
        except ValueError as error:
            raise ValueError(f"{error}; or remove it, and the same command trains it anew") from None
        if stated.get(product, found) != found:
            raise ValueError(
                f"{file} is undamaged, but its checksum is not the one in {end.name}, so this run did not write it: "
                "put the original back, or remove this file, and the same command trains it anew"
            )
        self.checkpoint.unlink(missing_ok=True)  # a process that was killed at the very end left it
        print(f"found finished: {self.path}", file=sys.stderr)
        return True

    def _check_present(self) -> None:
        """Raise a ValueError if the directory was moved or removed during the run."""
        if identity(self.path) != self._folder or not (self.path / "recipe.json").exists():
            raise ValueError(
                f"{self.path} was moved or removed during the run: put it back, and the same command resumes from its "
                "last checkpoint"
            )

    def save(self, position: Position, net: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        """Write a checkpoint atomically. Random generators need no state, since their keys depend on the position."""
        self.processes.first(lambda: self._save(position, net, optimizer, device))

    def _save(self, position: Position, net: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self._check_present()
        not_finite = [name for name, p in net.named_parameters() if not bool(p.isfinite().all())]
        if not_finite:
            raise ValueError(
                f"after step {position.step - 1} {not_finite[0]} is no longer finite; try a lower learning rate"
            )
        tensors, values = flatten(optimizer)
        tensors |= {f"net/{name}": tensor for name, tensor in net.state_dict().items()}
        about = {"kind": "checkpoint", "place": asdict(position), "optimizer": values, "spent": self.spent}
        about["worlds"] = self.worlds
        write_tensors(self.checkpoint, tensors, about | {"device": device.type})
        self.observers.tell("checkpoint", self.checkpoint, position.step)

    def restore(self, net: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> Position:
        """Load the checkpoint and return its position, or the start if there is none. Later lines leave the log."""
        position = Position()
        if self.processes.first(self.checkpoint.exists):
            try:
                tensors, about = read_tensors(self.checkpoint, CHECKPOINT)
            except ValueError as error:
                raise ValueError(f"{error}; or remove it, and the run starts again") from None
            if about["device"] != device.type:
                raise ValueError(
                    f"{self.path} was started on {about['device']}, and would end with other bits on {device.type}; "
                    f"resume with --runtime.device {about['device']}, or choose another folder for runs"
                )
            net.load_state_dict({name[4:]: t for name, t in tensors.items() if name.startswith("net/")})
            unflatten(optimizer, tensors, about["optimizer"])
            position, self.spent = Position(**about["place"]), about.get("spent") or {"training": 0.0}
            self.processes.first(lambda: self._compare_worlds(about.get("worlds", [])))
        self._check_position(position)
        self.processes.first(lambda: self._truncate_log(position.step))
        return position

    def _check_position(self, position: Position) -> None:
        """Raise a ValueError if processes have read different checkpoints, as over a network that is late."""
        last, first = self.processes.agree(position.step), -self.processes.agree(-position.step)
        if first != last:
            raise ValueError(
                f"the processes see different checkpoints of {self.path}, after {first} and after {last} steps: the "
                "folder has to be the same on all machines; wait a moment, and give the same command again"
            )

    def _compare_worlds(self, before: list[dict[str, Any]]) -> None:
        """Compare the present environment with the last one of the run. ValueError if it differs but must not."""
        now = self.worlds[-1:]
        self.worlds = [*before, *(world for world in now if world not in before[-1:])]
        for old, new in zip(before[-1:], now, strict=False):
            old, new = {"processes": 1} | old, {"processes": 1} | new
            changed = [
                f"{name} {old.get(name)}, now {new.get(name)}"
                for name in dict.fromkeys((*old, *new))
                if old.get(name) != new.get(name)
            ]
            if changed and self.same_world:
                raise ValueError(
                    f"{self.path} was trained in another environment ({'; '.join(changed)}): resume it in that one"
                )
            if changed:
                print(
                    f"{self.path.name} resumes in another environment ({'; '.join(changed)}), so its bits will be "
                    "those of neither; run.json records all environments",
                    file=sys.stderr,
                )

    def _truncate_log(self, step: int) -> None:
        """Remove the log's lines after a step. Only people read the log, so a damaged one does not stop the run."""
        self._log = Lines(self.path / "log.jsonl", {"step": Whole(0)})
        if aside := self._log.set_aside():
            print(f"{self._log.fault}; the run continues, and the damaged log is now {aside.name}", file=sys.stderr)
        self._log.rewrite([line for line in self._log.values if line["step"] < step])

    def log(self, line: dict[str, float]) -> None:
        """Append a line to log.jsonl, with the run's precision and mode."""
        self.processes.first(lambda: self._append(line))

    def _append(self, line: dict[str, float]) -> None:
        self._check_present()
        self._log.append(line | self.note)
        self.observers.tell("line", line | self.note)

    def finish(self, net: nn.Module, world: dict[str, Any], kept: dict[str, Any] | None = None) -> None:
        """Write run.json, with the network's digest and the environment, and remove the checkpoint.

        kept  the epoch whose weights were kept, and the scores of all that were looked at
        """
        self.processes.first(lambda: self._finish(net, world, {"kept": kept} if kept else {}))

    def _finish(self, net: nn.Module, world: dict[str, Any], found: dict[str, Any]) -> None:
        self._check_present()
        world = self._shared(world)
        spent = {account: round(seconds, 2) for account, seconds in self.spent.items()}
        result = {"digest": digest(net), "seconds": round(self.seconds, 2), "spent": spent, "world": world}
        result |= {"memory_gb": self.memory(), "worlds": self.worlds or [world]} | found
        result |= {"computation": self.computation} if self.computation else {}
        write_curve(self.path)
        result["files"] = {name: checksum_in(self.path / name) for name in PRODUCTS if (self.path / name).exists()}
        write_json(self.path / "run.json", result)
        self.checkpoint.unlink(missing_ok=True)
        self.observers.end("finished", result)


def identity(folder: Path) -> tuple[int, int] | None:
    """Return device and inode of a folder, which identify it whatever its path; None if there is none."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino
