"""Every test here takes a device. On the CPU it is part of `make test-all`; `pytest -m gpu` takes the CUDA form."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from machine import RECIPES  # noqa: E402

# cuBLAS reads it at the first product of the process, whichever test makes it
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

CPU = pytest.param("cpu", marks=pytest.mark.extra)
CUDA = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
)


@pytest.fixture(autouse=True)
def _fast(unchecked: None) -> None:
    """Speed and memory are measured here, and much is compiled: shapes are checked elsewhere."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`device` is the CPU and a CUDA device; `cuda` is for what a CPU cannot show; `recipe` is every one on CUDA."""
    if "cuda" in metafunc.fixturenames:
        metafunc.parametrize("cuda", [CUDA])
    if "recipe" in metafunc.fixturenames:
        metafunc.parametrize("recipe", RECIPES if "cuda" in metafunc.fixturenames else ())
    elif "step_of" in metafunc.fixturenames:
        on_cpu, on_cuda = metafunc.function.recipes
        pairs = [pytest.param("cpu", name, id=f"{name}-cpu", marks=CPU.marks) for name in on_cpu]
        pairs += [pytest.param("cuda", name, id=f"{name}-cuda", marks=CUDA.marks) for name in on_cuda]
        metafunc.parametrize(("device", "step_of"), pairs)
    elif "device" in metafunc.fixturenames:
        metafunc.parametrize("device", [CPU, CUDA])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """CUDA tests run where they are asked for, by -m gpu, and not otherwise."""
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    for item in on_gpu:  # PyTorch, Triton and Lightning warn of much there that is not ours
        item.add_marker(pytest.mark.filterwarnings("ignore"))
    if "gpu" not in config.option.markexpr and on_gpu:
        config.hook.pytest_deselected(items=on_gpu)
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]


@pytest.fixture(autouse=True)
def settings_as_before() -> Iterator[None]:
    """What a runtime sets in the process goes back; an error in one test leaves nothing behind for the next."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    yield
    torch.use_deterministic_algorithms(deterministic, warn_only=warns)
    cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.set_per_process_memory_fraction(1.0)
