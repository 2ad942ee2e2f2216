"""Evaluation: from a classifier and images to verdicts and a result."""
