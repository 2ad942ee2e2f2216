"""Layer 7: the words of a command line to values, by tyro, with every mistake in one line"""

from unshaken.options.numbers import number, spelled, whole
from unshaken.options.parsing import flags, grouped, meant_for, parse, parse_nothing, subject, taken

__all__ = [
    "flags",
    "grouped",
    "meant_for",
    "number",
    "parse",
    "parse_nothing",
    "spelled",
    "subject",
    "taken",
    "whole",
]
