"""Precision reaches the network's layers and nothing else; the world names no place."""

import os
from functools import partial
from types import SimpleNamespace

import pytest
import torch

import unshaken
from processes import Forked, launched_together, said_by
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.distributed import leave, processes
from unshaken.base.launchers import workers
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.serialize import canonical
from unshaken.base.types import Batch
from unshaken.compute.runtime import Runtime, keep_memory
from unshaken.methods.acl import ACL


def test_bf16_is_close_and_comes_out_as_float32():
    """Attack loss and embeddings in bf16 agree with float32 to its 8 bits; the perturbation is float32."""
    recipe = unshaken.recipe("acl/digits")
    net = recipe.build_network().eval()
    x = recipe.data.load("train")[:32].floats()
    exact = net(x, "adv")
    Runtime(precision="bf16").prepare(net)
    rough = net(x, "adv")
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert torch.nn.functional.cosine_similarity(rough, exact).min() > 0.99
    views = torch.stack([x, x.flip(-1)])
    x_adv = ACL(PGD(Linf(0.1), 2)).adversarial(net, views, Key(0))
    assert x_adv.dtype == torch.float32
    assert (x_adv - views).abs().max() <= 0.1 + 1e-6


def test_the_world_is_plain_and_names_no_place():
    world = Runtime().world(torch.device("cpu"))
    assert {"torch", "python", "device", "threads", "precision"} <= set(world)
    assert "/" not in canonical(world)


def test_convolutions_take_the_fast_layout():
    net = unshaken.recipe("acl/digits").build_network()
    Runtime().prepare(net)
    weights = [p for p in net.parameters() if p.ndim == 4 and p.shape[1] > 1]
    assert weights
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


def test_a_network_is_prepared_anew():
    """bf16 and back: what a runtime gives does not depend on what was given before."""
    net, x = unshaken.recipe("acl/digits").build_network().eval(), torch.rand(4, 1, 8, 8)
    exact = net(x, "adv")
    Runtime(precision="bf16").prepare(net)
    assert net.computation.precision == net.computation.folder.precision == torch.bfloat16
    Runtime().prepare(net)
    assert net.computation.precision == net.computation.folder.precision == torch.float32
    assert torch.allclose(net(x, "adv"), exact, atol=1e-5)


def test_auto_is_what_the_processor_has(monkeypatch):
    for found, precision in ((True, "bf16"), (False, "float32")):
        monkeypatch.setattr("unshaken.compute.runtime.multiplies_bf16", lambda kind, found=found: found)
        assert Runtime("cpu", "auto").precision == precision
    assert Runtime().precision == "float32"


@pytest.mark.parametrize(("mode", "repeats"), [("repeatable", True), ("fast", False)])
def test_modes(mode, repeats, monkeypatch):
    kept = []
    monkeypatch.setattr("unshaken.compute.runtime.keep_memory", lambda: kept.append(True))
    before = torch.are_deterministic_algorithms_enabled()
    try:
        Runtime("cpu", mode=mode).open()
        assert torch.are_deterministic_algorithms_enabled() == repeats
        assert torch.backends.cudnn.benchmark != repeats
        assert not torch.utils.deterministic.fill_uninitialized_memory
        assert kept
        assert Runtime(mode=mode).world(torch.device("cpu"))["mode"] == mode
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = False


def test_a_run_goes_on_in_the_way_it_was_begun():
    """What was begun before there was a choice is still what it was."""
    assert Runtime().identity == {"precision": "float32"}
    other = Runtime(precision="bf16", mode="fast", at_most=8, compile="kernels", threads=1)
    assert other.identity == {"precision": "bf16", "mode": "fast", "compile": "kernels", "at_most": 8}
    assert other.note == {"precision": "bf16", "mode": "fast"}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # looked at by the tracer
