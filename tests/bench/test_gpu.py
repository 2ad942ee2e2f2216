"""The comparison for GPUs, rehearsed without one: what it counts and works out, and that nothing that fails ends it."""

import json
import os
import sys
import time
from dataclasses import replace

import pytest
import torch
from bench.gpu import MEMORY, TINY, Case, Survey, isolated
from torch import nn

import unshaken
from bench import __main__ as bench
from bench import gpu

PEAKS = {"bf16": 800.0, "tf32": 400.0, "float32": 50.0}


def here(limit: float, work, *args) -> dict:
    """In this process, in which it takes what it takes."""
    return gpu.attempted(work, *args)


def forward(net: nn.Module, x: torch.Tensor) -> list[int]:
    """Operations of each layer that multiplies, from its own sizes."""
    found = []

    def note(layer: nn.Module, _, y: torch.Tensor) -> None:
        each = layer.weight[0].numel() if isinstance(layer, nn.Conv2d) else layer.in_features
        found.append(2 * each * y.numel())

    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(note)
    net(x, "clean")
    return found


@pytest.mark.parametrize(("name", "views"), [("acl/digits", 4), ("dynacl-air/digits", 5)])
def test_operations_are_those_of_the_layers(name, views):
    """Forward and back to the pixels in each of 5 steps for 2 views; in the update both and the weights, but for the
    pixels' own gradient: of 2 views in 2 streams, and in AIR of the originals."""
    recipe = unshaken.recipe(name)
    first, *others = forward(recipe.build_network().eval(), torch.zeros(1, 1, 8, 8))
    whole = first + sum(others)
    expected = 5 * 2 * 2 * whole + views * (3 * whole - first)
    assert 1e9 * gpu.operations(recipe)["step"] == pytest.approx(expected, rel=0.01)


def test_a_candidate_goes_through_the_network_eight_times():
    """One step to attack two views, and both streams of them."""
    recipe = unshaken.recipe("acl-rcs/digits")
    whole = sum(forward(recipe.build_network().eval(), torch.zeros(1, 1, 8, 8)))
    assert 1e9 * gpu.operations(recipe)["candidate"] == pytest.approx(8 * whole, rel=0.01)


def test_hours_are_those_on_paper(monkeypatch):
    """20 epochs, 180 of a twentieth and 18 looks at a quarter of the operations, of 99.5 % of the images."""
    monkeypatch.setattr(gpu, "operations", lambda recipe: {"step": 336.0, "candidate": 84.0})
    rows = [
        {"recipe": "acl/cifar10", "images_s": 5000.0},
        {"recipe": "acl/cifar10", "images_s": 8880.0},
        {"recipe": "acl/cifar10", "failed": MEMORY},
        {"recipe": "dynacl-air/cifar10", "failed": MEMORY},
        {"recipe": "acl/imagenet32", "images_s": 942.0},
    ]
    hours = gpu.projected(rows)
    assert hours == {"acl/cifar10": 1.56, "acl/imagenet32": 75.56, "acl-rcs/imagenet32": hours["acl-rcs/imagenet32"]}
    epoch = 1_281_167 / 942 / 3600
    assert hours["acl-rcs/imagenet32"] == pytest.approx(0.995 * (20 + 180 * 0.05 + 18 / 4) * epoch, rel=1e-3)


def test_utilisation_is_of_the_precision_s_own_peak():
    for precision, part in (("bf16", 0.4), ("tf32", 0.8)):
        row = {"precision": precision, "images_s": 320_000 / 36}
        assert gpu.utilised(row, {"step": 36.0}, PEAKS)["utilisation"] == pytest.approx(part)


