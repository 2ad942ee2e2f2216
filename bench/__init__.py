"""Benchmarks: the library against plain implementations of the same mathematics, as ratios within one run."""
