"""Joining the processes that torchrun or srun has started: a Fabric that sums gradients over them."""

from __future__ import annotations

import logging
from datetime import timedelta
from inspect import signature
from typing import TYPE_CHECKING

import torch

from unshaken.base.launchers import Launched

if TYPE_CHECKING:
    from lightning_fabric import Fabric

SILENCE = timedelta(minutes=10)
"""The time after which a device that no longer answers is taken for dead. Waiting for a host may take longer."""


def check_group(group: Launched | None, devices: int, nodes: int, compiled: str) -> None:
    """Raise a ValueError if other numbers of processes were asked for than there are."""
    if group is None:
        if devices * nodes > 1:
            raise ValueError(
                f"{devices * nodes} processes were asked for, and this one is alone: the commands pretrain, finetune, "
                "robustify and evaluate start those of one machine; others are started by torchrun or srun "
                "(docs/scale.md)"
            )
        return
    here, machines = group.local[1], group.count // group.local[1]
    if devices not in (1, here) or nodes not in (1, machines):
        raise ValueError(
            f"{group.launcher} has started {here} processes on each of {machines} machine(s), but --runtime.devices is "
            f"{devices} and --runtime.nodes {nodes}: leave both out"
        )
    if compiled == "graphs":
        raise ValueError("--runtime.compile graphs was never tried with several processes: use kernels, or no")


def join_group(group: Launched, kind: str, compiled: bool) -> Fabric:
    """Return a Fabric whose gradients are those of all processes. They meet once in the life of a process.

    kind  the type of device, of which each process on a machine takes another one
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
    from lightning_fabric.strategies import DDPStrategy
    from torch.nn.parallel import DistributedDataParallel

    logging.getLogger("lightning_fabric.utilities.distributed").setLevel(logging.WARNING)  # each rank says hello
    known = signature(DistributedDataParallel).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # PyTorch 2.13 renames it
    slurm, here = group.launcher == "srun", group.local[1]
    strategy = DDPStrategy(
        cluster_environment=SLURMEnvironment(auto_requeue=False) if slurm else TorchElasticEnvironment(),
        timeout=SILENCE,
        **{sync: False},  # buffers are equal in all processes  # pyright: ignore[reportArgumentType]
        gradient_as_bucket_view=True,
        # this keeps the first buckets: otherwise a resumed run would sum its first gradients in another order. And a
        # method may leave a route unused.
        find_unused_parameters=True,
    )
    nodes = group.count // here
    fabric = Fabric(accelerator=kind, devices=here, num_nodes=nodes, strategy=strategy, precision="32-true")
    threads = torch.get_num_threads()
    fabric.launch()
    torch.set_num_threads(threads)  # which Fabric may have changed
    if compiled:
        from torch import _dynamo

        _dynamo.config.optimize_ddp = False  # otherwise graphs would be cut where gradients are summed
    return fabric