@pytest.mark.extra
@pytest.mark.parametrize(("word", "mode"), [("no", ...), ("kernels", None), ("graphs", "reduce-overhead")])
def test_what_is_compiled_computes_the_same(word, mode, monkeypatch):
    """Traced as it would be compiled, but run as it is: the network that learns, and the folded one of an attack."""
    asked, compile_ = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **how: asked.append(how["mode"]) or compile_(f, backend="eager"))
    recipe, losses = unshaken.recipe("acl/digits"), []
    views = torch.rand(2, 8, 1, 8, 8, generator=Key("views").on("cpu"))
    for how in ("no", word):
        net = recipe.build_network()
        Runtime("cpu", compile=how).prepare(net)
        batch = Batch(views, views[0], None, torch.arange(8))
        losses.append(recipe.method.loss(net, batch, Clock(0, 0, 0.0, 9), Key(1))["loss"])
    assert asked == ([] if mode is ... else [mode, mode])
    assert torch.allclose(*losses)


def test_an_output_of_graphs_outlives_the_next_one(monkeypatch):
    """A graph of launches writes each output where the last one was, as this stand-in for the compiler does."""
    places = {}

    def compile_(compute, **how):
        def call(x):
            buffer = places.setdefault(compute, torch.empty_like(compute(x)))
            return buffer.copy_(compute(x))

        return call

    monkeypatch.setattr(torch, "compile", compile_)
    net = unshaken.recipe("acl/digits").build_network().eval().requires_grad_(False)
    Runtime("cpu", compile="graphs").prepare(net)
    x = torch.rand(4, 1, 8, 8, generator=Key("x").on("cpu"))
    first = net.features(x, "clean")
    kept = first.clone()
    assert not torch.equal(net.features(x.flip(-1), "clean"), kept)
    assert torch.equal(first, kept)
    assert places


def test_fabric_recommends_nothing(capfd):
    """On GPUs it has a line about precision at every start, which is not ours to say."""
    Runtime("cpu").open()
    from lightning_fabric.utilities.rank_zero import rank_zero_info

    rank_zero_info("you should set another precision")
    assert "another precision" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("has_mallopt", [True, False])
def test_freed_memory_stays_with_the_process(has_mallopt, monkeypatch):
    """Asked of the C library by the numbers of its malloc.h; one that knows no such thing is left alone."""
    asked = []
    library = SimpleNamespace(mallopt=lambda *option: asked.append(option)) if has_mallopt else SimpleNamespace()
    monkeypatch.setattr("ctypes.CDLL", lambda name: library)
    monkeypatch.setattr("sys.platform", "linux")
    keep_memory()
    M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1
    assert dict(asked) == ({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1} if has_mallopt else {})
    asked.clear()
    monkeypatch.setattr("sys.platform", "darwin")
    keep_memory()
    assert not asked


def joined(rank: int) -> None:
    fabric = Runtime("cpu", threads=1).open("together")
    assert (fabric.world_size, fabric.global_rank) == (2, rank)
    assert processes().count == 2
    assert torch.get_num_threads() == 1
    again = Runtime("cpu").open("together")  # a run may open another one, as that of its teacher
    assert again.all_reduce(torch.tensor(rank + 1), reduce_op="sum").item() == 3
    assert Runtime("cpu").open("apart").world_size == 1
    leave()


def srun(rank: int, port: int) -> None:
    os.environ.update(
        SLURM_JOB_ID=str(port), SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank), SLURM_NODEID="0", SLURM_NTASKS="2",
        SLURM_STEP_NUM_TASKS="2", SLURM_STEP_NUM_NODES="1", SLURM_NTASKS_PER_NODE="2", SLURM_NODELIST="localhost",
        SLURM_JOB_NAME="unshaken", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    joined(rank)


def test_processes_of_torchrun_and_srun_join():
    launched_together(2, joined)
    port = int(workers(2)[0]["MASTER_PORT"])
    said_by([Forked(partial(srun, rank, port)) for rank in range(2)])
