"""Training steps on a GPU: images per second, memory, and the fraction of the peak speed.

The steps are those of `Training` with unchanged recipes, on synthetic images on the device: augmentation, attack,
update, and reading the log's values. Each configuration runs in a separate process, so one that fails, or lacks memory
or time, is recorded and does not affect the next. The timer waits for the device only around spans of many steps.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

import unshaken
from bench.clock import paired, tell
from bench.operations import counted
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.compute.runtime import Runtime
from unshaken.coreset.selector import split
from unshaken.data.images import Images
from unshaken.methods.base import Step
from unshaken.recipes.pretrain import Pretrain
from unshaken.runs.first_network import first_network
from unshaken.train.batches import BatchStream, Position
from unshaken.train.loop import Execution, training
from unshaken.train.run_dir import Run
from unshaken.train.selection_objective import objective_of

KEY = Key(0) / "gpu"
IMAGES = {"cifar10": 50_000, "imagenet32": 1_281_167}
"""Numbers of training images in the data sets of the published schedules."""
SYNTHETIC = 50_000
"""Largest number of images. It is a multiple of the batch size, so that all steps have one shape. The time of a step
does not depend on it."""
RCS = "acl-rcs/imagenet32"
BUDGET = 440.0
"""Seconds for everything: a little less than 8 minutes."""
WARM_UP = 4
"""Number of steps before the first timed one, for selecting, compiling and recording kernels."""
MEMORY = "not enough memory"


@dataclass(frozen=True)
class Case:
    """A recipe with a batch size and a mode of the runtime."""

    recipe: str
    batch: int
    mode: Literal["repeatable", "fast"] = "fast"
    compile: Literal["no", "kernels", "graphs"] = "no"
    precision: Literal["float32", "tf32", "bf16"] = "bf16"

    @property
    def limit(self) -> float:
        """Time limit of a case in seconds, including its start."""
        return 60.0 if self.compile == "no" else 150.0


@dataclass(frozen=True)
class Survey:
    """The cases to measure. plan: the most informative ones first; of the batch sizes, the first that fits into
    memory."""

    plan: tuple[tuple[Case, ...], ...]
    seconds: float
    """Number of rounds of timed steps for each case."""
    sides: tuple[int, ...]
    """Sizes of square matrices; the fastest product defines the peak."""


ACL, AIR, WRN = Case("acl/cifar10", 512), Case("dynacl-air/cifar10", 512), Case("acl/imagenet32", 1024)
LARGEST = (WRN, replace(WRN, batch=512), replace(WRN, batch=256))
FULL = Survey(
    (
        (ACL,),
        (replace(ACL, mode="repeatable"),),
        (AIR,),
        LARGEST,
        (replace(ACL, batch=1024),),
        (replace(AIR, batch=1024),),
        (replace(ACL, compile="kernels"),),
        (replace(ACL, compile="graphs"),),
        (replace(ACL, precision="tf32"),),
        (replace(AIR, mode="repeatable"),),
        tuple(replace(case, mode="repeatable") for case in LARGEST),
        (replace(ACL, batch=1024, mode="repeatable"),),
        (replace(AIR, batch=1024, mode="repeatable"),),
    ),
    seconds=5.0,
    sides=(4096, 8192),
)
SHORT = Survey(
    (
        (ACL,),
        (AIR,),
        (replace(ACL, mode="repeatable"),),
        (replace(ACL, compile="kernels"),),
        (replace(ACL, compile="graphs"),),
    ),
    seconds=2.0,
    sides=(8192,),
)
"""The cases for --seconds, the most informative first, so that an interruption loses least."""
TINY = Case("acl/digits", 32)
QUICK = Survey(
    ((TINY,), (replace(TINY, mode="repeatable"),), (Case("dynacl-air/digits", 32, precision="float32"),)),
    seconds=0.3,
    sides=(128,),
)


def compare(
    data: Path | None, rounds: int, quick: bool, seconds: float | None = None, out: Path | None = None
) -> dict[str, Any]:
    """Measure; ratio: seconds of an ACL step, repeatable / fast, which is the price of repeatable bits.

    seconds  time limit for everything, which selects the short form
    out      a file to which each row is added as soon as it is measured, so that an interruption loses nothing
    """
    if not (quick or there()):
        sys.exit("bench: gpu needs a CUDA device, and this machine has none; --quick runs a small form on any device")
    survey, budget = QUICK if quick else SHORT if seconds else FULL, seconds or BUDGET
    way = together if seconds else isolated
    return surveyed(survey, "cuda" if there() else "cpu", rounds, way, budget, partial(noted, out))


def noted(out: Path | None, row: dict[str, Any]) -> None:
    """Append a line to the file."""
    if out is not None:
        with open(out, "a") as file:
            file.write(json.dumps(row) + "\n")


def there() -> bool:
    """Return if there is a CUDA device."""
    return torch.cuda.is_available()


Way = Callable[..., dict[str, Any]]
"""A way to run work: takes (time limit in seconds, function, arguments), returns the function's result or {"failed":
reason}."""


def surveyed(
    survey: Survey,
    device: str,
    rounds: int,
    way: Way,
    budget: float = BUDGET,
    note: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    began = time.monotonic()

    def left(limit: float) -> float:
        return min(limit, budget - (time.monotonic() - began))

    peaks = way(left(60), peak_speeds, device, survey.sides, survey.seconds)
    if "failed" in peaks:
        sys.exit(f"bench: not even a matrix product was timed: {peaks['failed']}")
    tell(f"peaks, TFLOP/s: {peaks}")
    note({"peak_tflops": peaks})
    work = {name: operations(unshaken.recipe(name)) for name in {case.recipe: 0 for case, *_ in survey.plan}}
    rows, shares = [], {}
    for cases in survey.plan:
        row = largest(cases, lambda case: way(left(case.limit), measured, case, device, survey.seconds, rounds))
        rows.append(row if "failed" in row else row | utilised(row, work[row["recipe"]], peaks))
        tell(described(rows[-1]))
        note(rows[-1])
        if len(rows) == 1 and device == "cuda":
            shares = way(left(60), profile, cases[0], device)
            tell(f"  where an ACL step's time goes: {shares}")
            note({"profile": shares})
    return (
        price(rows)
        | {"unit": "seconds of an ACL step", "peak_tflops": peaks, "gflop_an_image": work, "rows": rows}
        | {"hours": projected(rows), "world": way(left(30), world, device)}
        | ({"profile": shares} if shares else {})
        | {"seconds": round(time.monotonic() - began, 1)}
    )


def largest(cases: tuple[Case, ...], measure: Callable[[Case], dict[str, Any]]) -> dict[str, Any]:
    """The row of the first case that fits into memory."""
    for case in cases:
        row = asdict(case) | measure(case)
        if row.get("failed") != MEMORY:
            break
    return row


# a separate process per case


def isolated(limit: float, work: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    if limit <= 0:
        return {"failed": "no time was left"}
    context = get_context("spawn")
    here, end = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(end, work, args))
    process.start()
    end.close()
    try:
        return here.recv() if here.poll(limit) else {"failed": f"not done in {limit:.0f} s"}
    except EOFError:
        return {"failed": "its process ended without an answer"}
    finally:
        process.kill()
        process.join()


def together(limit: float, work: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """Run in this process, which saves the start of another, but cannot end a case that takes too long."""
    return attempted(work, *args) if limit > 0 else {"failed": "no time was left"}


def _answer(end: Connection, work: Callable[..., dict[str, Any]], args: tuple[Any, ...]) -> None:
    end.send(attempted(work, *args))


def attempted(work: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """The return value of a call, or the reason for its failure."""
    try:
        return work(*args)
    except Exception as error:  # of any kind: the other cases go on
        if "out of memory" in str(error):  # raised by PyTorch's allocator, or by the driver's with another type
            return {"failed": MEMORY}
        first = (str(error).strip() or "without a word").splitlines()[0]
        return {"failed": f"{type(error).__name__}: {first[:200]}"}


# timed spans


def peak_speeds(device: str, sides: tuple[int, ...], seconds: float) -> dict[str, float]:
    """TFLOP/s of products of square matrices by precision; bf16 sums in float32."""
    Runtime(device=device).open()  # the library reads its settings at the first product
    return {
        name: round(max(product_speed(device, dtype, tf32, side, seconds / 5) for side in sides), 3)
        for name, dtype, tf32 in (
            ("bf16", torch.bfloat16, False),
            ("tf32", torch.float32, True),
            ("float32", torch.float32, False),
        )
    }


def product_speed(device: str, dtype: torch.dtype, tf32: bool, side: int, seconds: float) -> float:
    torch.backends.cuda.matmul.allow_tf32 = tf32
    a, b = (torch.randn((side, side), generator=(KEY / n).on(device), device=device).to(dtype) for n in "ab")
    made = torch.empty_like(a)
    return 2 * side**3 / min(spans(lambda: torch.mm(a, b, out=made), device, seconds, 5)) / 1e12


def measured(case: Case, device: str, seconds: float, rounds: int) -> dict[str, Any]:
    """Measure seconds of a step and of its augmentation, images per second, and peak memory."""
    runtime = Runtime(device=device, precision=case.precision, mode=case.mode, compile=case.compile)
    recipe = replace(unshaken.recipe(case.recipe), batch_size=case.batch)
    with TemporaryDirectory() as folder, at_work(recipe, runtime, Path(folder)) as (step, augment):
        taken = spans(step, device, seconds, rounds)
        memory = peak_memory(device)
        views = median(spans(augment, device, seconds / 5, rounds))
    return {
        "step_s": [round(one, 6) for one in taken],
        "images_s": round(case.batch / median(taken), 1),
        "augmentation": round(views / median(taken), 4),
        "memory_gb": memory,
    }


def profile(case: Case, device: str, steps: int = 3) -> dict[str, float]:
    """Fractions of the device's time by kind of kernel, and the fraction in which it is idle."""
    from torch.profiler import ProfilerActivity, profile

    runtime = Runtime(device=device, precision=case.precision, mode=case.mode, compile=case.compile)
    recipe = replace(unshaken.recipe(case.recipe), batch_size=case.batch)
    with TemporaryDirectory() as folder, at_work(recipe, runtime, Path(folder)) as (step, _):
        for _ in range(WARM_UP):
            step()
        wait(device)
        with profile(activities=[ProfilerActivity.CUDA]) as trace:
            began = time.perf_counter()
            for _ in range(steps):
                step()
            wait(device)
            whole = 1e6 * (time.perf_counter() - began)
    return shares_of({event.key: event.self_device_time_total for event in trace.key_averages()}, whole)


