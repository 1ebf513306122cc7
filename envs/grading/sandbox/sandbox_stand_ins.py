"""In the sandbox: stand-ins in the test program for objects that are in the process of the program under test.

A program can give any answer to a request, so a stand-in requests as little as possible. It never lets the program
compare: `==` with a value is false, and `in` compares in this process. The comparing methods of Python's own values
(`startswith`, `issubset`, `count`) are not sent to the program, and neither is a difference from a value. Names that
begin with two underscores are not attributes, because libraries look for them and trust their values.

Only objects of a class that the tests import from the program (`from solution import Stack`) support what their class
defines: arithmetic and comparison with each other, `in`, and any method.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

from code_graph import Node, Reader, Writer
from sandbox_calls import (
    UNREADABLE,
    Message,
    Peer,
    instance_node,
    next_item,
    raised,
    standard_exception,
    standard_name,
)
from sandbox_given import NODES

_QUESTIONS_ABOUT_TEXTS = {name for kind in (str, float) for name in dir(kind) if name.startswith("is")}
_QUESTIONS_ABOUT_TEXTS |= {"startswith", "endswith"}
_QUESTIONS = _QUESTIONS_ABOUT_TEXTS | {"issubset", "issuperset", "isdisjoint", "equals"}
_QUESTIONS |= {"count", "index", "find", "rfind", "rindex"}
_Asks = Callable[..., Any]


class RemoteError(Exception):
    """The program under test raised an exception unknown here, or returned an object that is not a value."""


class Remote:
    """An object that is in the other process."""

    _stand_ins: "StandIns"
    _number: int
    _not_asked = _QUESTIONS

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._stand_ins.ask("call", self._number, list(args), kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in self._not_asked:
            raise AttributeError(f"{name!r} is not available on objects of the program under test")
        return self._stand_ins.ask("attribute", self._number, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("_stand_ins", "_number"):
            object.__setattr__(self, name, value)
        else:
            self._stand_ins.ask("set_attribute", self._number, name, value)

    def __iter__(self) -> Iterator[Any]:
        iterator = self._operate("iter")
        return iter(iterator) if isinstance(iterator, list | tuple) else iterator

    def __contains__(self, value: Any) -> bool:
        return any(item is value or item == value for item in self)

    def __enter__(self) -> Any:
        return self._stand_ins.ask("enter", self._number)

    def __exit__(self, *exception: object) -> bool:
        self._stand_ins.ask("leave", self._number)
        return False

    def _operate(self, name: str, *operands: Any) -> Any:
        return self._stand_ins.ask("operation", name, [self, *operands])


class Instance(Remote):
    """An object of a class that the tests import from the program."""

    _not_asked = _QUESTIONS_ABOUT_TEXTS

    def __contains__(self, value: Any) -> bool:
        return self._result("contains", bool, value)

    def __eq__(self, other: Any) -> bool:
        return self._result("eq", bool, other) if isinstance(other, Instance) else self is other

    def __hash__(self) -> int:
        return self._result("hash", int)

    def _result(self, name: str, kind: type, *operands: Any) -> Any:
        return _of_type(kind, name, self._operate(name, *operands))


def _of_type(kind: type, name: str, value: Any) -> Any:
    if type(value) is not kind:
        raise RemoteError(f"{name} gave a {type(value).__name__}, not a {kind.__name__}")
    return value


def _typed(name: str, kind: type) -> _Asks:
    return lambda self, *operands: _of_type(kind, name, self._operate(name, *operands))


def _untyped(name: str) -> _Asks:
    return lambda self, *operands: self._operate(name, *operands)


def _among_instances(name: str) -> _Asks:
    def ask(self: Instance, other: Any) -> Any:
        return self._operate(name, other) if isinstance(other, Instance) else NotImplemented

    return ask


def _reflected(name: str) -> _Asks:
    return lambda self, other: self._stand_ins.ask("operation", name, [other, self])


# These give values that are compared here: sizes, strings and numbers of the object, items, and results of arithmetic.
for _name, _kind in {
    "len": int,
    "bool": bool,
    "str": str,
    "repr": str,
    "int": int,
    "float": float,
    "index": int,
}.items():
    setattr(Remote, f"__{_name}__", _typed(_name, _kind))
for _name in ("getitem", "setitem", "delitem", "reversed", "round", "neg", "pos", "abs", "invert"):
    setattr(Remote if _name in ("getitem", "reversed", "round") else Instance, f"__{_name}__", _untyped(_name))
for _name in ("lt", "le", "gt", "ge", "sub", "and_", "or_", "xor"):
    setattr(Instance, f"__{_name.rstrip('_')}__", _among_instances(_name))
for _name in ("add", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "lshift", "rshift"):
    setattr(Instance, f"__{_name}__", _untyped(_name))
    setattr(Instance, f"__r{_name}__", _reflected(_name))


class _Class(type):
    """A class of the program: a call makes an object in the program's process."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._stand_ins.ask("new", cls._class_number, list(args), kwargs)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return cls._stand_ins.ask("attribute", cls._class_number, name)

    def __iter__(cls) -> Iterator[Any]:  # the class is an enumeration
        return iter(cls._stand_ins.ask("operation", "iter", [cls]))

    def __len__(cls) -> int:
        return _of_type(int, "len", cls._stand_ins.ask("operation", "len", [cls]))

    def __getitem__(cls, key: Any) -> Any:
        return cls._stand_ins.ask("operation", "getitem", [cls, key])

    def __bool__(cls) -> bool:
        return True


