"""Verbs: each takes a recipe or a model and a workspace, and does the work."""
