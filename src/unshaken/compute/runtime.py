"""Device (by Lightning Fabric), precision, threads and memory: how to compute, and in what world a result was made."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

import numpy
import torch
from torch import Tensor, nn

from unshaken import __version__
from unshaken.base.ranges import Natural, ranged
from unshaken.compute.bn_folding import BatchNormFolder
from unshaken.compute.matmul_conv import use_matmul_convs
from unshaken.nets.activation_checkpointing import checkpoint_activations
from unshaken.nets.network import Network

try:
    import resource
except ImportError:
    resource = None

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
@ranged
class Runtime:
    """Where and how to compute. Not part of a recipe: it should not change what a number means."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto takes a GPU if there is one."""
    precision: Literal["float32", "tf32", "bf16", "auto"] = "float32"
    """Of the network's layers; losses, pixels and parameters stay float32. tf32 is for GPUs that have it: float32 with
    products of 10 bits, everywhere: those that resample views and compare embeddings too, for it is a state of the
    process, and a backward pass is in none of the network's calls. auto is bf16 where the processor multiplies in it,
    else float32."""
    mode: Literal["repeatable", "fast"] = "repeatable"
    """repeatable: on one machine equal recipes give equal bits. fast: kernels are chosen by trial and may add up in any
    order, on GPUs; docs/speed.md has the price."""
    compile: Literal["no", "kernels", "graphs"] = "no"
    """Networks by torch.compile: kernels that are made for them, and on GPUs graphs of their launches too. Minutes
    at the start; bits change. It does not pay on CPUs."""
    at_most: Natural = 0
    """Views that go through a network at a time while it is attacked, and whether what lies between its blocks is
    computed again in an update instead of kept: less memory for large batches. Contrasts and batch norms are those
    of the whole batch all the same. 0: all, and nothing twice."""
    threads: Natural = 0
    """Of the CPU; 0 leaves PyTorch's choice. Another number can change the last bits."""
    same_world: bool = False
    """Refuse to go on with a run in another world (versions, threads, machine) than it was trained in so far, where
    its bits would be those of neither. Otherwise this is said, and run.json names all worlds."""

    def __post_init__(self) -> None:
        if self.threads < 0 or self.at_most < 0:
            raise ValueError(
                f"threads are counted from 1, or 0 for PyTorch's choice, and at_most from 1, or 0 for all views; "
                f"not {self.threads} and {self.at_most}"
            )
        if self.precision == "auto":
            object.__setattr__(self, "precision", "bf16" if multiplies_bf16(self.kind) else "float32")

    @property
    def kind(self) -> str:
        """Of the device that will be used. ValueError if there is none."""
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        if self.device == "auto":
            return next(kind for kind, found in there.items() if found)
        if not there[self.device]:
            raise ValueError(f"there is no {self.device} device here; use --runtime.device cpu, or auto")
        return self.device

    def open(self) -> Fabric:
        """The one place that touches devices and settings of the process."""
        kind = self.kind
        if self.threads:
            torch.set_num_threads(self.threads)
        # cuBLAS repeats its bits only with a workspace of fixed size
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # a few of a GPU's kernels have no form that repeats its bits; PyTorch then warns, and goes on
        torch.use_deterministic_algorithms(self.mode == "repeatable", warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]  # finds faults, at a pass over memory each time
        torch.backends.cudnn.benchmark = self.mode == "fast"
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = self.precision == "tf32"
        keep_memory()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Fabric's own imports
            from lightning_fabric import Fabric
            from lightning_fabric.plugins.environments import LightningEnvironment
        alone()
        # without an environment of its own Fabric takes what it finds: SLURM's, torchrun's or MPI's
        return Fabric(accelerator=kind, devices=1, precision="32-true", plugins=LightningEnvironment())
        # Fabric recommends another precision at every start on a GPU; the precision is chosen here
        logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
        return Fabric(accelerator=kind, devices=1, precision="32-true")

    def prepare(self, net: Network) -> None:
        """Give a network the arithmetic of this runtime, and its convolutions the layout in which they are fastest.

        Fabric's own autocast would be around the whole step, and losses and augmentation would lose precision too.
        """
        net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        device = next(net.parameters()).device
        if device.type == "cpu":
            use_matmul_convs(net)
        for part in net.modules():  # a network may hold a teacher
            if isinstance(part, Network):
                low = self.precision == "bf16"
                part.precision = torch.bfloat16 if low else torch.float32
                part.arithmetic = partial(torch.autocast, device.type, dtype=part.precision) if low else nullcontext
                part.fold = BatchNormFolder(part.precision, self.finish)
                part.at_most = self.at_most
                checkpoint_activations(part.encoder.backbone, self.at_most > 0)
                self.finish(part.encoder.backbone)

    def finish(self, net: nn.Module) -> None:
        """Compile it, in place, if that is asked."""
        if self.compile == "kernels":
            net.compile(mode=None)
        elif self.compile == "graphs":
            net.compile(mode="reduce-overhead")
            net._compiled_call_impl = copied(net._compiled_call_impl)  # pyright: ignore[reportArgumentType]

    @property
    def note(self) -> dict[str, str]:
        """What every line of a log says of it."""
        return {"precision": self.precision, "mode": self.mode}

    @property
    def identity(self) -> dict[str, Any]:
        """What bits depend on beside the machine: a run goes on only with the same."""
        others = {name: getattr(self, name) for name in ("mode", "compile", "at_most")}
        asked = {name: value for name, value in others.items() if value != getattr(Runtime, name)}
        return {"precision": self.precision} | asked

    def world(self, device: torch.device) -> dict[str, Any]:
        """What a number depends on beside its recipe. It names no user, host or path."""
        return (
            {
                "unshaken": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": numpy.__version__,
                "system": f"{platform.system()} {platform.machine()}",
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
                "cores": os.cpu_count(),
                "threads": torch.get_num_threads(),
            }
            | self.identity
            | self.note
        )


