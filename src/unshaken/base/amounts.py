"""Amounts in words: 1 image, 1,200 images; the size of a network"""

from __future__ import annotations


def amount(count: float, noun: str, plural: str = "") -> str:
    """Return a number with its noun, in the singular for one: 1 epoch, 0.5 epochs, 1,200 images."""
    return f"{count:,g} {noun}" if count == 1 else f"{_written(count)} {plural or f'{noun}s'}"


def _written(count: float) -> str:
    return f"{count:,}" if isinstance(count, int) else f"{count:g}"


def weights_in_words(count: int) -> str:
    """Return the size of a network: 11.2 million weights, or 24,312 weights of a small one."""
    return f"{count / 1e6:.1f} million weights" if count >= 1e6 else amount(count, "weight")
