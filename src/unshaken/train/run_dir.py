"""A run directory: recipe, world, log, checkpoint, digest."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unshaken.base.json_files import Lines, read_json, sweep, write_json
from unshaken.base.json_shapes import Each, Number, Or, Whole
from unshaken.base.locks import Busy, Lock
from unshaken.base.serialize import short_hash, to_json
from unshaken.charts.curve import write_curve
from unshaken.compute.runtime import Runtime, measured_memory, peak_memory
from unshaken.nets.checkpoint import checksum_in, digest, read_tensors, write_tensors
from unshaken.train.batches import Position

if TYPE_CHECKING:
    from lightning_fabric import Fabric

BEGUN = {"hash": str, "recipe": {}, "data": {}}
ENDED = {
    "digest": str,
    "seconds": Or((Number(0), None)),
    "spent?": Each(Number(0)),
    "memory_gb?": Number(0),
    "files?": Each(str),
}
CHECKPOINT = {
    "kind": ("checkpoint",),
    "place": {"step": Whole(0), "epoch": Whole(0), "batch": Whole(0)},
    "optimizer": Each(Each(object)),
    "spent?": Each(Number(0)),
    "device": str,
}
"""What recipe.json, run.json and the header of a checkpoint say."""
PRODUCTS = ("encoder.safetensors", "classifier.safetensors")
"""What runs make."""


class Run:
    """Everything that one recipe leaves on the disk, in a directory named by the recipe's hash.

    recipe.json              what was asked for, and which images it met
    log.jsonl                a line now and then: step, epoch, rate, the loss's terms, images/s, precision and mode
    checkpoint.safetensors   parameters, optimiser and place; removed at the end
    curve.svg                the log as curves
    run.json                 written last: digest, seconds, what they were spent on, peak memory, all worlds it was in

    The same recipe opens the same directory and goes on from there.
    """

    def __init__(self, path: Path, recipe: Any, data: dict[str, Any]) -> None:
        self.path, self.recipe, self.data = path, recipe, data
        self.spent, self.note = {"training": 0.0}, {}
        self.worlds: list[dict[str, Any]] = []
        self.same_world, self.memory = False, peak_memory
        path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = Lock(path / ".lock")
        except Busy:
            raise ValueError(f"another process is at work in {path}") from None
        self._folder = identity(path)
        try:
            self._check(data)
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, root: Path, name: str, recipe: Any, data: dict[str, Any]) -> Run:
        """root/name-hash. `data` says which images the recipe met: a resumed run has to meet the same."""
        return cls(root / f"{name}-{short_hash(recipe)}", recipe, data)

    def _check(self, data: dict[str, Any]) -> None:
        """A directory belongs to one recipe, one set of images and one precision: others would give a mixture."""
        sweep(self.path)
        file = self.path / "recipe.json"
        if not file.exists():
            write_json(file, {"hash": short_hash(self.recipe), "recipe": to_json(self.recipe), "data": data})
        found = read_json(file, BEGUN)
        if found["hash"] != short_hash(self.recipe):
            raise ValueError(f"{self.path} belongs to another recipe; choose another folder for runs")
        if found["data"] != data:
            raise ValueError(
                f"{self.path} was begun on {found['data']}, but now there is {data}; "
                "put back what was there, or choose another folder for runs"
            )

    def compute(self, runtime: Runtime) -> Fabric:
        """Open the runtime that the run is computed by, and note it and its world."""
        fabric = runtime.open()
        self.note, self.worlds, self.same_world = runtime.note, [runtime.world(fabric.device)], runtime.same_world
        self.memory = measured_memory(fabric.device)
        return fabric

    def close(self) -> None:
        self._lock.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def seconds(self) -> float:
        """Spent on all parts together."""
        return sum(self.spent.values())

    def spend(self, part: str, seconds: float) -> None:
        """Note what a part of the run took: training, and if it has them, warmup and selection."""
        self.spent[part] = self.spent.get(part, 0.0) + seconds

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.safetensors"

    def finished(self, product: str) -> bool:
        """Whether the run came to its end, and what it made is still there; if so, this is said.

        ValueError if either was damaged since.
        """
        end, file = self.path / "run.json", self.path / product
        if not (end.exists() and file.exists()):
            return False
        stated = read_json(end, ENDED).get("files", {})
        try:
            found = checksum_in(file)
        except ValueError as error:
            raise ValueError(f"{error}; or remove it, and the same command trains it anew") from None
        if stated.get(product, found) != found:
            raise ValueError(
                f"{file} is sound, but it is not the file that this run made, which {end.name} names by its checksum: "
                "put that one back, or remove this one, and the same command trains it anew"
            )
        self.checkpoint.unlink(missing_ok=True)  # of a process that was killed just before it did so
        print(f"found finished: {self.path}", file=sys.stderr)
        return True

    def _present(self) -> None:
        """ValueError if somebody has taken the directory away while the run is at work."""
        if identity(self.path) != self._folder or not (self.path / "recipe.json").exists():
            raise ValueError(
                f"{self.path} was moved or removed while the run was at work in it: put it back, and the same command "
                "goes on from its last checkpoint"
            )

    def save(self, place: Position, net: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        """Atomically, all that is needed to go on: randomness is keyed by place and needs no state."""
        self._present()
        lost = [name for name, p in net.named_parameters() if not bool(p.isfinite().all())]
        if lost:
            raise ValueError(f"after step {place.step - 1} {lost[0]} is no longer finite; try a lower learning rate")
        tensors, values = flatten(optimizer)
        tensors |= {f"net/{name}": tensor for name, tensor in net.state_dict().items()}
        about = {"kind": "checkpoint", "place": asdict(place), "optimizer": values, "spent": self.spent}
        about["worlds"] = self.worlds
        write_tensors(self.checkpoint, tensors, about | {"device": device.type})

    def restore(self, net: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> Position:
        """Where to go on; the very beginning if there is no checkpoint. The log forgets what comes after."""
        place = Position()
        if self.checkpoint.exists():
            try:
                tensors, about = read_tensors(self.checkpoint, CHECKPOINT)
            except ValueError as error:
                raise ValueError(f"{error}; or remove it, and the run begins anew") from None
            if about["device"] != device.type:
                raise ValueError(
                    f"{self.path} was begun on {about['device']}, and would not end with its bits on {device.type}; "
                    f"go on with --runtime.device {about['device']}, or choose another folder for runs"
                )
            net.load_state_dict({name[4:]: t for name, t in tensors.items() if name.startswith("net/")})
            unflatten(optimizer, tensors, about["optimizer"])
            place, self.spent = Position(**about["place"]), about.get("spent") or {"training": 0.0}
            self._meet(about.get("worlds", []))
        self._forget(place.step)
        return place

    def _meet(self, before: list[dict[str, Any]]) -> None:
        """Compare the worlds that a run was in with the one it goes on in. ValueError if only the same will do."""
        now = self.worlds[-1:]
        self.worlds = [*before, *(world for world in now if world not in before[-1:])]
        for old, new in zip(before[-1:], now, strict=False):
            changed = [
                f"{name} {old.get(name)}, now {new.get(name)}"
                for name in dict.fromkeys((*old, *new))
                if old.get(name) != new.get(name)
            ]
            if changed and self.same_world:
                raise ValueError(f"{self.path} was trained in another world ({'; '.join(changed)}): go on in that one")
            if changed:
                print(
                    f"{self.path.name} goes on in another world ({'; '.join(changed)}), so its bits will be those of "
                    "neither; run.json names all",
                    file=sys.stderr,
                )

    def _forget(self, step: int) -> None:
        """The log without what comes after a step. It is for people alone, so damage to it does not stop the run."""
        self._log = Lines(self.path / "log.jsonl", {"step": Whole(0)})
        if aside := self._log.set_aside():
            print(f"{self._log.fault}; the run goes on, and the damaged log is {aside.name} now", file=sys.stderr)
        self._log.rewrite([line for line in self._log.values if line["step"] < step])

    def log(self, line: dict[str, float]) -> None:
        """One line of log.jsonl, with the run's note in it: its precision and mode."""
        self._present()
        self._log.append(line | self.note)

    def finish(self, net: nn.Module, world: dict[str, Any]) -> None:
        """The run is whole: what it ended with, and in which world. Its checkpoint has served."""
        self._present()
        spent = {part: round(seconds, 2) for part, seconds in self.spent.items()}
        result = {"digest": digest(net), "seconds": round(self.seconds, 2), "spent": spent, "world": world}
        result |= {"memory_gb": self.memory(), "worlds": self.worlds or [world]}
        write_curve(self.path)
        result["files"] = {name: checksum_in(self.path / name) for name in PRODUCTS if (self.path / name).exists()}
        write_json(self.path / "run.json", result)
        self.checkpoint.unlink(missing_ok=True)


def identity(folder: Path) -> tuple[int, int] | None:
    """Which folder it is, whatever its path; None if there is none."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def flatten(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """An optimiser's state as tensors by name, and its other values."""
    tensors, values = {}, {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{name}"] = value
            else:
                values.setdefault(str(index), {})[name] = value
    return tensors, values


def unflatten(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], values: dict[str, dict[str, Any]]) -> None:
    """The inverse of `flatten`, into an optimiser over the same parameters."""
    state: dict[int, dict[str, Any]] = {int(index): dict(others) for index, others in values.items()}
    for path, tensor in tensors.items():
        if path.startswith("optimizer/"):
            _, index, name = path.split("/")
            state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for weight, held in optimizer.state.items():  # a layout in memory other than the weight's may round otherwise
        for name, value in held.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                held[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
