"""What training on a coreset costs, and how many images by chance cost as much."""

from __future__ import annotations


def matched(fraction: float, warmup: int, epochs: int, spent: dict[str, float]) -> float:
    """The fraction of images by chance that costs what a selected `fraction` did, its selections included.

        f′ = f + selection / (E (epochs − warmup)),      E: seconds of an epoch on all candidates

    spent   seconds of "warmup", if there was one, "selection" and "training" of the run that selected
    E is that of the warm-up; without one, that of the training by the share of the images it saw. At most 1, for more
    images than all there are not. Rounded to 3 decimals, as it is a field of the recipe of the run it is made for.
    """
    if not 0 <= warmup < epochs:
        raise ValueError(f"nothing is selected in {epochs} epochs of which {warmup} are warm-up")
    after = epochs - warmup
    on_all = spent["warmup"] / warmup if warmup else spent["training"] / (fraction * after)
    whole = max(on_all * after, 0.01)  # seconds are noted in hundredths: what is quicker reads as none
    return round(min(1.0, fraction + spent["selection"] / whole), 3)
