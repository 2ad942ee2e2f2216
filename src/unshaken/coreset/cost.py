"""The cost of training on a coreset, and the random fraction that costs the same."""

from __future__ import annotations


def matched(fraction: float, warmup: int, epochs: int, spent: dict[str, float]) -> float:
    """Return the fraction of random images that costs as much as a selected `fraction` with its selections.

        f′ = f + selection / (E (epochs − warmup)),      E: seconds of an epoch on all candidates

    spent   seconds of "warmup" (if there was one), "selection" and "training" in the run that selected
    E is measured in the warm-up; without one, it is the seconds of training divided by the fraction. The result is 1 at
    most, and is rounded to 3 decimals, since it becomes a field of a recipe. ValueError unless 0 ≤ warmup < epochs.
    """
    if not 0 <= warmup < epochs:
        raise ValueError(f"warmup is a number of epochs from 0 to {epochs - 1}, not {warmup}")
    after = epochs - warmup
    on_all = spent["warmup"] / warmup if warmup else spent["training"] / (fraction * after)
    on_all_after = max(on_all * after, 0.01)  # seconds are logged in hundredths: a quicker epoch reads as 0
    return round(min(1.0, fraction + spent["selection"] / on_all_after), 3)
