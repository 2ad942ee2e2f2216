"""Checks that tell whether an evaluation can be believed."""
