"""Reading pickles without running code: plain values, and placeholders for other objects."""

from __future__ import annotations

import pickletools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

from unshaken.base.safe_text import printable

MOST_STEPS = 5_000_000
"""The most instructions that are read. The largest list in a published file has 1.3 million entries."""
SCALARS = (str, bytes, int, float, bool, type(None))


class Named(NamedTuple):
    """The name of a class or function in a pickle. It is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Skipped:
    """A placeholder for an object that is not built here: what the pickle says about it, with nothing called.

    name       the name of the class or function
    arguments  the arguments of the call
    state      the state that the object would be given
    entries    the items that the object would have as a dictionary
    """

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    entries: dict[Any, Any] = field(default_factory=dict)


class Unfinished(ABC):
    """An object that a pickle makes in two steps. `finish` takes the state, which is the second step."""

    value: Any = None

    @abstractmethod
    def finish(self, state: Any) -> Any: ...


Builder = Callable[..., Any]


class Reader:
    """An interpreter of the instructions of one pickle, which calls only the given builders.

    builders    the function to call for a class or function, by (module, name)
    harmless    returns True for a name without a builder that may appear as a value (the type of a storage, say)
    persistent  returns the object for a persistent id, which refers to data outside the pickle
    strict      raise an error for a name without a builder and for arguments that a builder refuses; else: Skipped
    skipped     the names without a builder, in the order in which they were read
    """

    def __init__(
        self,
        builders: Mapping[tuple[str, str], Builder],
        harmless: Callable[[Named], bool] = lambda name: False,
        persistent: Callable[[Any], Any] | None = None,
        strict: bool = False,
    ) -> None:
        self.builders, self.harmless, self.persistent, self.strict = builders, harmless, persistent, strict
        self.skipped: dict[str, None] = {}

    def read(self, stream: IO[bytes]) -> Any:
        """Return the value. ValueError if the stream is not a pickle, is cut short, or needs what is not read here."""
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        try:
            for steps, (code, argument, _) in enumerate(pickletools.genops(stream)):
                if steps > MOST_STEPS:
                    raise ValueError(f"it has more than {MOST_STEPS:,} instructions")
                if code.name == "STOP":
                    return self.stack.pop()
                self._step(code.name, argument)
        except (IndexError, KeyError, TypeError, AttributeError, OverflowError, UnicodeError, RecursionError) as error:
            raise ValueError(f"it is not a valid pickle ({type(error).__name__})") from None
        raise ValueError("it is cut short")

    def _step(self, name: str, argument: Any) -> None:
        if name in _PUSHED:
            self.stack.append(argument)
        elif (step := _STEPS.get(name)) is not None:
            step(self, argument)
        elif name not in _IGNORED:
            raise ValueError(f"it has the instruction {name}, which a file of numbers does not need")

    def items(self) -> list[Any]:
        """Return the values that were pushed since the last mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def get(self, index: int) -> None:
        value = self.memo[int(index)]
        done = isinstance(value, Unfinished) and value.value is not None
        self.stack.append(value.value if done else value)

    def put(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else int(index)] = self.stack[-1]

    def named(self, module: Any, name: Any) -> Named:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("it names a class by something other than text")
        found = Named(module, name)
        if found not in self.builders and not self.harmless(found):
            if self.strict:
                raise ValueError(f"{printable(found)} is refused: only numbers, text and NumPy arrays are read")
            self.skipped[printable(found)] = None
        return found

    def call(self, what: Any, arguments: Any) -> Any:
        """Call the builder of a name, or return Skipped if it has none."""
        name = printable(what) if isinstance(what, Named) else type(what).__name__
        given = arguments if isinstance(arguments, tuple) else ()
        builder = self.builders.get(what) if isinstance(what, Named) else None
        if builder is None or given is not arguments:
            if self.strict:
                raise ValueError(f"{name} is refused: it has no builder here")
            return Skipped(name, given)
        try:
            return builder(*given)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RuntimeError) as error:
            return self._refused(name, given, error)

    def _refused(self, name: str, given: tuple[Any, ...], error: Exception) -> Skipped:
        if self.strict:
            raise ValueError(f"{name} cannot be built from its arguments ({error})") from None
        return Skipped(name, given)

    def build(self, _: Any) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, Unfinished):
            try:
                made.value = made.finish(state)
            except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
                made.value = self._refused(type(made).__name__, (), error)
            self.stack[-1] = made.value
        elif isinstance(made, Skipped):
            made.state = state

    def set_items(self, pairs: list[Any]) -> None:
        made = self.stack[-1]
        entries = made.entries if isinstance(made, Skipped) else made
        if isinstance(entries, dict):
            entries.update(dict_of_items(pairs))

    def append(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)