KINDS = (
    ("convolutions", ("conv", "implicit", "cudnn", "xmma", "wgrad", "dgrad", "fprop", "sm90_", "sm80_", "cutlass")),
    ("matrix products", ("gemm", "nvjet", "cublas")),
    ("batch norms", ("batch_norm", "bn_", "batchnorm")),
    ("copies and casts", ("memcpy", "copy", "cast", "memset", "transpose", "nhwc", "nchw")),
    ("reductions", ("reduce", "softmax", "norm")),
    ("element by element", ("elementwise", "vectorized", "foreach", "multi_tensor", "triton")),
)
"""Words in the names of kernels, by kind; the first kind that matches counts."""


SPANS = ("loss", "backward", "optimizer", "views", "profilerstep")
"""Names of the spans of a step, which a trace contains beside their kernels."""


def shares_of(kernels: dict[str, float], whole: float) -> dict[str, float]:
    """Return the fraction of `whole` microseconds by kind of kernel; operators, which only launch kernels, do not
    count."""
    found: dict[str, float] = {}
    for name, taken in kernels.items():
        word = name.lower()
        kind = next((kind for kind, words in KINDS if any(each in word for each in words)), "others")
        if not word.startswith(("aten::", "cuda", "autograd", *SPANS)):
            found[kind] = found.get(kind, 0.0) + taken
    found["nothing to do"] = max(0.0, whole - sum(found.values()))
    return {kind: round(taken / whole, 4) for kind, taken in sorted(found.items(), key=lambda one: -one[1])}


