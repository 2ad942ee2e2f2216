"""Checks calls against annotations while the tests run; an int is good where a float is asked for, as in PEP 484.

jaxtyping compares what a call was given before it and, with what it returned, after it. Only the second is done here: a
function may refuse what does not fit by an error of its own, which the tests of mistakes look for, but not compute with
it. Of a dataclass it is the fields that have to fit, whatever they were made from.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from inspect import signature

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(stand_in: Callable) -> Callable:
    """What jaxtyping calls with a stand-in of a function: the one before the call takes all."""
    code = stand_in.__code__
    by_keyword = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    if not any(name.startswith("ret") for name in by_keyword):
        return lambda *_, **__: None
    return held(check(stand_in)) if stand_in.__name__ == "__init__" else check(stand_in)


def held(init: Callable) -> Callable:
    """Compares the fields of a dataclass instead of what it was called with."""
    names = signature(init)

    @wraps(init)
    def compare(*args: object, **kwargs: object) -> object:
        self, given = args[0], names.bind(*args, **kwargs)
        if is_dataclass(self):
            given.arguments |= {f.name: getattr(self, f.name) for f in fields(self) if f.name in given.arguments}
        return init(*given.args, **given.kwargs)

    return compare
