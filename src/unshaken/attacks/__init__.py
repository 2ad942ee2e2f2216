"""Layer 1: what an adversary may do, and how it searches."""