TASKS = {"SLURM_NTASKS": "SLURM", "WORLD_SIZE": "torchrun", "OMPI_COMM_WORLD_SIZE": "MPI", "PMI_SIZE": "MPI"}
"""Variables in which a launcher says how many copies of a command it has started."""


@cache
def alone() -> None:
    """Say once that every command is one process, where a launcher has started several copies of it."""
    counts = {launcher: os.environ[name] for name, launcher in TASKS.items() if os.environ.get(name, "1") != "1"}
    for launcher, count in counts.items():
        print(
            f"note: {launcher} started {count} copies of this command, and each works alone: start one "
            "(`srun --ntasks=1`), or share an evaluation by --shard 1/2 and 2/2",
            file=sys.stderr,
        )


def copied(compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A graph writes its next output where the last one is, so what it returns is copied at once."""
    return lambda *args, **how: compute(*args, **how).clone()


def multiplies_bf16(kind: str) -> bool:
    """Whether a device has instructions for it: only then is it fast."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return kind == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def measured_memory(device: torch.device) -> Callable[[], float]:
    """What tells the peak memory in GB (10^9 bytes): on a GPU of all tensors from now on, else of the process."""
    if device.type != "cuda":
        return peak_memory
    torch.cuda.reset_peak_memory_stats(device)
    return lambda: round(torch.cuda.max_memory_allocated(device) / 1e9, 3)


def peak_memory() -> float:
    """The most memory, in GB, that the process has had since it began."""
    if resource is None:  # no such count on Windows
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 3)


def keep_memory() -> None:
    """What is freed stays with the process, where the C library can be told so (glibc).

    By default it gives each large tensor back at once, and the next one is mapped and cleared page by page: a tenth of
    a step's time on a CPU.
    """
    no_mapping, no_trimming = (-4, 0), (-1, 2**31 - 1)  # M_MMAP_MAX, M_TRIM_THRESHOLD
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):
            for option in (no_mapping, no_trimming):
                ctypes.CDLL(None).mallopt(*option)
