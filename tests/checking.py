"""Checks the shapes of calls while the tests run: every argument and result whose annotation names one.

jaxtyping compares what a call was given before it and, with what it returned, after it. Only the second is done here: a
function may refuse what does not fit by an error of its own, which the tests of mistakes look for, but not compute with
it. Of a dataclass it is the fields that have to fit, whatever they were made from. Classes are not compared, since
tests pass stand-ins for them; pyright does that (`make check`). UNSHAKEN_UNCHECKED=1 leaves all of it out.

Checks cost more than small networks do. So only functions and dataclasses that name a shape are wrapped, and of what a
test calls very often the first calls are compared, and then every so many.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import partial, wraps
from inspect import get_annotations, isclass, signature
from types import CodeType
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, config, install_import_hook, jaxtyped

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
FIRST, EVERY = 8, 64
calls: Counter[CodeType] = Counter()
"""How often each function was called in this test."""


def install() -> None:
    """Compare the shapes of whatever is imported from unshaken from now on."""
    jaxtyping.jaxtyped = sparing  # the import hook decorates by this name
    install_import_hook("unshaken", "checking.checked")


def sparing(given: Any = None, *, typechecker: Callable) -> Any:
    """Like jaxtyping's decorator, but only for what names a shape, and only for some of many calls."""
    again = partial(sparing, typechecker=typechecker)
    if given is None:
        return again
    if isinstance(given, classmethod | staticmethod):
        return type(given)(again(given.__func__))
    if isinstance(given, property):
        return property(*(part and again(part) for part in (given.fget, given.fset, given.fdel)))
    if not names_a_shape(given):
        return given
    decorate = partial(jaxtyped, typechecker=typechecker)
    if not isclass(given):
        return seldom(given, decorate)
    if is_dataclass(given) and "__init__" in vars(given):
        given.__init__ = seldom(given.__init__, decorate)
    return given


def names_a_shape(given: Any) -> bool:
    """Whether an annotation does, or may: what cannot be looked up yet."""
    try:
        hints = get_annotations(given, eval_str=True)
    except (NameError, AttributeError, TypeError):
        return True
    inherited = [f.type for f in fields(given)] if is_dataclass(given) else []
    return any(isinstance(hint, str) or has_shape(hint) for hint in (*hints.values(), *inherited))


def seldom(function: Callable, decorate: Callable) -> Callable:
    """The function, decorated when it is first compared: an inner one is made anew in every call of the outer."""
    code, decorated = function.__code__, None

    @wraps(function)
    def call(*args: object, **kwargs: object) -> object:
        nonlocal decorated
        if config.jaxtyping_disable:
            return function(*args, **kwargs)
        calls[code] += 1
        if calls[code] > FIRST and calls[code] % EVERY:
            return function(*args, **kwargs)
        decorated = decorated or decorate(function)
        return decorated(*args, **kwargs)

    return call


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