class StandIns:
    """The end of the test program: requests names, attributes and calls.

    Args:
        max_bytes: the limit of one message.
        names: the namespace in which the tests define their classes.
        own_classes: the names of the classes that the tests import from the program.
    """

    def __init__(self, max_bytes: int, names: dict[str, Any], own_classes: set[str]):
        self._peer = Peer(max_bytes, self._handle)
        self._names = names
        self._own_classes = own_classes
        self._exceptions: dict[str, type[BaseException]] = {}
        self._made: dict[tuple[int, str], Any] = {}
        self._functions: list[Any] = []
        self.num_calls = 0

    def ask(self, request: str, *details: Any) -> Any:
        """Send a request to the other process; return the value, or raise the exception that it raised."""
        self.num_calls += request in ("call", "new")
        writer = Writer(self._special, self._refuse)
        reply = self._peer.ask({"do": request} | writer.message(list(details)))
        try:
            values = Reader(self._make, writer.written).values(reply)
            error = self._exception(reply["error"], *values) if "error" in reply else None
        except UNREADABLE as problem:
            raise RemoteError(f"no value: {problem!r}") from None
        if error is not None:
            raise error
        return values[0]

    def _handle(self, request: Message) -> Message:
        """Call a function that the tests have passed to the program."""
        try:
            reader = Reader(self._make)
            number, args, kwargs = reader.values(request)
            value = self._functions[number](*args, **kwargs)
            return Writer(self._special, self._refuse, reader.origins).message([value, number, args, kwargs])
        except Exception as error:
            return raised(error)

    def _exception(self, types: list[Any], args: list[Any], attributes: dict[str, Any]) -> BaseException:
        own = next((self._exceptions[name] for _, name in types if name in self._exceptions), None)
        kind = own or standard_exception(types)
        if kind is None:
            return RemoteError(f"{types[0][1]}{tuple(args)}")
        error = kind.__new__(kind, *args)
        error.args = tuple(args)
        if isinstance(error, SystemExit):
            error.code = args[0] if args else None
        for name, value in attributes.items():
            if not name.startswith("_"):
                vars(error)[name] = value
        return error

    def _special(self, value: Any) -> Node | None:
        if isinstance(value, Remote):
            return ["remote", value._number]
        if isinstance(value, _Class):
            return ["remote", value._class_number]
        if isinstance(value, type) or callable(value):
            return standard_name(value) or self._function(value)
        return instance_node(value, self._names)

    def _function(self, value: Any) -> Node:
        self._functions.append(value)
        return ["function", len(self._functions) - 1]

    def _refuse(self, value: Any) -> Node:
        if hasattr(value, "__next__"):  # an iterator can only be iterated
            return ["iterator", self._function(lambda: next_item(value))[1]]
        raise TypeError(f"{type(value).__name__} cannot be passed to the program under test")

    def _make(self, node: Node) -> Any:
        kind = node[0]
        if kind == "function":
            return self._functions[node[1]]
        if kind == "standard" and node[1] in sys.stdlib_module_names and node[1] in sys.modules:
            found = getattr(sys.modules[node[1]], node[2])
            if isinstance(found, type) and found.__module__ == "builtins":
                return found
        if kind == "object":
            found = self._names[node[1]]
            # Only of the tests' own classes and of nodes: an `approx` could be changed to be close to every number.
            if isinstance(found, type) and found.__module__ in (self._names["__name__"], NODES["ListNode"].__module__):
                return object.__new__(found)
        if kind == "remote":
            number, what, names, bases = node[1:]
            key = (number, what)
            if key not in self._made:
                self._made[key] = self._new(number, what, names, bases)
            return self._made[key]
        raise ValueError(f"unknown kind {kind!r}")

    def _new(self, number: int, what: str, names: list[str], bases: list[Any]) -> Any:
        if what == "iterator":
            return self._items(number)
        own = next((name for name in names if name in self._own_classes), None)
        if what == "class" and bases:
            self._exceptions[names[0]] = type(names[0], (standard_exception(bases) or Exception,), {})
            return self._exceptions[names[0]]
        if what == "class" and own == names[0]:
            return self._class(own, number)
        base = Remote if own is None or what == "class" else self._class(own, None)
        stand_in = object.__new__(base)
        stand_in._stand_ins, stand_in._number = self, number
        return stand_in

    def _class(self, name: str, number: int | None) -> type:
        made = self._made.get((-1, name))
        if made is None:
            made = self._made[-1, name] = _Class(name, (Instance,), {"_stand_ins": self, "_class_number": None})
        if number is not None:
            made._class_number = number
        return made

    def _items(self, number: int) -> Iterator[Any]:
        """Yield the items of an iterator of the program, one by one as the tests need them."""
        while found := self.ask("next", number):
            yield found[0]