def dict_of_items(values: list[Any]) -> dict[Any, Any]:
    """Make a dictionary from alternating keys and values. Keys other than plain values and flat tuples are left out.

    Keys are hashed, and a hostile file could make the hash of a nested tuple as slow, or as deep, as it likes.
    """
    return {key: value for key, value in zip(values[::2], values[1::2], strict=False) if _plain_key(key)}


def _plain_key(key: Any) -> bool:
    if type(key) is tuple:
        return len(key) <= 16 and all(isinstance(element, SCALARS) for element in key)
    return isinstance(key, (*SCALARS, Named, Skipped))


def _reduce(reader: Reader, _: Any) -> None:
    arguments, what = reader.stack.pop(), reader.stack.pop()
    reader.stack.append(reader.call(what, arguments))


def _new_with_keywords(reader: Reader, _: Any) -> None:
    reader.stack.pop()
    _reduce(reader, None)


def _object(reader: Reader, _: Any) -> None:
    what, *arguments = reader.items()
    made = reader.call(what, tuple(arguments))
    reader.stack.append(made)


def _instance(reader: Reader, argument: str) -> None:
    arguments = tuple(reader.items())
    reader.stack.append(reader.call(reader.named(*argument.split(" ", 1)), arguments))


def _stack_global(reader: Reader, _: Any) -> None:
    name, module = reader.stack.pop(), reader.stack.pop()
    reader.stack.append(reader.named(module, name))


def _persistent(reader: Reader, what: Any) -> None:
    if reader.persistent is None:
        raise ValueError("it refers to data outside the pickle")
    reader.stack.append(reader.persistent(what))


def _tuple_of(count: int) -> Callable[[Reader, Any], None]:
    def step(reader: Reader, _: Any) -> None:
        elements = [reader.stack.pop() for _ in range(count)]
        reader.stack.append(tuple(reversed(elements)))

    return step


def _pushing(make: Callable[[Reader, Any], Any]) -> Callable[[Reader, Any], None]:
    def step(reader: Reader, argument: Any) -> None:
        made = make(reader, argument)  # before `append`: `items` may put back the stack from before the mark
        reader.stack.append(made)

    return step


_PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_IGNORED = {"PROTO", "FRAME"}
_STEPS: dict[str, Callable[[Reader, Any], None]] = {  # pyright: ignore[reportAssignmentType]
    "NONE": _pushing(lambda r, _: None),
    "NEWTRUE": _pushing(lambda r, _: True),
    "NEWFALSE": _pushing(lambda r, _: False),
    "EMPTY_DICT": _pushing(lambda r, _: {}),
    "EMPTY_LIST": _pushing(lambda r, _: []),
    "EMPTY_TUPLE": _pushing(lambda r, _: ()),
    "EMPTY_SET": _pushing(lambda r, _: []),  # a list, because the members of a set would be hashed
    "MARK": Reader.mark,
    "POP": lambda r, _: r.stack.pop() if r.stack else r.items(),
    "POP_MARK": lambda r, _: r.items(),
    "DUP": _pushing(lambda r, _: r.stack[-1]),
    "TUPLE": _pushing(lambda r, _: tuple(r.items())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "LIST": _pushing(lambda r, _: r.items()),
    "FROZENSET": _pushing(lambda r, _: tuple(r.items())),
    "DICT": _pushing(lambda r, _: dict_of_items(r.items())),
    "APPEND": lambda r, _: r.append([r.stack.pop()]),
    "APPENDS": lambda r, _: r.append(r.items()),
    "ADDITEMS": lambda r, _: r.append(r.items()),
    "SETITEM": lambda r, _: r.set_items([r.stack.pop(), r.stack.pop()][::-1]),
    "SETITEMS": lambda r, _: r.set_items(r.items()),
    "GET": Reader.get,
    "BINGET": Reader.get,
    "LONG_BINGET": Reader.get,
    "PUT": Reader.put,
    "BINPUT": Reader.put,
    "LONG_BINPUT": Reader.put,
    "MEMOIZE": lambda r, _: r.put(None),
    "GLOBAL": _pushing(lambda r, argument: r.named(*argument.split(" ", 1))),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_with_keywords,
    "OBJ": _object,
    "INST": _instance,
    "BUILD": Reader.build,
    "PERSID": _persistent,
    "BINPERSID": lambda r, _: _persistent(r, r.stack.pop()),
}
