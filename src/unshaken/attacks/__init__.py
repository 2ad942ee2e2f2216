"""Attacks: what an adversary may change, and how it searches."""
