"""Helpers that every other package uses: random numbers, schedules, files, progress."""
