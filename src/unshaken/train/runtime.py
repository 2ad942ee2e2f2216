"""Device (by Lightning Fabric), precision and threads; what world a result was made in."""

from __future__ import annotations

import os
import platform
import warnings
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy
import torch

from unshaken import __version__
from unshaken.nets.embed import Network

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Runtime:
    """Where and how to compute. Not part of a recipe: it should not change what a number means."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto takes a GPU if there is one."""
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """Of the network's layers; losses, pixels and parameters stay float32. tf32 is for GPUs that have it: float32 with
    products of 10 bits."""
    threads: int = 0
    """Of the CPU; 0 leaves PyTorch's choice. Another number can change the last bits."""

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise ValueError(f"threads are counted from 1, or 0 for PyTorch's choice; not {self.threads}")

    def open(self) -> Fabric:
        """The one place that touches devices and settings of the process."""
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not there.get(self.device, True):
            raise ValueError(f"there is no {self.device} device here; use --runtime.device cpu, or auto")
        if self.threads:
            torch.set_num_threads(self.threads)
        # cuBLAS repeats its bits only with a workspace of fixed size
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # a few of a GPU's kernels have no form that repeats its bits; PyTorch then warns, and goes on
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = self.precision == "tf32"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Fabric's own imports
            from lightning_fabric import Fabric
        return Fabric(accelerator=self.device, devices=1, precision="32-true")

    def prepare(self, net: Network) -> None:
        """Give a network the arithmetic of this runtime, and its convolutions the layout in which they are fastest.

        Fabric's own autocast would be around the whole step, and losses and augmentation would lose precision too.
        """
        net.to(memory_format=torch.channels_last)
        if self.precision == "bf16":
            kind = next(net.parameters()).device.type
            for part in net.modules():  # a network may hold a teacher
                if isinstance(part, Network):
                    part.precision = torch.bfloat16
                    part.arithmetic = partial(torch.autocast, kind, dtype=part.precision)

    def world(self, device: torch.device) -> dict[str, Any]:
        """What a number depends on beside its recipe. It names no user, host or path."""
        return {
            "unshaken": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "system": f"{platform.system()} {platform.machine()}",
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "precision": self.precision,
        }
