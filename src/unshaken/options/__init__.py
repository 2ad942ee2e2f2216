"""Options: the words of a command line become values, and every mistake is one line."""

from unshaken.options.fields import flags
from unshaken.options.help import Value, values_of
from unshaken.options.numbers import number, number_text, whole_number
from unshaken.options.parsing import only_options_of, parse, subject
from unshaken.options.words import flag_groups, take_option

__all__ = [
    "Value",
    "flag_groups",
    "flags",
    "number",
    "number_text",
    "only_options_of",
    "parse",
    "subject",
    "take_option",
    "values_of",
    "whole_number",
]
