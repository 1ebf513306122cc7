"""In the sandbox: the process of the program under test, which executes the requests of the test program.

The test program runs in a separate process (`sandbox_check`), so that changes of the program to its interpreter
(builtins, exceptions, frames, exits) do not affect it. Values are sent as copies (`code_graph`). Other objects stay in
their process, and a number is sent for them. Lists and similar values that a function has changed are sent back with
its result. Both sides can send requests: a function that the tests pass as an argument stays in the process of the
tests, and is called from here.
"""

import builtins
import json
import operator
import os
import struct
import sys
from collections.abc import Callable
from typing import Any

from code_graph import Node, Reader, Writer, refuse
from sandbox_given import NODES
from sandbox_run import (
    IN_FD,
    LIBRARY,
    OUT_FD,
    defined_names,
    execute,
    find_function,
    new_module,
    open_standard_files,
)

Message = dict[str, Any]

UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
_OPERATORS = """
    add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift lt le gt ge eq neg pos abs invert
    getitem setitem delitem contains index
"""
OPERATIONS: dict[str, Callable[..., Any]] = {name: getattr(operator, name) for name in _OPERATORS.split()} | {
    kind.__name__: kind for kind in (len, bool, str, repr, int, float, iter, next, round, hash, reversed)
}

_LENGTH = struct.Struct(">I")


class Peer:
    """One end of two pipes with JSON messages of limited size. Either side sends requests, and the other answers.

    Args:
        max_bytes: the limit of one message.
        handle: answers the requests of the other side, while this side waits for an answer or has no other work.
    """

    def __init__(self, max_bytes: int, handle: Callable[[Message], Message]):
        self._in = os.fdopen(IN_FD, "rb")
        self._max_bytes = max_bytes
        self._handle = handle

    def ask(self, request: Message) -> Message:
        """Send a request to the other side, and return its answer."""
        self._send(request)
        while True:
            message = self._receive()
            if "do" not in message:
                return message
            self._send(self._handle(message))

    def serve(self) -> None:
        """Answer for ever."""
        while True:
            self._send(self._handle(self._receive()))

    def _send(self, message: Message) -> None:
        data = json.dumps(message).encode()
        unsent = memoryview(_LENGTH.pack(len(data)) + data)
        while unsent:
            unsent = unsent[os.write(OUT_FD, unsent) :]

    def _receive(self) -> Message:
        """Read a message; EOFError if the other side has ended or sends too much."""
        header = self._in.read(_LENGTH.size)
        if len(header) < _LENGTH.size or _LENGTH.unpack(header)[0] > self._max_bytes:
            raise EOFError("no message")
        message = json.loads(self._in.read(_LENGTH.unpack(header)[0]))
        if not isinstance(message, dict):
            raise EOFError("no message")
        return message


def raised(error: BaseException) -> Message:
    """The names of the classes, the most derived one first; arguments and attributes, if they are values."""
    types = [[kind.__module__, kind.__qualname__] for kind in type(error).__mro__ if kind is not object]
    parts: list[Any] = []
    for part in (list(error.args), {name: item for name, item in vars(error).items() if not name.startswith("_")}):
        try:
            _plain_message([part])
        except UNREADABLE:
            part = type(part)()
        parts.append(part)
    return {"error": types} | _plain_message(parts)


def _plain_message(values: list[Any]) -> Message:
    return Writer(lambda value: None, refuse).message(values)


def next_item(iterator: Any) -> list[Any]:
    """Return the next item in a list, which is empty at the end."""
    for item in iterator:
        return [item]
    return []


def standard_exception(types: list[Any]) -> type[BaseException] | None:
    """Return the first class, by module and name, that is in the standard library.

    Exceptions that end a loop are not used: a function that `map` calls must not end the loop of the tests. Those of
    unittest are not used, because one of them skips a test.
    """
    for module, name in types:
        if module.partition(".")[0] != "unittest" and module in sys.stdlib_module_names and module in sys.modules:
            kind = getattr(sys.modules[module], name, None)
            if isinstance(kind, type) and issubclass(kind, BaseException):
                return None if issubclass(kind, StopIteration | StopAsyncIteration | GeneratorExit) else kind
    return None


def instance_node(value: Any, classes: Any) -> Node | None:
    """Write the attributes of an object, whose class both sides know."""
    name = type(value).__name__
    if name not in classes or type(value).__module__ in sys.stdlib_module_names or not hasattr(value, "__dict__"):
        return None
    return ["object", name, dict(vars(value))]


def standard_name(value: Any) -> Node | None:
    """Write the name of a class or a function of the standard library."""
    name, module = getattr(value, "__qualname__", None), getattr(value, "__module__", None)
    if not isinstance(name, str) or not isinstance(module, str) or module not in sys.stdlib_module_names:
        return None
    found = getattr(sys.modules.get(module, builtins), name, None)
    return ["standard", module, name] if found is value else None


