"""Verbs: each function takes a recipe or a model and does the work."""
