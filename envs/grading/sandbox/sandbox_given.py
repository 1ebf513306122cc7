"""In the sandbox: the names that online judges provide to programs and tests without an import.

The names are those of LiveCodeBench, LeetCode and the public files that follow them. Programs and tests have them in
separate processes, so a program that changes them does not change those of its tests.
"""

import builtins
import importlib
from collections import deque

_MODULES = """
    bisect collections copy datetime functools heapq itertools json math operator os random re statistics string sys
    time typing
"""
GIVEN_MODULES = tuple(_MODULES.split())
# Later modules replace earlier ones, and no module replaces a builtin: `pow` takes three numbers.
_ALL_OF = "string re copy random statistics operator itertools functools bisect heapq math collections typing"
_SOME_OF = {"datetime": ("date", "timedelta")}


class ListNode:
    """A node of LeetCode's linked lists."""

    def __init__(self, val=0, next=None):
        self.val = val
        self.next = next


class TreeNode:
    """A node of LeetCode's binary trees."""

    def __init__(self, val=0, left=None, right=None):
        self.val = val
        self.left = left
        self.right = right


def list_node(values):
    """Make a linked list of these values; None if there are none."""
    head = None
    for value in reversed(list(values)):
        head = ListNode(value, head)
    return head


def tree_node(values):
    """Make a binary tree of values in level order; None is a missing child."""
    values = list(values)
    if not values or values[0] is None:
        return None
    root = TreeNode(values[0])
    waiting, rest = deque([root]), iter(values[1:])
    while waiting:
        node = waiting.popleft()
        for side in ("left", "right"):
            value = next(rest, None)
            if value is not None:
                child = TreeNode(value)
                setattr(node, side, child)
                waiting.append(child)
    return root


def is_same_list(first, second):
    """Whether two linked lists have equal values."""
    seen = 0
    while isinstance(first, ListNode) and isinstance(second, ListNode):
        seen += 1
        if first.val != second.val or seen > _MAX_NODES:
            return False
        first, second = first.next, second.next
    return first is None and second is None


def is_same_tree(first, second):
    """Whether two binary trees have equal shapes and values."""
    waiting, seen = [(first, second)], 0
    while waiting:
        first, second = waiting.pop()
        if first is None and second is None:
            continue
        seen += 1
        if not isinstance(first, TreeNode) or not isinstance(second, TreeNode) or seen > _MAX_NODES:
            return False
        if first.val != second.val:
            return False
        waiting += [(first.left, second.left), (first.right, second.right)]
    return True


_MAX_NODES = 10**6  # more than any test has; comparing two circular lists would not end
HELPERS = {helper.__name__: helper for helper in (list_node, tree_node, is_same_list, is_same_tree)} | {
    "inf": float("inf")
}
NODES = {node.__name__: node for node in (ListNode, TreeNode)}


def given_names() -> dict[str, object]:
    """Return the names with their values."""
    names: dict[str, object] = {}
    for module_name in _ALL_OF.split():
        module = importlib.import_module(module_name)
        public = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
        names.update((name, getattr(module, name)) for name in public if name not in PYTHONS_OWN)
    for module_name, chosen in _SOME_OF.items():
        names.update((name, getattr(importlib.import_module(module_name), name)) for name in chosen)
    names.update((name, importlib.import_module(name)) for name in GIVEN_MODULES)
    return {name: value for name, value in (names | NODES | HELPERS).items() if name not in PYTHONS_OWN}


def give() -> None:
    """Add the names to the builtins of this process and its children, so that all other names hide them.

    They are not in the globals of a program, so a provided `gcd` does not count as the program's `gcd`.
    """
    vars(builtins).update(given_names())


PYTHONS_OWN = frozenset(dir(builtins))