def serve_calls(prefix: str, program: str, max_bytes: int) -> None:
    """Run the program under test, then execute the requests of the test program until it ends."""
    open_standard_files()
    module = new_module(LIBRARY)
    execute(module, prefix, "")
    server = _Server(module, max_bytes)
    execute(module, "", program)
    server.peer.serve()


class _Kept:
    """An object of any type that stays in this process."""

    def __init__(self, value: Any):
        self.value = value


class _Callback:
    """A function of the test program."""

    def __init__(self, server: "_Server", number: int):
        self._server, self._number = server, number

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._server.call_back(self._number, args, kwargs)


class _Server:
    """Stores the objects for which the test program has stand-ins."""

    def __init__(self, module: Any, max_bytes: int):
        self._module = module
        self._before = dict(vars(module))
        prefixed = {name for name, value in self._before.items() if isinstance(value, type)}
        self._shared = {name for name in prefixed if self._before[name].__module__ == LIBRARY} | NODES.keys()
        self._kept: list[Any] = []
        self._numbers: dict[int, int] = {}
        self.peer = Peer(max_bytes, self._handle)

    def call_back(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        writer = Writer(self._special, self._keep)
        reply = self.peer.ask({"do": "call"} | writer.message([number, list(args), kwargs]))
        values = Reader(self._make, writer.written).values(reply)
        if "error" in reply:
            raise (standard_exception(reply["error"]) or RuntimeError)(*values[0])
        return values[0]

    def _received(self, number: int) -> Any:
        """Yield the items of an iterator in the test program."""
        while found := self.call_back(number, (), {}):
            yield found[0]

    def _handle(self, request: Message) -> Message:
        try:
            reader = Reader(self._make)
            details = reader.values(request)
            value = getattr(self, "_do_" + request["do"])(*details)
            # With the current values of the arguments.
            return Writer(self._special, self._keep, reader.origins).message([value, *details])
        except BaseException as error:
            return raised(error)

    def _do_name(self, name: str) -> Any:
        value = defined_names(self._module, self._before)[name]
        return _Kept(value) if callable(value) else value

    def _do_function(self, fn_name: str) -> Any:
        return _Kept(find_function(defined_names(self._module, self._before), fn_name))

    def _do_call(self, number: int, args: list[Any], kwargs: dict[str, Any]) -> Any:
        return self._kept[number](*args, **kwargs)

    def _do_new(self, number: int, args: list[Any], kwargs: dict[str, Any]) -> Any:
        value = self._kept[number](*args, **kwargs)
        return value if isinstance(value, tuple) else _Kept(value)

    def _do_attribute(self, number: int, name: str) -> Any:
        return getattr(self._kept[number], name)

    def _do_set_attribute(self, number: int, name: str, value: Any) -> None:
        setattr(self._kept[number], name, value)

    def _do_next(self, number: int) -> list[Any]:
        return next_item(self._kept[number])

    def _do_enter(self, number: int) -> Any:
        return self._kept[number].__enter__()

    def _do_leave(self, number: int) -> Any:
        return bool(self._kept[number].__exit__(None, None, None))

    def _do_operation(self, name: str, operands: list[Any]) -> Any:
        return OPERATIONS[name](*operands)

    def _make(self, node: Node) -> Any:
        kind = node[0]
        if kind == "remote":
            return self._kept[node[1]]
        if kind == "function":
            return _Callback(self, node[1])
        if kind == "iterator":
            return self._received(node[1])
        if kind == "standard":
            return getattr(sys.modules.get(node[1], builtins), node[2])
        if kind == "object":
            self._shared.add(node[1])
            found = vars(self._module).get(node[1], NODES.get(node[1]))
            return object.__new__(found if isinstance(found, type) else type(node[1], (), {}))
        raise ValueError(f"unknown kind {kind!r}")

    def _special(self, value: Any) -> Node | None:
        if isinstance(value, _Kept):
            return self._keep(value.value)
        if isinstance(value, _Callback):
            return ["function", value._number]
        if isinstance(value, type):
            return standard_name(value) or self._keep(value)
        if callable(value):
            return self._keep(value)
        return instance_node(value, self._shared)

    def _keep(self, value: Any) -> Node:
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._kept)
            self._kept.append(value)
        kinds = value.__mro__ if isinstance(value, type) else type(value).__mro__
        names = [kind.__name__ for kind in kinds if kind.__module__ == LIBRARY]
        if isinstance(value, type):
            bases = [[kind.__module__, kind.__qualname__] for kind in kinds] if issubclass(value, BaseException) else []
            return ["remote", number, "class", names, bases]
        return ["remote", number, "iterator" if hasattr(value, "__next__") else "object", names, []]
