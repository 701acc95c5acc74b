"""Read the pickles in files of `torch.save` as data, by an interpreter that can call nothing but what it is given.

Python's own unpickler calls whatever a pickle names, and reserves the memory that it asks for. This one knows the few
instructions that dicts, lists, tuples, numbers, strings and tensors are written with, and refuses all others.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from torch import Tensor

MAX_DEPTH = 64
"""Containers within containers."""
MAX_INSTRUCTIONS = 2_000_000
"""Instructions of a pickle. A checkpoint of a thousand parameters and their optimiser has 100,000."""
MAX_VALUES = MAX_INSTRUCTIONS
"""Values in all, if containers that occur several times are counted each time."""
_SCALARS = (str, int, float, bool, bytes, type(None))
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = frozenset(
    "BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINSTRING SHORT_BINSTRING "
    "BINBYTES SHORT_BINBYTES".split()
)


class PickleError(Exception):
    """A pickle holds what data does not need, or contradicts itself."""


class Attributes:
    """An object of which only the attributes are read. Base class of the stand-ins for classes of others."""


@dataclass(frozen=True, slots=True)
class Name:
    """The full name of a function or class, which is not looked up."""

    full: str


def names_in(pickle: bytes | IO[bytes]) -> Iterator[str]:
    """Yield the full name of every function and class that a pickle refers to, without running it.

    Args:
        pickle: its bytes, or a file, which is read to the end of one pickle.
    """
    recent: list[str] = []
    memo: dict[int, str] = {}
    for name, argument in _instructions(pickle):
        if name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif name == "STACK_GLOBAL":
            yield ".".join(recent[-2:])
        elif name == "MEMOIZE":
            memo[len(memo)] = recent[-1] if recent else ""
        elif isinstance(argument, int) and "PUT" in name:
            memo[argument] = recent[-1] if recent else ""
        elif isinstance(argument, int) and "GET" in name:
            recent.append(memo.get(argument, ""))
        elif isinstance(argument, str):
            recent.append(argument)


def read(
    pickle: bytes | IO[bytes], calls: Mapping[str, Callable[..., Any]], resolve: Callable[[tuple[Any, ...]], Any]
) -> Any:
    """Return the object that a pickle holds.

    Args:
        pickle: its bytes, or a file, which is read to the end of one pickle.
        calls: what stands in for the functions and classes that it may name, by full name.
        resolve: returns what a persistent id stands for. Names in it are of type `Name`.
    Raises:
        PickleError: it has other instructions, calls anything else, or nests more than MAX_DEPTH.
        ValueError, and whatever `calls` and `resolve` raise: it is damaged.
    """
    machine = _Machine(calls, resolve)
    for name, argument in _instructions(pickle):
        machine.step(name, argument)
    value = machine.result()
    _count(value, 0, {})
    return value


def _instructions(pickle: bytes | IO[bytes]) -> Iterator[tuple[str, Any]]:
    """Yield the name and the argument of each instruction. Raises PickleError where there are too many."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(pickle)):
        if count == MAX_INSTRUCTIONS:
            raise PickleError(f"it has more than {MAX_INSTRUCTIONS:,} values")
        yield opcode.name, argument


class _Machine:
    """The stack and the memo of a pickle that is being read."""

    def __init__(self, calls: Mapping[str, Callable[..., Any]], resolve: Callable[[tuple[Any, ...]], Any]) -> None:
        self.stack: list[Any] = []
        """Values since the last mark."""
        self._before_marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._calls, self._resolve = calls, resolve

    def step(self, name: str, argument: Any) -> None:
        """Execute an instruction."""
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self._memo[argument])
        elif method := _METHODS.get(name):
            method(self, argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise PickleError(f"it has the instruction {name}, which data is not written with")

    def result(self) -> Any:
        """Return the only value that is left."""
        if self._before_marks or len(self.stack) != 1:
            raise PickleError("it does not end with one value")
        return self.stack[0]

    def _pop_to_mark(self) -> list[Any]:
        values, self.stack = self.stack, self._before_marks.pop()
        return values

    def _mark(self, _: Any) -> None:
        self._before_marks.append(self.stack)
        self.stack = []

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    def _empty_list(self, _: Any) -> None:
        self.stack.append([])

    def _empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def _tuple(self, _: Any) -> None:
        values = tuple(self._pop_to_mark())
        self.stack.append(values)

    def _tuple_of(self, count: int) -> None:
        values = tuple(self.stack.pop() for _ in range(count))
        self.stack.append(values[::-1])

    def _append(self, _: Any) -> None:
        value = self.stack.pop()
        _expect(self.stack[-1], list).append(value)

    def _appends(self, _: Any) -> None:
        values = self._pop_to_mark()
        _expect(self.stack[-1], list).extend(values)

    def _set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _expect(self.stack[-1], dict)[_expect(key, *_SCALARS)] = value

    def _set_items(self, _: Any) -> None:
        values = self._pop_to_mark()
        target = _expect(self.stack[-1], dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[_expect(key, *_SCALARS)] = value

    def _global(self, argument: str) -> None:
        self.stack.append(Name(argument.replace(" ", ".")))

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(Name(f"{_expect(module, str)}.{_expect(name, str)}"))

    def _call(self, _: Any) -> None:
        arguments, name = _expect(self.stack.pop(), tuple), _expect(self.stack.pop(), Name)
        if name.full not in self._calls:
            raise PickleError(f"it would call {name.full}")
        self.stack.append(self._calls[name.full](*arguments))

    def _build(self, _: Any) -> None:
        """Set the attributes of a stand-in; those of a dict, such as `_metadata` of weights, are dropped."""
        state = self.stack.pop()
        target = _expect(self.stack[-1], Attributes, dict)
        if isinstance(target, Attributes):
            target.__dict__.update(_expect(state, dict))

    def _resolve_id(self, _: Any) -> None:
        self.stack.append(self._resolve(_expect(self.stack.pop(), tuple)))


_METHODS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine._mark,
    "MEMOIZE": _Machine._memoize,
    "EMPTY_LIST": _Machine._empty_list,
    "EMPTY_DICT": _Machine._empty_dict,
    "TUPLE": _Machine._tuple,
    "TUPLE1": lambda machine, _: machine._tuple_of(1),
    "TUPLE2": lambda machine, _: machine._tuple_of(2),
    "TUPLE3": lambda machine, _: machine._tuple_of(3),
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._call,
    "NEWOBJ": _Machine._call,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._resolve_id,
}


def _expect(value: Any, *types: type) -> Any:
    """Return a value if it is of one of some types. Raises PickleError."""
    if not isinstance(value, types):
        raise PickleError(f"it has a {type(value).__name__} where it needs a {types[0].__name__}")
    return value


def _count(value: Any, depth: int, counts: dict[int, int]) -> int:
    """Count the values in a value.

    Args:
        counts: by id of the containers that are counted; 0 for one that is being counted.
    Raises:
        PickleError: it holds anything but data, itself, or too much.
    """
    if isinstance(value, (*_SCALARS, Tensor)):
        return 1
    if id(value) not in counts:
        counts[id(value)] = 0
        members = _expect(value, dict, list, tuple, Attributes)
        if isinstance(members, Attributes):
            members = vars(members)
        members = members.values() if isinstance(members, dict) else members
        if depth == MAX_DEPTH:
            raise PickleError(f"it nests more than {MAX_DEPTH} containers")
        counts[id(value)] = 1 + sum(_count(member, depth + 1, counts) for member in members)
    if not 0 < counts[id(value)] <= MAX_VALUES:
        raise PickleError("it holds itself, or the same again and again")
    return counts[id(value)]
