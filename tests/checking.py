"""Checks the shapes of calls while the tests run: every argument and result whose annotation names one.

jaxtyping compares what a call was given before it and, with what it returned, after it. Only the second is done here: a
function may refuse what does not fit by an error of its own, which the tests of mistakes look for, but not compute with
it. Of a dataclass it is the fields that have to fit, whatever they were made from. Classes are not compared, since
tests pass stand-ins for them; pyright does that (`make check`). UNSHAKEN_UNCHECKED=1 leaves all of it out.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from inspect import signature
from typing import Any, get_args

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray

check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(stand_in: Callable) -> Callable:
    """What jaxtyping calls with a stand-in of a function: the one before the call takes all."""
    hints = {name: hint if has_shape(hint) else Any for name, hint in stand_in.__annotations__.items()}
    code = stand_in.__code__
    by_keyword = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    if set(hints.values()) <= {Any} or not any(name.startswith("ret") for name in by_keyword):
        return lambda *_, **__: None
    stand_in.__annotations__ = hints
    return held(check(stand_in)) if stand_in.__name__ == "__init__" else unless_traced(check(stand_in))


def has_shape(hint: Any) -> bool:
    """Whether a shape is named anywhere in an annotation, as in `list[Float[Tensor, "N D"]] | None`."""
    return (isinstance(hint, type) and issubclass(hint, AbstractArray)) or any(map(has_shape, get_args(hint)))


def unless_traced(compare: Callable) -> Callable:
    """What torch.fx traces, to fold batch norms, are calls with stand-ins of tensors that have no shape yet."""

    @wraps(compare)
    def of_tensors(*args: object, **kwargs: object) -> object:
        traced = any(type(given).__module__ == "torch.fx.proxy" for given in (*args, *kwargs.values()))
        return None if traced else compare(*args, **kwargs)

    return of_tensors


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
