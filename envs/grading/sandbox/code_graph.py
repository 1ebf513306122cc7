"""Exchange Python values, with shapes and identities, between two processes that do not trust each other.

A message is {"nodes": [...], "roots": [...]}. A value that is not a number, a string, a bool or None is a node, and [3]
refers to node 3. So a list can contain itself, a linked list can be long, and one list in two places remains one list.
A message is data: no code of the other process runs, and a class is looked up by its name among those that the reader
knows.

If a reply contains an argument of the call, its node says which one it was ("was"), so that the reader can change its
own object in place. This file is used in the sandbox, so it imports only the standard library.
"""

import datetime
import re
import sys
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

Node = list[Any]

_PLAIN = (bool, int, float, str)
_SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque}
_MAPPINGS = {"OrderedDict": OrderedDict, "Counter": Counter, "defaultdict": defaultdict, "dict": dict}
_MUTABLE = {"list", "set", "deque", "bytearray", "object", "ndarray", *_MAPPINGS}
_TIMES = {
    kind: getattr(datetime, kind) for kind in ("datetime", "date", "time", "timedelta")
}  # a datetime is also a date, so it must come first
_ARRAY_KINDS = "biufcU"
_IDENTIFIER = re.compile(r"[^\W\d]\w*\Z")


class Writer:
    """Turns values into a message.

    Args:
        first: writes a value as a special kind of node, before anything else is tried, or returns None.
        last: writes a value that is not data as a node, or raises TypeError.
        was: by the id of an object of this side, the node in the other side's last message from which it was made.
    """

    def __init__(
        self, first: Callable[[Any], Node | None], last: Callable[[Any], Node], was: dict[int, int] | None = None
    ):
        self._first, self._last = first, last
        self._was = was or {}
        self._numbers: dict[int, int] = {}
        self._waiting: list[tuple[int, Any]] = []
        self.written: list[Any] = []  # by node; this keeps the objects alive, as an id is valid only for that long

    def message(self, values: list[Any]) -> dict[str, Any]:
        """Return the message for these values."""
        roots = [self._ref(value) for value in values]
        nodes: list[Node] = []
        while len(nodes) < len(self.written):
            value = self.written[len(nodes)]
            node = self._node(value)
            if id(value) in self._was:
                node = ["was", self._was[id(value)], node]
            nodes.append(node)
        return {"nodes": nodes, "roots": roots}

    def _ref(self, value: Any) -> Any:
        """Write a subclass of a number or a string as its base type, without calling its methods."""
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int) and not _is_numpy(value):
            return int.__index__(value)
        if isinstance(value, float) and not _is_numpy(value):
            return float.__float__(value)
        if isinstance(value, str) and not _is_numpy(value):
            return str.__str__(value)
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self.written)
            self.written.append(value)
        return [number]

    def _refs(self, values: Any) -> list[Any]:
        return [self._ref(value) for value in values]

    def _node(self, value: Any) -> Node:
        special = self._first(value)
        if special is not None:
            return [self._part(part) for part in special]
        if isinstance(value, tuple) and isinstance(getattr(type(value), "_fields", None), tuple):
            return ["namedtuple", type(value).__name__, list(type(value)._fields), self._refs(tuple.__iter__(value))]
        for kind, sequence in _SEQUENCES.items():
            if isinstance(value, sequence):
                return [kind, self._refs(sequence.__iter__(value))]
        for kind, mapping in _MAPPINGS.items():
            if isinstance(value, mapping):
                return [kind, [[self._ref(key), self._ref(item)] for key, item in dict.items(value)]]
        if _is_numpy(value) and value.dtype.kind in _ARRAY_KINDS:
            return self._array_node(value)
        return _scalar_node(value) or self._last(value)

    def _array_node(self, value: Any) -> Node:
        kind = "ndarray" if isinstance(value, sys.modules["numpy"].ndarray) else "numpy"
        flat = value.ravel().tolist() if kind == "ndarray" else [value.item()]
        return [kind, value.dtype.str, list(value.shape), self._refs(flat)]

    def _part(self, part: Any) -> Any:
        return {name: self._ref(item) for name, item in part.items()} if isinstance(part, dict) else part


def refuse(value: Any) -> Node:
    """A `last` for data only."""
    raise TypeError(f"{type(value).__name__} is not plain data")


