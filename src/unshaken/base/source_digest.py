"""A digest of a class's source code, including the user's own code that it calls."""

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
GENERATED = ("__init__", "__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__", "__replace__", "__lt__")
GENERATED += ("__le__", "__gt__", "__ge__", "__getstate__", "__setstate__")
"""Methods that @dataclass generates from the fields; a recipe already records the fields."""
IGNORED = ("__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__firstlineno__", "__annotations__")
IGNORED += ("__static_attributes__", "__abstractmethods__", "_abc_impl", "__dataclass_fields__", "__dataclass_params__")
IGNORED += ("__match_args__", "__slots__", "__parameters__", "__orig_bases__", "__annotate__", "__annotate_func__")
IGNORED += ("__annotations_cache__", "__classdictcell__")


def code_of(kind: type) -> str:
    """Return 8 hexadecimal digits of the code of a class; "" if the class is in this package or has no code.

    The digest covers the compiled functions of the class and its bases, and the functions, classes and constants that
    these use, all outside this package. Comments and layout do not matter; an edit does. Compiled code differs between
    versions of Python, and so does the digest.
    """
    if not _outside(kind):
        return ""
    reader = _Reader(kind.__module__.partition(".")[0])
    reader.add_class(kind)
    return reader.total.hexdigest() if reader.functions else ""


def code_of_function(function: Any) -> str:
    """Return the same digest for a callable: a function, bound method, partial, or an object with __call__."""
    reader = _Reader((getattr(function, "__module__", None) or type(function).__module__).partition(".")[0])
    reader.add(function, "")
    reader.add(type(function), "type")
    return reader.total.hexdigest()


def _outside(kind: type) -> bool:
    return kind.__module__ != "builtins" and kind.__module__.partition(".")[0] != PACKAGE


class _Reader:
    """A walk over everything that a class or function uses; each class and function is visited once."""

    def __init__(self, own: str) -> None:
        self.own, self.total, self.visited, self.functions = own, blake2b(digest_size=4), set[int](), 0

    def note(self, *parts: object) -> None:
        self.total.update(repr(parts).encode())

    def is_users(self, module: str | None) -> bool:
        """Return whether the user wrote a module: not this package, not Python, not another installed package."""
        top = (module or "").partition(".")[0]
        if top in (PACKAGE, "builtins", "") or (top in sys.stdlib_module_names and top != "__main__"):
            return False
        file = getattr(sys.modules.get(top), "__file__", None) or ""
        installed = any(file.startswith(sysconfig.get_path(kind)) for kind in ("purelib", "platlib"))
        return top == self.own or not installed

    def add_class(self, kind: type) -> None:
        if id(kind) in self.visited:
            return
        self.visited.add(id(kind))
        for one in kind.__mro__:
            if not self.is_users(one.__module__):
                continue
            self.note(one.__qualname__)
            generated = GENERATED if is_dataclass(one) else ()
            for name, member in vars(one).items():
                if name not in IGNORED and name not in generated:
                    self.add(member, name)

    def add(self, value: Any, name: str) -> None:
        """Add a member, a global or a constant; of any other object only the class name."""
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
            if self.is_users(value.__module__):
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
        if id(function) in self.visited or not self.is_users(function.__module__):
            return
        self.visited.add(id(function))
        self.functions += 1
        named = self.add_code(function.__code__, function.__doc__)
        self.add((function.__defaults__, function.__kwdefaults__), name)
        for cell in function.__closure__ or ():
            self.add(_content(cell), "closure")
        for word in sorted(named):
            value = function.__globals__.get(word)
            if isinstance(value, ModuleType):
                for inner in sorted(named) if self.is_users(value.__name__) else ():
                    if inner in vars(value):
                        self.add(vars(value)[inner], inner)
            elif word in function.__globals__:
                self.add(value, word)

    def add_code(self, code: CodeType, doc: str | None = None) -> set[str]:
        """Add compiled code, and return the names that it uses."""
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
    except ValueError:  # the variable has no value yet
        return None
