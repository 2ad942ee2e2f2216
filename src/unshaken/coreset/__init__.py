"""Coreset selection: which images an epoch sees."""