class Reader:
    """Turns a message back into values.

    Args:
        make: reads the nodes that the writer's `first` and `last` wrote; an "object" is filled afterwards.
        mine: the objects from which the nodes of this side's last message were written.

    Raises, in `values`: ValueError, TypeError, LookupError, AttributeError, OverflowError, ArithmeticError or
        RecursionError for a message that no writer writes.
    """

    def __init__(self, make: Callable[[Node], Any], mine: list[Any] | None = None):
        self._make = make
        self._mine = mine or []
        self._nodes: list[Node] = []
        self._made: dict[int, Any] = {}
        self._unfilled: list[tuple[Any, Node]] = []

    def values(self, message: dict[str, Any]) -> list[Any]:
        """Return the values in the message."""
        self._nodes = message["nodes"]
        values = [self._value(ref) for ref in message["roots"]]
        while self._unfilled:
            self._fill(*self._unfilled.pop())
        return values

    @property
    def origins(self) -> dict[int, int]:
        """The nodes of mutable objects, by the id of the object."""
        return {id(value): number for number, value in self._made.items() if _kind(self._nodes[number]) in _MUTABLE}

    def _value(self, ref: Any) -> Any:
        if not isinstance(ref, list):
            if ref is not None and not isinstance(ref, _PLAIN):
                raise ValueError("neither a value nor a node")
            return ref
        (number,) = ref
        if number not in self._made:
            node = self._nodes[number]
            self._made[number] = None  # a tuple that contains itself; Python cannot make one
            self._made[number] = self._new(node)
        return self._made[number]

    def _values(self, refs: list[Any]) -> list[Any]:
        return [self._value(ref) for ref in refs]

    def _new(self, node: Node) -> Any:
        original = None
        if node[0] == "was":
            original, node = self._mine[node[1]], node[2]
        kind = node[0]
        if kind in _MUTABLE and kind != "ndarray":
            value = original if original is not None else self._empty(node)
            if _same_kind(value, kind):
                self._unfilled.append((value, node))
                return value
            raise ValueError(f"{type(value).__name__} cannot become a {kind}")
        if kind in ("tuple", "frozenset"):
            return _SEQUENCES[kind](self._values(node[1]))
        if kind == "namedtuple":
            return _named_tuple(*node[1:3])(*self._values(node[3]))
        if kind in ("ndarray", "numpy"):
            array = _array(node[1], node[2], self._values(node[3]))
            if kind == "numpy":
                return array[()]
            if _is_numpy(original) and original.shape == array.shape:
                original[...] = array
                return original
            return array
        return _SCALARS[kind](*node[1:]) if kind in _SCALARS else self._make(node)

    def _empty(self, node: Node) -> Any:
        if node[0] == "object":
            return self._make(node)
        if node[0] == "bytearray":
            return bytearray()
        return _SEQUENCES[node[0]]() if node[0] in _SEQUENCES else _MAPPINGS[node[0]]()

    def _fill(self, value: Any, node: Node) -> None:
        kind = node[0]
        if kind == "object":
            attributes = {name: self._value(ref) for name, ref in node[2].items()}
            vars(value).clear()
            vars(value).update(attributes)
        elif kind == "list":
            value[:] = self._values(node[1])
        elif kind == "bytearray":
            value[:] = node[1].encode("latin-1")
        elif kind in _MAPPINGS:
            items = [(self._value(key), self._value(item)) for key, item in node[1]]
            value.clear()
            for key, item in items:
                value[key] = item
        else:
            items = self._values(node[1])
            value.clear()
            for item in items:
                (value.append if kind == "deque" else value.add)(item)


def _kind(node: Node) -> str:
    return node[2][0] if node[0] == "was" else node[0]


def _same_kind(value: Any, kind: str) -> bool:
    if kind == "object":
        return hasattr(value, "__dict__")
    return isinstance(value, bytearray if kind == "bytearray" else (_SEQUENCES | _MAPPINGS)[kind])


def _is_numpy(value: Any) -> bool:
    return type(value).__module__ == "numpy" and hasattr(value, "dtype")


def _scalar_node(value: Any) -> Node | None:
    if isinstance(value, complex) and not _is_numpy(value):
        return ["complex", value.real, value.imag]
    if isinstance(value, bytes | bytearray):
        return ["bytes" if isinstance(value, bytes) else "bytearray", bytes(value).decode("latin-1")]
    if isinstance(value, Decimal):
        return ["Decimal", Decimal.__str__(value)]
    if isinstance(value, Fraction):
        return ["Fraction", value.numerator, value.denominator]
    if isinstance(value, range):
        return ["range", value.start, value.stop, value.step]
    if value is Ellipsis or value is NotImplemented:
        return ["constant", repr(value)]
    for kind, time in _TIMES.items():
        if type(value) is time and getattr(value, "tzinfo", None) in (None, datetime.UTC):
            return [kind, *_time_parts(value)]
    return None


def _time_parts(value: Any) -> list[int]:
    if isinstance(value, datetime.timedelta):
        return [value.days, value.seconds, value.microseconds]
    if isinstance(value, datetime.time):
        return [value.hour, value.minute, value.second, value.microsecond, value.tzinfo is not None]
    parts = [value.year, value.month, value.day]
    if isinstance(value, datetime.datetime):
        parts += [value.hour, value.minute, value.second, value.microsecond, value.tzinfo is not None]
    return parts


def _clock(kind: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *parts: kind(*parts[:-1], tzinfo=datetime.UTC if parts[-1] else None)


def _named_tuple(name: str, fields: list[str]) -> type:
    if not all(map(_IDENTIFIER.match, [name, *fields])):
        raise ValueError("a named tuple with strange names")
    return namedtuple(name, fields, rename=True)


def _array(dtype: str, shape: list[int], items: list[Any]) -> Any:
    import numpy  # if the tests have not imported NumPy, its arrays cannot be made

    if numpy.dtype(dtype).kind not in _ARRAY_KINDS:
        raise ValueError("an array of objects")
    return numpy.array(items, dtype=dtype).reshape(shape)


_SCALARS: dict[str, Callable[..., Any]] = {
    "complex": complex,
    "bytes": lambda text: text.encode("latin-1"),
    "Decimal": Decimal,
    "Fraction": Fraction,
    "range": range,
    "constant": lambda name: {"Ellipsis": ..., "NotImplemented": NotImplemented}[name],
    "date": datetime.date,
    "timedelta": datetime.timedelta,
    "time": _clock(datetime.time),
    "datetime": _clock(datetime.datetime),
}
