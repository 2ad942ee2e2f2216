"""Checks calls against annotations while the tests run; an int is good where a float is asked for, as in PEP 484.

jaxtyping compares what a call was given before it and, with what it returned, after it. Only the second is done here: a
function may refuse what does not fit by an error of its own, which the tests of mistakes look for, but not compute with it.
"""

from collections.abc import Callable

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(stand_in: Callable) -> Callable:
    """What jaxtyping calls with a stand-in of a function: the one before the call takes all."""
    code = stand_in.__code__
    by_keyword = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    return check(stand_in) if any(name.startswith("ret") for name in by_keyword) else lambda *_, **__: None
