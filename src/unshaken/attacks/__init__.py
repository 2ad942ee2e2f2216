"""Attacks: what an adversary may do, and how it searches."""
