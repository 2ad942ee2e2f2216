"""Options: the words of a command line become values, and every mistake is one line."""

from unshaken.options.config import Config
from unshaken.options.fields import flags
from unshaken.options.help import Value, described, values_of
from unshaken.options.numbers import number, number_text, whole_number
from unshaken.options.parsing import only_options_of, parse, subject
from unshaken.options.words import expand_data, extra_data, flag_groups, take_list, take_option

__all__ = [
    "Config",
    "Value",
    "described",
    "expand_data",
    "extra_data",
    "flag_groups",
    "flags",
    "number",
    "number_text",
    "only_options_of",
    "parse",
    "subject",
    "take_list",
    "take_option",
    "values_of",
    "whole_number",
]
