"""The words of a command line into values, with every mistake in one line."""

from unshaken.options.numbers import number, spelled, whole
from unshaken.options.parsing import flags, grouped, meant_for, parse, subject, taken

__all__ = [
    "flags",
    "grouped",
    "meant_for",
    "number",
    "parse",
    "spelled",
    "subject",
    "taken",
    "whole",
]
