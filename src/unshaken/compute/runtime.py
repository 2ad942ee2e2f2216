"""Device, precision, threads and memory of a run, and a record of its software and hardware."""

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
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy
import torch
from torch import Tensor, nn

from unshaken import __version__
from unshaken.base.distributed import processes
from unshaken.base.launchers import Launched, launched
from unshaken.base.ranges import Count, Natural, ranged
from unshaken.compute.bn_folding import BatchNormFolder
from unshaken.compute.computation import FoldingComputation
from unshaken.compute.joining import check_group, join_group
from unshaken.compute.ways import FIXED, VIEWS, WINOGRAD, Way, check_ways, use_ways
from unshaken.compute.winograd_conv import require_winograd
from unshaken.nets.activation_checkpointing import checkpoint_activations
from unshaken.nets.network import Network, device_of
from unshaken.nets.shared_bn import share_batch_norms
from unshaken.transforms.fused_views import use_fused_views

try:
    import resource
except ImportError:
    resource = None

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
@ranged
class Runtime:
    """The device, precision and process settings of a run. They are not part of a recipe, nor of a result's meaning."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device; auto uses a GPU if there is one."""
    precision: Literal["float32", "tf32", "bf16", "auto"] = "float32"
    """Precision of the network's layers. Losses, pixels and parameters stay float32. tf32, for GPUs that have it,
    multiplies float32 numbers with 10 bits of mantissa; it applies to the entire process, so to augmentation and losses
    too. auto: bf16 if the processor can multiply in it, else float32. On such a CPU a long training first times both on
    the network at hand, and takes the faster one; others take float32 for networks with depthwise convolutions."""
    mode: Literal["repeatable", "fast"] = "repeatable"
    """repeatable: equal recipes give equal bits on one machine. fast: on GPUs, kernels are selected by timing them and
    may sum in any order; docs/speed.md compares the two."""
    compile: Literal["no", "kernels", "graphs"] = "no"
    """Compile networks with torch.compile. kernels: generate code; graphs: use CUDA graphs too. Compiling takes minutes
    at the start, changes the last bits, and is not faster on CPUs."""
    at_most: Natural = 0
    """Save memory for large batches: at most this many views go through a network at a time during attacks, and
    updates recompute activations instead of storing them. Losses and batch norms still use the full batch.
    0: no limit, and nothing is recomputed."""
    computation: tuple[Way, ...] = ("auto",)
    """Ways to compute a network's layers, which change its time and the last bits. auto: a long training on a CPU times
    them for a few seconds, and takes the fastest; all other work takes channels-last, folding, matmul-16 and
    depthwise. plain: none of them. docs/speed.md describes each."""
    threads: Natural = 0
    """Number of CPU threads; 0: PyTorch's choice. Another number can change the last bits of results."""
    devices: Count = 1
    """Number of devices of this machine, each with a process of its own; on a CPU, of processes. They share each batch,
    and compute what one process would, except for rounding (docs/scale.md). torchrun and srun state it themselves."""
    nodes: Count = 1
    """Number of machines. Above 1, torchrun or srun starts the command on each of them (docs/scale.md)."""
    by_trial: ClassVar[bool] = False
    # True where auto has two candidates, which a long training then times
    same_world: bool = False
    """Refuse to resume a run if versions, threads or hardware have changed since it started. By default it resumes with
    a message, and run.json records all of them; the bits of such a run cannot be reproduced on either."""

    def __post_init__(self) -> None:
        if self.threads < 0 or self.at_most < 0:
            raise ValueError(
                f"threads are counted from 1, or 0 for PyTorch's choice, and at_most from 1, or 0 for all views; "
                f"not {self.threads} and {self.at_most}"
            )
        object.__setattr__(self, "computation", tuple(self.computation))
        check_ways(self.computation)
        if self.precision == "auto":
            low = multiplies_bf16(self.kind)
            object.__setattr__(self, "precision", "bf16" if low else "float32")
            object.__setattr__(self, "by_trial", low and self.kind == "cpu")

    @property
    def ways(self) -> tuple[Way, ...]:
        """The ways that are used; `auto` stands for the fixed ones, unless a trial has replaced it."""
        if self.computation == ("auto",):
            return FIXED
        return () if self.computation == ("plain",) else self.computation

    @property
    def settled(self) -> bool:
        """True if no trial is left to decide on the computation or the precision."""
        return self.computation != ("auto",) and not self.by_trial

    @property
    def kind(self) -> str:
        """The type of the device that will be used. ValueError if this machine has none."""
        available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        if self.device == "auto":
            return next(kind for kind, found in available.items() if found)
        if not available[self.device]:
            raise ValueError(f"there is no {self.device} device here; use --runtime.device cpu, or auto")
        return self.device

    def check_count(self) -> None:
        """Raise a ValueError if this machine has fewer devices than were asked for. A CPU has any number."""
        found = torch.cuda.device_count() if self.kind == "cuda" else 1
        if self.devices > found and self.kind != "cpu":
            raise ValueError(
                f"there are {found} {self.kind} device(s) here, not {self.devices}: --runtime.devices {found}"
            )

    def open(self, copies: Literal["warn", "together", "apart"] = "warn") -> Fabric:
        """Set up the process and return a Fabric. Nothing else changes process settings or opens devices.

        copies  what processes that a launcher has started do: each does all of the work, of which they warn; they
                share batches; or each has its own part, of which the caller takes care
        """
        kind, group = self.kind, launched()
        if copies == "together":
            check_group(group, self.devices, self.nodes, self.compile)
        self.set_up_process()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # importing Fabric emits warnings
            from lightning_fabric import Fabric
            from lightning_fabric.plugins.environments import LightningEnvironment
        alone = copies == "warn" or (copies == "together" and group is None)
        if alone and processes().count == 1:
            warn_about_copies()
        # on GPUs Fabric recommends another precision at every start, but the precision is set here
        logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
        if copies == "together" and group is not None:
            return join_group(group, kind, self.compile == "kernels")
        # without an explicit environment Fabric would use one it detects: SLURM's, torchrun's or MPI's
        devices = [_own_gpu(group)] if kind == "cuda" else 1
        return Fabric(accelerator=kind, devices=devices, precision="32-true", plugins=LightningEnvironment())

    def set_up_process(self) -> None:
        """Set threads, determinism, precision and memory of the process."""
        if self.threads:
            torch.set_num_threads(self.threads)
        # cuBLAS is deterministic only with a workspace of fixed size
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # a few GPU kernels have no deterministic version; warn_only lets PyTorch warn and continue
        torch.use_deterministic_algorithms(self.mode == "repeatable", warn_only=True)
        # a debugging aid of PyTorch that costs a pass over each new tensor
        torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
        torch.backends.cudnn.benchmark = self.mode == "fast"
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = self.precision == "tf32"
        use_fused_views(VIEWS in self.ways)
        if WINOGRAD in self.ways and self.kind == "cpu":
            require_winograd()
        keep_memory()

    def join(self) -> None:
        """Meet the other processes that a launcher has started, if there are some: what follows is done together."""
        if launched() is not None or self.devices * self.nodes > 1:
            self.open("together")

    def prepare(self, net: Network) -> None:
        """Set a network's precision, memory layout and folding as this runtime states.

        Fabric's own autocast is not used: it would cover the entire step, so that losses and augmentation would lose
        precision too.
        """
        device = device_of(net)
        use_ways(net, self.ways, device)
        low = self.precision == "bf16"
        precision = torch.bfloat16 if low else torch.float32
        context = partial(torch.autocast, device.type, dtype=precision) if low else nullcontext
        if processes().count > 1:
            share_batch_norms(net)
        for network in net.modules():  # the network, and possibly a teacher within it
            if isinstance(network, Network):
                folder = BatchNormFolder(precision, self.finish) if "folding" in self.ways else None
                network.computation = FoldingComputation(precision, context, folder, self.at_most)
                checkpoint_activations(network.encoder.backbone, self.at_most > 0)
                self.finish(network.encoder.backbone)

    def finish(self, net: nn.Module) -> None:
        """Compile a network in place, if `compile` says so."""
        if self.compile == "kernels":
            net.compile(mode=None)
        elif self.compile == "graphs":
            net.compile(mode="reduce-overhead")
            net._compiled_call_impl = copy_output(net._compiled_call_impl)  # pyright: ignore[reportArgumentType]

    @property
    def note(self) -> dict[str, str]:
        """The fields that every line of a run's log repeats."""
        return {"precision": self.precision, "mode": self.mode}

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that bits depend on; a run resumes only with the same ones."""
        others = {name: getattr(self, name) for name in ("mode", "compile", "at_most")}
        not_default = {name: value for name, value in others.items() if value != getattr(Runtime, name)}
        if {*self.ways} != {*FIXED}:
            not_default["computation"] = sorted(self.ways) or ["plain"]
        return {"precision": self.precision} | not_default

    def world(self, device: torch.device) -> dict[str, Any]:
        """Return the versions, hardware and settings that a result depends on. It names no user, host or path."""
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


TASKS = {"SLURM_STEP_NUM_TASKS": "SLURM", "WORLD_SIZE": "torchrun", "OMPI_COMM_WORLD_SIZE": "MPI", "PMI_SIZE": "MPI"}
"""Environment variables in which launchers state the number of copies that they started."""


def _own_gpu(group: Launched | None) -> int:
    """Return the GPU of this process: one for each on a machine, if it sees them all."""
    return 0 if group is None else group.local[0] % max(1, torch.cuda.device_count())


@cache
def warn_about_copies() -> None:
    """Print once that this command is not shared between processes, if a launcher has started several copies of it."""
    counts = {launcher: os.environ[name] for name, launcher in TASKS.items() if os.environ.get(name, "1") != "1"}
    for launcher, count in counts.items():
        print(
            f"note: {launcher} started {count} copies of this command, and each does all of the work: start one "
            "(`srun --ntasks=1`); pretrain, finetune and robustify share their batches, and evaluate its images",
            file=sys.stderr,
        )


def copy_output(compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Wrap a CUDA graph so that its output is copied: the next call overwrites the original."""
    return lambda *args, **how: compute(*args, **how).clone()


def multiplies_bf16(kind: str) -> bool:
    """Return whether a device has bf16 instructions; without them bf16 is slow."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return kind == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def measured_memory(device: torch.device) -> Callable[[], float]:
    """Return a function for the peak memory in GB (10^9 bytes): of all tensors on a GPU, else of the process."""
    if device.type != "cuda":
        return peak_memory
    torch.cuda.reset_peak_memory_stats(device)
    return lambda: round(torch.cuda.max_memory_allocated(device) / 1e9, 3)


def peak_memory() -> float:
    """Return the peak memory of the process, in GB."""
    if resource is None:  # Windows has no such counter
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 3)


def keep_memory() -> None:
    """Tell the C library (glibc) to keep freed memory in the process.

    By default it returns each large tensor's memory at once, and the next allocation has to map and clear every page.
    That takes a tenth of a step's time on a CPU.
    """
    no_mapping, no_trimming = (-4, 0), (-1, 2**31 - 1)  # M_MMAP_MAX, M_TRIM_THRESHOLD
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):
            for option in (no_mapping, no_trimming):
                ctypes.CDLL(None).mallopt(*option)