def test_kernels_are_counted_by_kind_and_spans_not_twice():
    kernels = {
        "sm90_xmma_fprop_implicit_gemm_bf16": 400.0,
        "void at::native::vectorized_elementwise_kernel<4, AddFunctor>": 100.0,
        "nvjet_tst_128x8": 50.0,
        "loss": 500.0,
        "Optimizer.step#SGD.step": 50.0,
        "cudaLaunchKernel": 7.0,
        "aten::conv2d": 9.0,
    }
    found = gpu.shares_of(kernels, 1000.0)
    assert found == {
        "nothing to do": 0.45,
        "convolutions": 0.4,
        "element by element": 0.1,
        "matrix products": 0.05,
    }


def test_rows_are_written_as_they_come(tmp_path, monkeypatch):
    """So that a cut leaves what was measured; the short form stays in this process."""
    out = tmp_path / "rows.jsonl"
    row = {"step_s": [0.1], "images_s": 320.0, "augmentation": 0.1, "memory_gb": 1.5}
    monkeypatch.setattr(gpu, "peak_speeds", lambda *_: PEAKS)
    monkeypatch.setattr(gpu, "measured", lambda case, *_: row)
    monkeypatch.setattr(gpu, "SHORT", Survey(((TINY,), (replace(TINY, mode="repeatable"),)), 0.1, (64,)))
    monkeypatch.setattr(gpu, "there", lambda: True)
    monkeypatch.setattr(gpu, "profile", lambda *_: {"convolutions": 0.5})
    monkeypatch.setattr(gpu, "world", lambda *_: {})
    monkeypatch.setattr(gpu, "isolated", None)
    gpu.compare(None, 1, False, seconds=30.0, out=out)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [next(iter(line)) for line in lines] == ["peak_tflops", "recipe", "profile", "recipe"]


def test_the_price_of_repeatable_bits():
    rows = [
        gpu.asdict(replace(TINY, mode=mode)) | {"step_s": seconds}
        for mode, seconds in (("fast", [1.0, 2.0, 3.0]), ("repeatable", [3.0, 3.0, 3.0]))
    ]
    other = rows[1] | {"batch": 64, "step_s": [9.0]}
    found = gpu.price([*rows, other])
    assert (found["ratio"], found["spread"], found["ours_s"], found["baseline_s"]) == (1.5, [1.0, 3.0], 2.0, 3.0)
    assert gpu.price([rows[0], rows[1] | {"batch": 64}])["ratio"] is None
    assert gpu.price([rows[0] | {"failed": MEMORY}, other])["ratio"] is None


def test_a_product_s_speed(monkeypatch):
    monkeypatch.setattr(gpu, "spans", lambda work, device, seconds, rounds: (work(), [2.0, 1.0])[1])
    assert gpu.product_speed("cpu", torch.bfloat16, False, 64, 1.0) == 2 * 64**3 / 1e12


def test_a_span_is_of_whole_calls():
    calls = []
    taken = gpu.spans(lambda: calls.append(time.sleep(0.01)), "cpu", 0.3, 3)
    assert len(taken) == 3
    assert all(0.01 <= one < 0.1 for one in taken)
    assert 3 <= len(calls) - gpu.WARM_UP - 2 <= 30


def test_the_largest_batch_that_fits_counts():
    tried = []

    def measure(case: Case) -> dict:
        tried.append(case.batch)
        return {"failed": MEMORY} if case.batch > 16 else {"images_s": 1.0}

    cases = tuple(replace(TINY, batch=batch) for batch in (64, 32, 16, 8))
    assert gpu.largest(cases, measure) == gpu.asdict(cases[2]) | {"images_s": 1.0}
    assert tried == [64, 32, 16]
    assert gpu.largest(cases[:2], measure)["failed"] == MEMORY


