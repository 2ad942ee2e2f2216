"""Recipes: every choice of a run as one value. A recipe opens no file and runs nothing."""
