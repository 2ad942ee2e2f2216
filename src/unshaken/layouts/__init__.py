"""Layouts of other libraries' weights: their names, their shapes, and how they become ours."""
