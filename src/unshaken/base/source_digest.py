"""A digest of the code of a class: what its functions do, and what they use of the user's own."""

from __future__ import annotations

import functools
import inspect
import sys
import sysconfig
from dataclasses import is_dataclass
from hashlib import blake2b
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

PACKAGE = __name__.partition(".")[0]
SIMPLE = (int, float, complex, str, bytes, bool, type(None))
MADE = ("__init__", "__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__", "__replace__", "__lt__", "__le__")
MADE += ("__gt__", "__ge__", "__getstate__", "__setstate__")
"""Methods that @dataclass writes: they follow from the fields, which a recipe names itself."""
IGNORED = ("__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__firstlineno__", "__annotations__")
IGNORED += ("__static_attributes__", "__abstractmethods__", "_abc_impl", "__dataclass_fields__", "__dataclass_params__")
IGNORED += ("__match_args__", "__slots__", "__parameters__", "__orig_bases__", "__annotate__", "__annotate_func__")
IGNORED += ("__annotations_cache__", "__classdictcell__")


def code_of(kind: type) -> str:
    """8 hexadecimal digits of the code of a class outside this package; "" of one inside it, or without any code.

    The digest is of the compiled functions of the class and of its bases outside the package, and of the functions,
    classes and constants outside it that these name: comments and layout do not count, and what was edited does. It
    differs from one version of Python to another, as the compiled code does.
    """
    if not _outside(kind):
        return ""
    reader = _Reader(kind.__module__.partition(".")[0])
    reader.add_class(kind)
    return reader.total.hexdigest() if reader.functions else ""


def code_of_function(function: Any) -> str:
    """The same of any callable: a function, a bound method, a partial, or an object of a class with __call__."""
    reader = _Reader((getattr(function, "__module__", None) or type(function).__module__).partition(".")[0])
    reader.add(function, "")
    reader.add(type(function), "type")
    return reader.total.hexdigest()


def _outside(kind: type) -> bool:
    return kind.__module__ != "builtins" and kind.__module__.partition(".")[0] != PACKAGE


class _Reader:
    """What a class or function is made of, each part once."""

    def __init__(self, own: str) -> None:
        self.own, self.total, self.seen, self.functions = own, blake2b(digest_size=4), set[int](), 0

    def note(self, *parts: object) -> None:
        self.total.update(repr(parts).encode())

    def mine(self, module: str | None) -> bool:
        """Whether the code of a module is the user's: neither ours, nor Python's, nor of another installed package."""
        top = (module or "").partition(".")[0]
        if top in (PACKAGE, "builtins", "") or (top in sys.stdlib_module_names and top != "__main__"):
            return False
        file = getattr(sys.modules.get(top), "__file__", None) or ""
        installed = any(file.startswith(sysconfig.get_path(kind)) for kind in ("purelib", "platlib"))
        return top == self.own or not installed

    def add_class(self, kind: type) -> None:
        if id(kind) in self.seen:
            return
        self.seen.add(id(kind))
        for one in kind.__mro__:
            if not self.mine(one.__module__):
                continue
            self.note(one.__qualname__)
            made = MADE if is_dataclass(one) else ()
            for name, member in vars(one).items():
                if name not in IGNORED and name not in made:
                    self.add(member, name)

    def add(self, value: Any, name: str) -> None:
        """A member, a global or a constant; what is none of ours to read counts by its kind alone."""
        if isinstance(value, (staticmethod, classmethod, MethodType)):
            value = value.__func__
        if isinstance(value, functools.cached_property):
            value = value.func
        if isinstance(value, property):
            for one in (value.fget, value.fset):
                self.add(one, name)
        elif isinstance(value, functools.partial):
            self.add(value.func, name)
            self.add((value.args, value.keywords), name)
        elif isinstance(value, type):
            self.note(name, value.__qualname__)
            if self.mine(value.__module__):
                self.add_class(value)
        elif isinstance(inspect.unwrap(value) if callable(value) else None, FunctionType):
            self.add_function(inspect.unwrap(value), name)
        elif isinstance(value, (SIMPLE, BuiltinFunctionType)):
            self.note(name, repr(value) if isinstance(value, SIMPLE) else value.__qualname__)
        elif isinstance(value, (tuple, list)):
            for one in value:
                self.add(one, name)
        elif isinstance(value, dict):
            for key, one in value.items():
                self.add(one, f"{name} {key!r}")
        else:
            self.note(name, type(value).__qualname__)

    def add_function(self, function: FunctionType, name: str) -> None:
        self.note(name, function.__name__)
        if id(function) in self.seen or not self.mine(function.__module__):
            return
        self.seen.add(id(function))
        self.functions += 1
        named = self.add_code(function.__code__, function.__doc__)
        self.add((function.__defaults__, function.__kwdefaults__), name)
        for cell in function.__closure__ or ():
            self.add(_content(cell), "closure")
        for word in sorted(named):
            value = function.__globals__.get(word)
            if isinstance(value, ModuleType):
                for inner in sorted(named) if self.mine(value.__name__) else ():
                    if inner in vars(value):
                        self.add(vars(value)[inner], inner)
            elif word in function.__globals__:
                self.add(value, word)

    def add_code(self, code: CodeType, doc: str | None = None) -> set[str]:
        """The names that it uses."""
        named = {*code.co_names}
        self.note(code.co_code, code.co_names, code.co_varnames, code.co_freevars)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                named |= self.add_code(constant)
            elif constant != doc or doc is None:
                self.note(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)
        return named


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty yet
        return None
