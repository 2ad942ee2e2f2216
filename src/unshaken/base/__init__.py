"""Randomness, schedules, files, progress: what every room uses. No mathematics, no network."""