def test_what_fails_is_noted_and_ends_nothing(monkeypatch):
    def way(limit: float, work, *args) -> dict:
        if limit <= 0:
            return {"failed": "no time was left"}
        if work is gpu.peak_speeds:
            return PEAKS
        if work is gpu.measured and args[0].batch == 32:
            return {"step_s": [0.1], "images_s": 320.0, "augmentation": 0.1, "memory_gb": 1.5}
        return {"failed": "CUDA error: misaligned address"}

    survey = Survey(((TINY,), (replace(TINY, batch=64),), (replace(TINY, mode="repeatable"),)), 0.1, (64,))
    found = gpu.surveyed(survey, "cpu", 1, way)
    assert [row.get("failed", "") for row in found["rows"]] == ["", "CUDA error: misaligned address", ""]
    assert found["ratio"] == 1.0
    late = gpu.surveyed(
        survey, "cpu", 1, lambda limit, *work: way(60 if work[0] is gpu.peak_speeds else limit, *work), 0
    )
    assert [row["failed"] for row in late["rows"]] == ["no time was left"] * 3
    with pytest.raises(SystemExit, match="bench: not even a matrix product"):
        gpu.surveyed(survey, "cpu", 1, lambda *_: {"failed": "no driver"})


def short_of_memory() -> dict:
    raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 99 GiB")


def test_why_it_failed_is_one_line():
    assert gpu.attempted(short_of_memory) == {"failed": MEMORY}
    assert gpu.attempted(int, "a") == {"failed": "ValueError: invalid literal for int() with base 10: 'a'"}


def test_a_process_that_takes_too_long_is_ended():
    began = time.monotonic()
    assert isolated(0.2, time.sleep, 100) == {"failed": "not done in 0 s"}
    assert time.monotonic() - began < 60
    assert isolated(0, time.sleep, 100) == {"failed": "no time was left"}


@pytest.mark.extra
def test_a_process_that_dies_is_noted_and_one_that_answers_is_heard():
    assert isolated(60, os._exit, 3) == {"failed": "its process ended without an answer"}
    assert isolated(60, gpu.world, "cpu")["device"] == "cpu"


def test_without_a_gpu_it_is_left_out_and_refused(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "there", lambda: False)
    monkeypatch.setattr(sys, "argv", ["bench", "--names"])
    bench.main()
    assert "gpu" not in capsys.readouterr().out.split()
    monkeypatch.setattr(sys, "argv", ["bench", "gpu"])
    with pytest.raises(SystemExit, match="gpu needs a CUDA device, and this machine has none"):
        bench.main()
    monkeypatch.setattr(gpu, "there", lambda: True)
    monkeypatch.setattr(sys, "argv", ["bench", "--names"])
    bench.main()
    assert "gpu" in capsys.readouterr().out.split()


@pytest.mark.extra
def test_the_comparison_runs(monkeypatch, capsys):
    """On tiny networks, in this process."""
    monkeypatch.setattr(gpu, "isolated", here)
    monkeypatch.setattr(gpu, "there", lambda: False)
    plan = tuple((replace(case, batch=8),) for (case,) in gpu.QUICK.plan)
    monkeypatch.setattr(gpu, "QUICK", replace(gpu.QUICK, plan=plan, seconds=0.02))
    monkeypatch.setattr(gpu, "WARM_UP", 1)
    monkeypatch.setattr(sys, "argv", ["bench", "gpu", "--quick", "--rounds", "2"])
    threads = torch.get_num_threads()
    bench.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["name"], result["n"], result["world"]["device"]) == ("gpu", 2, "cpu")
    assert 0.2 < result["ratio"] < 5
    assert set(result["peak_tflops"]) == set(PEAKS)
    for row in result["rows"]:
        assert row["images_s"] == pytest.approx(row["batch"] / sum(row["step_s"]) * 2, rel=1e-3, abs=0.05)
        assert 0 < row["augmentation"] < 1
        assert row["utilisation"] > 0
    assert torch.get_num_threads() == threads


def test_the_plan_is_of_recipes_that_exist():
    for cases in gpu.FULL.plan:
        sizes = [case.batch for case in cases]
        assert sizes == sorted(sizes, reverse=True)
        assert replace(unshaken.recipe(cases[0].recipe), batch_size=sizes[0]).backbone.image_size == 32
    assert len(set(gpu.FULL.plan)) == len(gpu.FULL.plan)