@contextmanager
def at_work(
    recipe: Pretrain, runtime: Runtime, folder: Path
) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """Return a function that makes the next training step, and one that makes only the views of a batch."""
    fabric = runtime.open()
    images = synthetic(recipe, SYNTHETIC // recipe.batch_size * recipe.batch_size)
    net = first_network(recipe).to(fabric.device)
    runtime.prepare(net)
    feed = BatchStream(images, recipe.views, recipe.strength, recipe.batch_size, recipe.epochs, KEY).to(fabric.device)
    made = Step(recipe.method, net)
    with (
        Run(folder, {}, {}) as run,
        training(made, feed, recipe.optimizer, Execution(run, fabric, quiet=True)) as course,
    ):
        places, index = feed.after(Position()), feed.batches(0, fabric.device)[0]

        def step() -> None:
            place, onward, batch = next(places)
            clock = feed.clock(place)
            course._update(batch, clock, place, recipe.lr(clock))
            course._report(clock, onward, recipe.lr(clock))

        yield step, partial(feed.make_batch, index, 1.0, KEY / "views")


def synthetic(recipe: Pretrain, count: int) -> Images:
    """Return noise in the image size of a recipe."""
    shape = (count, recipe.backbone.channels, recipe.backbone.image_size, recipe.backbone.image_size)
    return Images(torch.randint(256, shape, dtype=torch.uint8, generator=KEY.on("cpu")))


def spans(work: Callable[[], Any], device: str, seconds: float, rounds: int) -> list[float]:
    """Return the mean seconds of a call over a span of many, for each round after a warm-up."""
    for _ in range(WARM_UP):
        work()
    count = max(1, int(seconds / rounds / span(work, device, 2)))
    return [span(work, device, count) for _ in range(rounds)]


def span(work: Callable[[], Any], device: str, count: int) -> float:
    wait(device)
    began = time.perf_counter()
    for _ in range(count):
        work()
    wait(device)
    return (time.perf_counter() - began) / count


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_memory(device: str) -> float | None:
    """Return the peak memory of tensors on a GPU in GB, without what the allocator reserves besides."""
    return round(torch.cuda.max_memory_allocated() / 1e9, 2) if device == "cuda" else None


def world(device: str) -> dict[str, Any]:
    """Return versions and hardware, without the settings of a case."""
    found = Runtime(device=device).world(torch.device(device))
    return {name: value for name, value in found.items() if name not in ("precision", "mode")}


# counted and derived numbers


def operations(recipe: Pretrain) -> dict[str, float]:
    """Count GFLOP per image of a training step and, with a coreset, per candidate, on two images and a CPU.

    Operations between images grow with the batch, and are negligible at its usual sizes.
    """
    recipe = replace(recipe, batch_size=2)
    images, step = synthetic(recipe, 6), Step(recipe.method, first_network(recipe))
    feed = BatchStream(images, recipe.views, recipe.strength, 2, recipe.epochs, KEY)
    _, _, batch = next(feed.after(Position()))
    trained = counted(lambda: step(batch, Clock(0, 0, 0.0, recipe.epochs), KEY)["loss"].backward())
    found = {"step": round(trained / 2e9, 3)}
    if recipe.coreset is not None:
        x, u = split(6, 1 / 3, KEY)
        problem = objective_of(step, feed, Position(), x, u, KEY, 2, recipe.coreset.steps)
        found["candidate"] = round(counted(lambda: problem.gradients(range(1), "batch")) / 2e9, 3)
    return found


def utilised(row: dict[str, Any], work: dict[str, float], peaks: dict[str, float]) -> dict[str, float]:
    """The counted operations as a fraction of the peak of the row's precision."""
    return {"utilisation": round(work["step"] * row["images_s"] / 1e3 / peaks[row["precision"]], 4)}


def price(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The price of repeatable bits: both modes of the first row's case."""
    first = {name: rows[0][name] for name in ("recipe", "batch", "compile", "precision")}
    sides = {row["mode"]: row["step_s"] for row in rows if first.items() <= row.items() and "step_s" in row}
    if len(sides) < 2:
        return {"ratio": None, "spread": None, "ours_s": None, "baseline_s": None, "n": 0}
    return paired(sides, "fast", "repeatable")


def projected(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Hours of the published schedules at the fastest measured speed of each recipe."""
    speeds: dict[str, float] = {}
    for row in rows:
        speeds[row["recipe"]] = max(row.get("images_s", 0.0), speeds.get(row["recipe"], 0.0))
    hours = {}
    for name, speed in speeds.items():
        images = IMAGES.get(name.partition("/")[2], 0)
        if speed and images:
            hours[name] = round(unshaken.recipe(name).epochs * images / speed / 3600, 2)
        if speed and images and name == WRN.recipe:
            hours[RCS] = round(on_coresets(speed, images), 2)
    return hours


def on_coresets(speed: float, images: int) -> float:
    """Return the hours of the recipe RCS on this many images, if training processes `speed` images per second.

    A candidate takes less time in proportion to its operations; the search among the gradients is not included.
    """
    recipe = unshaken.recipe(RCS)
    coreset, work = recipe.coreset, operations(recipe)
    candidates = images - round(coreset.validation * images)
    selections = sum(coreset.due(epoch) for epoch in range(recipe.epochs))
    epochs = coreset.warmup + (recipe.epochs - coreset.warmup) * coreset.fraction
    looks = selections * work["candidate"] / work["step"]
    return candidates * (epochs + looks) / speed / 3600


def described(row: dict[str, Any]) -> str:
    """Return a row as a line of text."""
    what = f"{row['recipe']:<20} batch {row['batch']:<5} {row['precision']:<8} {row['mode']:<11} {row['compile']:<8}"
    if "failed" in row:
        return f"{what} {row['failed']}"
    memory = "" if row["memory_gb"] is None else f"{row['memory_gb']:.1f} GB, "
    return (
        f"{what} {row['images_s']:,.0f} images/s, {1e3 * median(row['step_s']):.1f} ms a step, {memory}"
        f"{row['utilisation']:.1%} of peak, augmentation {row['augmentation']:.1%}"
    )
