"""Inside the sandbox: a test program and the program under test in two processes, with calls going between them.

The test program holds stand-ins (`Remote`) for what the other process defines. Arguments and results cross as plain
data, so that nothing the program under test does to its own interpreter (builtins, exceptions, frames, exits) can
reach the test program. Instances of classes that the prefix defines (ListNode, TreeNode) cross by their attributes,
both sides having the class; every other object stays where it is, behind another stand-in.
"""

import builtins
import json
import os
import struct
from collections.abc import Callable
from types import ModuleType
from typing import Any

from code_values import from_tree, to_tree
from sandbox_run import LIBRARY, RESULT_FD, execute, find_function, new_module, open_standard_files

IN_FD, OUT_FD, VERDICT_FD = RESULT_FD, RESULT_FD + 1, RESULT_FD + 2
ALL_HELD = b"all assertions held"

_LENGTH = struct.Struct(">I")


class Channel:
    """JSON messages of limited size over two pipes."""

    def __init__(self, in_fd: int, out_fd: int, max_bytes: int):
        self._in = os.fdopen(in_fd, "rb")
        self._out_fd = out_fd
        self._max_bytes = max_bytes

    def send(self, message: Any) -> None:
        """Write a message."""
        data = json.dumps(message).encode()
        unsent = _LENGTH.pack(len(data)) + data
        while unsent:
            unsent = unsent[os.write(self._out_fd, unsent) :]

    def receive(self) -> Any:
        """Read a message; EOFError when the other side is gone or sends too much."""
        header = self._in.read(_LENGTH.size)
        if len(header) < _LENGTH.size or _LENGTH.unpack(header)[0] > self._max_bytes:
            raise EOFError("no message")
        return json.loads(self._in.read(_LENGTH.unpack(header)[0]))


class RemoteError(Exception):
    """The program under test raised something, or what it returned is no value."""


class Remote:
    """Something that lives in the other process: a function, a class, an object."""

    def __init__(self, caller: "Caller", number: int):
        self._caller, self._number = caller, number

    def __call__(self, *args, **kwargs):
        return self._caller.ask("call", self._number, list(args), kwargs)

    def __getattr__(self, name: str):
        return self._caller.ask("attribute", self._number, name)


class Caller:
    """The test program's end: asks for names, attributes and calls."""

    def __init__(self, channel: Channel):
        self._channel = channel
        self.classes: dict[str, type] = {}
        self.num_calls = 0

    def ask(self, request: str, *details: Any) -> Any:
        """Have the other process do something, and return the value; RemoteError if that raised."""
        self.num_calls += request == "call"
        self._channel.send([request, to_tree(list(details), self._other)])
        reply = self._channel.receive()
        try:
            return from_tree(reply["value"], self._make)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise RemoteError(f"no value: {error!r}") from None

    def _other(self, value: Any) -> dict[str, Any]:
        return {"remote": value._number} if isinstance(value, Remote) else _instance(value, self.classes, self._other)

    def _make(self, kind: str, content: Any) -> Any:
        return Remote(self, content) if kind == "remote" else _made(kind, content, self.classes, self._make)


class Names(dict):
    """The test program's namespace: a name that it does not define belongs to the program under test."""

    def __init__(self, caller: Caller):
        super().__init__(__name__=LIBRARY)
        self._caller = caller

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name) or name.startswith("__"):
            raise KeyError(name)
        return self._caller.ask("name", name)


def run_check(prefix: str, check: str, fn_name: str | None, max_bytes: int) -> None:
    """Run the test program, and write ALL_HELD to VERDICT_FD if it passes and has called something at all."""
    open_standard_files()
    caller = Caller(Channel(IN_FD, OUT_FD, max_bytes))
    names = Names(caller)
    exec(compile(prefix, "prefix.py", "exec", dont_inherit=True), names)
    caller.classes = _classes(names)
    exec(compile(check, "check.py", "exec", dont_inherit=True), names)
    if "check" in names and fn_name:
        names["check"](caller.ask("function", fn_name))
    if caller.num_calls:
        os.write(VERDICT_FD, ALL_HELD)
    os._exit(0)


def serve_calls(prefix: str, program: str, max_bytes: int) -> None:
    """Run the program under test, then do what the test program asks for until it is gone."""
    open_standard_files()
    channel = Channel(IN_FD, OUT_FD, max_bytes)
    module = new_module(LIBRARY)
    execute(module, prefix, "")
    server = _Server(module, set(_classes(module.__dict__)))
    execute(module, "", program)
    while True:
        request, details = channel.receive()
        try:
            reply = {"value": server.answer(request, *from_tree(details, server.make))}
        except BaseException as error:
            reply = {"error": type(error).__name__}
        channel.send(reply)


class _Server:
    """The end of the program under test: keeps the objects that the test program has stand-ins for."""

    def __init__(self, module: ModuleType, shared: set[str]):
        self._module, self._shared = module, shared
        self._kept: list[Any] = []

    def answer(self, request: str, *details: Any) -> Any:
        """Return the tree of the value that was asked for."""
        actions: dict[str, Callable[..., Any]] = {
            "name": lambda name: getattr(self._module, name),
            "function": lambda fn_name: find_function(self._module, fn_name),
            "attribute": lambda number, name: getattr(self._kept[number], name),
            "call": lambda number, args, kwargs: self._kept[number](*args, **kwargs),
        }
        return to_tree(actions[request](*details), self._other)

    def make(self, kind: str, content: Any) -> Any:
        """Read what is no plain value."""
        return self._kept[content] if kind == "remote" else _made(kind, content, self._module.__dict__, self.make)

    def _other(self, value: Any) -> dict[str, Any]:
        if type(value).__name__ in self._shared:
            return _instance(value, self._shared, self._other)
        self._kept.append(value)
        return {"remote": len(self._kept) - 1}


def _classes(namespace: dict[str, Any]) -> dict[str, type]:
    """The classes that were defined in this namespace, not imported into it."""
    return {
        name: value
        for name, value in namespace.items()
        if isinstance(value, type) and value.__module__ == namespace["__name__"]
    }


def _instance(value: Any, classes, other: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    name = type(value).__name__
    if name not in classes:
        raise TypeError(f"{name} cannot be passed to the program under test")
    return {"instance": [name, to_tree(vars(value), other)]}


def _made(kind: str, content: Any, classes: dict[str, type], make: Callable[[str, Any], Any]) -> Any:
    if kind != "instance":
        raise ValueError(f"unknown kind {kind!r}")
    name, attributes = content
    value = object.__new__(classes[name])
    value.__dict__.update(from_tree(attributes, make))
    return value
