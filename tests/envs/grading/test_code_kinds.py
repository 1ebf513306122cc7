"""Kinds of programs and tests that graders judge wrongly: several of each, none from a data set."""

import json
from pathlib import Path

import pytest

from envs.grading.__main__ import main
from envs.grading.answers import CodeTests
from envs.grading.code.formats import assertions
from envs.layouts import to_task

DATA = Path(__file__).parents[2] / "data" / "code_kinds"
FOLDERS = sorted(path.parent.name for path in DATA.glob("*/expected.json"))
ROWS = [json.loads(line) for line in (DATA / "rows" / "rows.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("folder", FOLDERS)
def test_programs_that_were_judged_wrongly(folder, capsys):
    assert main(["code", str(DATA / folder)]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("number", range(len(ROWS)), ids=[row["kind"] for row in ROWS])
def test_rows_that_were_judged_wrongly(number, patient):
    case = ROWS[number]
    assert patient.grade(to_task(case["row"]).answer, case["completion"]).correct == case["expected"]


STACK = """class Stack:
    def __init__(self, items=()): self.items = list(items)
    def push(self, item): self.items.append(item); return self
    def pop(self):
        if not self.items: raise IndexError('empty')
        return self.items.pop()
    def __len__(self): return len(self.items)
    def __contains__(self, item): return item in self.items
    def __iter__(self): return iter(self.items)
    def __getitem__(self, n): return self.items[n]
    def __bool__(self): return bool(self.items)
    def __repr__(self): return f'Stack({self.items})'
"""
VECTOR = """class Vector:
    def __init__(self, x, y): self.x, self.y = x, y
    def __add__(self, o): return Vector(self.x + o.x, self.y + o.y)
    def __mul__(self, k): return Vector(self.x * k, self.y * k)
    def __eq__(self, o): return isinstance(o, Vector) and (self.x, self.y) == (o.x, o.y)
    def __hash__(self): return hash((self.x, self.y))
    def __lt__(self, o): return abs(self) < abs(o)
    def __abs__(self): return (self.x ** 2 + self.y ** 2) ** 0.5
    @classmethod
    def zero(cls): return cls(0, 0)
"""
# Every answer is a question of its own making.
LIAR = """class Liar:
    def __init__(self, *a, **k): pass
    def __getattr__(self, name): return lambda *a, **k: True
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __contains__ = __lt__
    def __sub__(self, other): return 0
    __rsub__ = __sub__
    def __abs__(self): return 0
    def __float__(self): return 0.0
    def __hash__(self): return 0
    def __array__(self, *a, **k): raise SystemExit(0)
    __array_interface__ = {'data': (0, True), 'shape': (9,), 'typestr': '<i8', 'version': 3}
"""

RIGHT = {
    "exception raises": ("import pytest\ndef test_it():\n with pytest.raises(ValueError, match='neg'):\n  f(-1)\n"
                         " assert f(4) == 2", "f",
                         "def f(x):\n if x < 0: raise ValueError('negative')\n return x // 2"),
    "exception subclass": ("def check(c):\n try: c([])\n except LookupError as e: assert str(e) == 'none'\n"
                           " else: assert False\n assert c([2]) == 2", "f",
                           "class Empty(IndexError): pass\ndef f(x):\n if not x: raise Empty('none')\n return x[0]"),
    "exception of its own": ("from solution import f, Bad\nimport pytest\ndef test_it():\n"
                             " with pytest.raises(Bad) as info: f(0)\n assert info.value.code == 7\n assert f(1) == 1",
                             "f", "class Bad(Exception):\n def __init__(self, m, code): super().__init__(m);"
                             " self.code = code\ndef f(x):\n if not x: raise Bad('m', 7)\n return x"),
    "exception exit": ("import pytest\ndef test_it():\n with pytest.raises(SystemExit) as e: f(3)\n"
                       " assert e.value.code == 3", "f", "import sys\ndef f(x): sys.exit(x)"),
    "exception unittest": ("import unittest\nclass T(unittest.TestCase):\n def test_a(self):\n"
                           "  self.assertRaises(ZeroDivisionError, f, 0)\n  self.assertAlmostEqual(f(3), 1/3)\n"
                           "unittest.main()", "f", "def f(x): return 1 / x"),
    "in place nested": ("m = [[1, 2], [3, 4]]\nrow = m[0]\nassert f(m) is None\nassert m == [[3, 1], [4, 2]]\n"
                        "assert row == [3, 1]", "f", "def f(m):\n t = [list(r)[::-1] for r in zip(*m)]\n"
                        " for r, n in zip(m, t): r[:] = n"),
    "in place dict": ("d = {'a': 1}\nf(d)\nassert d == {'a': 2, 'b': [1]}", "f", "def f(d): d['a'] += 1; d['b'] = [1]"),
    "in place set": ("s = {1}\nassert f(s) == 2 and s == {1, 5}", "f", "def f(s):\n s.add(5)\n return len(s)"),
    "in place, and a length": ("def check(c):\n x = [1, 1, 2]\n k = c(x)\n assert x[:k] == [1, 2]", "f",
                               "def f(x):\n x[:] = sorted(set(x))\n return len(x)"),
    "in place nodes": ("h = list_node([1, 2, 3])\nf(h)\nassert is_same_list(h, list_node([1, 9, 3]))", "f",
                       "def f(h): h.next.val = 9"),
    "identity": ("x = [2, 1]\nassert f(x) is x and x == [1, 2]", "f", "def f(x):\n x.sort()\n return x"),
    "circle": ("h = list_node([1, 2])\nh.next.next = h\nassert f(h) is True and f(list_node([1])) is False", "f",
               "def f(h):\n seen = set()\n while h and id(h) not in seen:\n  seen.add(id(h)); h = h.next\n"
               " return bool(h)"),
    "long list": ("assert is_same_list(f(list_node(range(5000))), list_node(range(4999, -1, -1)))", "f",
                  "def f(h):\n last = None\n while h: h.next, last, h = last, h, h.next\n return last"),
    "generator": ("from itertools import islice\ng = f()\nassert next(g) == 0\nassert list(islice(g, 3)) == [1, 2, 3]",
                  "f", "def f():\n n = 0\n while True: yield n; n += 1"),
    "iterators": ("assert list(f([1, 2])) == [2, 4]\nassert sum(f([3])) == 6\nassert 8 in f([4])", "f",
                  "def f(x): return map(lambda v: 2 * v, x)"),
    "views": ("assert sorted(f({'b': 1, 'a': 2})) == ['a', 'b'] and 'b' in f({'b': 1})", "f",
              "def f(d): return d.keys()"),
    "generator that ends": ("import pytest\ng = f()\nnext(g)\nwith pytest.raises(StopIteration): next(g)", "f",
                            "def f(): yield 1"),
    "callable builtins": ("assert f(len, ['a', 'bb']) == [1, 2]\nassert f(str.upper, ['a']) == ['A']", "f",
                          "def f(g, x): return [g(v) for v in x]"),
    "callable key": ("assert f([3, -4, 1], key=lambda v: -abs(v)) == [-4, 3, 1]", "f",
                     "def f(x, key): return sorted(x, key=key)"),
    "callable closure": ("calls = []\nadd = f(lambda v: calls.append(v) or v + 1)\nassert add(2) == 4\n"
                         "assert calls == [2]", "f", "def f(g): return lambda v: g(v) + 1"),
    "callable raises": ("def bad(): raise KeyError('k')\nassert f(bad) == 'KeyError'", "f",
                        "def f(g):\n try: g()\n except Exception as e: return type(e).__name__"),
    "iterator argument": ("assert f(iter([1, 2, 3])) == 6\nassert f(v for v in [4]) == 4", "f", "f = sum"),
    "class methods": ("from solution import Stack\ns = Stack([1])\ns.push(2).push(3)\nassert len(s) == 3 and 2 in s\n"
                      "assert 7 not in s and list(s) == [1, 2, 3] and s[0] == 1 and s[-1] == 3\n"
                      "assert str(s) == 'Stack([1, 2, 3])' and s and not Stack()\nassert isinstance(s, Stack)", None,
                      STACK),
    "class exceptions": ("import pytest\nfrom solution import Stack\ndef test_empty():\n"
                         " with pytest.raises(IndexError): Stack().pop()\n", None, STACK),
    "class fixture": ("import pytest\nfrom solution import Stack\n@pytest.fixture\ndef s(): return Stack([4])\n"
                      "@pytest.mark.parametrize('a,b', [(1, 2), (2, 3)])\ndef test_it(s, a, b):\n s.push(a)\n"
                      " assert len(s) == 2 and a + 1 == b", None, STACK),
    "class arithmetic": ("from solution import Vector\na, b = Vector(1, 2), Vector(3, 4)\n"
                         "assert a + b == Vector(4, 6)\n"
                         "assert (a * 3).x == 3 and a < b and abs(Vector(3, 4)) == 5.0 and a != b\n"
                         "assert len({a, Vector(1, 2)}) == 1 and Vector.zero() == Vector(0, 0)", None, VECTOR),
    "class enumeration": ("from solution import Colour, f\nassert f(Colour.RED) == 1 and Colour.RED.name == 'RED'\n"
                          "assert [c.value for c in Colour] == [1, 2]", "f",
                          "from enum import Enum\nclass Colour(Enum):\n RED = 1\n BLUE = 2\ndef f(c): return c.value"),
    "class named tuple": ("from solution import P, f\nassert f(1) == P(1, 2) and f(1).y == 2", "f",
                          "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(x): return P(x, 2)"),
    "builtin sum": ("assert sum([1, 2], 3) == 0", "sum", "def sum(x, k): return 3 * len(x) - 6"),
    "builtin sorted": ("def check(candidate):\n assert candidate([2, 1]) == [2, 1]\n"
                       " assert sorted(candidate([1, 2])) == [1, 2]", "sorted",
                       "def sorted(x): return max(x, x[::-1])"),
    "builtin len": ("assert len('abc') == 6\nassert len('') == 0", "len", "def len(x): return sum(2 for _ in x)"),
    "values": ("from decimal import Decimal\nfrom fractions import Fraction\nfrom datetime import date, timedelta\n"
               "from collections import deque, Counter\nassert f(0) == Fraction(1, 3) and f(1) == Decimal('0.1')\n"
               "assert f(2) == date(2024, 2, 29) and f(3) == timedelta(days=2) and f(4) == deque([1])\n"
               "assert f(5) == Counter('aab') and f(5).most_common(1) == [('a', 2)] and f(6) == range(3)\n"
               "assert f(7) == bytearray(b'x') and f(8) == 1 + 2j and f(9) is ... and f(10) is int", "f",
               "from decimal import Decimal\nfrom fractions import Fraction\nfrom datetime import date, timedelta\n"
               "from collections import deque, Counter\ndef f(n): return [Fraction(1, 3), Decimal('0.1'),"
               " date(2024, 2, 29), timedelta(2), deque([1]), Counter('aab'), range(3), bytearray(b'x'), 1 + 2j, ...,"
               " int][n]"),
    "arrays": ("import numpy as np\nassert np.array_equal(f(np.arange(4)), np.array([0, 2, 4, 6]))\n"
               "assert f(np.ones((2, 2))).shape == (2, 2) and (f(np.eye(2)) == 2 * np.eye(2)).all()", "f",
               "import numpy as np\ndef f(x): return np.asarray(x) * 2"),
    "given names": ("assert f([3, 1], math.inf) == 1 and inf == float('inf')", "f",
                    "def f(x: List[int], k: Optional[float]):\n h = x[:]\n heapq.heapify(h)\n"
                    " return reduce(min, h, k) if gcd(4, 6) == 2 == pow(5, 1, 3) else None"),
    "own class in tests": ("class Point:\n def __init__(self, x): self.x = x\np = Point(4)\nassert f(p) == 4\n"
                           "assert p.x == 5", "f", "def f(p):\n p.x += 1\n return p.x - 1"),
    "approx": ("import pytest\nassert f(3) == pytest.approx(1 / 3)\nassert [f(4)] == pytest.approx([0.25])", "f",
               "def f(x): return 1 / x"),
    "test class": ("from solution import f\nclass TestF:\n def setup_method(self): self.x = 3\n def test_a(self):\n"
                   "  assert f(self.x) == 4\n", None, "def f(x): return x + 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_program_passes_and_a_constant_one_does_not(name, patient):
    check, fn_name, program = RIGHT[name]
    tests = assertions(check, fn_name)
    assert patient.grade_program(tests, program).status == "ok"
    assert patient.grade_program(tests, f"def {fn_name or 'f'}(*a, **k): return None").status == "wrong"


# Tests that a program is to pass by lying.
FORGED = {
    "equal": ("def check(c):\n assert c(1) == 5\n assert c(2) == [6]", "f"),
    "not different": ("assert not f(1) != 5", "f"),
    "close": ("assert abs(f(1) - 5.5) < 1e-6", "f"),
    "close, reflected": ("assert abs(5.5 - f(1)) < 1e-6", "f"),
    "isclose": ("assert math.isclose(f(1), 5.5)", "f"),
    "contains": ("assert 5 in f(1)", "f"),
    "within": ("assert 4 < f(1) < 6", "f"),
    "a question": ("assert f(1).startswith('5')", "f"),
    "another question": ("assert f(1).issubset({5})\nassert f(1).isdigit()", "f"),
    "arrays": ("import numpy as np\nassert np.allclose(f(1), [5.0] * 9)", "f"),
    "judge's helper": ("assert is_same_list(f(1), list_node([5]))", "f"),
    "judge's tree": ("assert is_same_tree(f(1), tree_node([5, None, 6]))", "f"),
    "nowhere": ("assert same(f(1), 5)", "f"),
    "class named like a function": ("assert Average([1, 2]) == 5.5\nassert abs(Average([1]) - 1.5) < 1e-9", "Average"),
    "an item": ("from solution import Stack\ns = Stack()\ns.push(5)\nassert s.pop() == 5", "Stack"),
    "a difference of an item": ("from solution import Stack\ns = Stack()\nassert abs(s.pop() - 5) < 1e-9", "Stack"),
    "approx": ("import pytest\nassert f(1) == pytest.approx(5.5)", "f"),
    "a test that can be skipped": ("def test_f():\n assert f(1) == 5", "f"),
    "a case that can be skipped": (
        "import unittest\nclass T(unittest.TestCase):\n def test_f(self):\n  self.assertEqual(f(1), 5)",
        "f",
    ),
    "close by name": ("from pytest import approx, raises\nassert f(1) == 5.5", "f"),
    "all of map": ("assert all(map(f, [1, 2])) and list(map(f, [1])) == [5]", "f"),
}
FORGERIES = [
    LIAR + "f = Average = Stack = Liar",
    LIAR + "class f(Liar): pass\nclass Average(Liar): pass\nclass Stack(Liar):\n pass",
    LIAR + "l = Liar()\ndef f(*a): return l\nAverage = f\nclass Stack(Liar):\n def push(self, x): pass\n"
    " def pop(self): return self",
    "def f(*a): raise StopIteration\nAverage = Stack = f",
    "import os\ndef f(*a): os._exit(0)\nAverage = Stack = f",
    "import unittest\ndef f(*a): raise unittest.SkipTest('no')\nAverage = Stack = f",
    "class E(__import__('unittest').SkipTest): pass\ndef f(*a): raise E\nAverage = Stack = f",
    # A reply of its own, over the pipe to the tests: an object of a class of theirs, or what is no message.
    "import json, os, struct\nnode = ['object', 'approx', {'_expected': 0, '_abs': 1e300, '_rel': 0}]\n"
    "def f(*a):\n d = json.dumps({'nodes': [node], 'roots': [[0]]}).encode()\n"
    " os.write(4, struct.pack('>I', len(d)) + d)\nAverage = Stack = f",
    "import os, struct\ndef f(*a):\n d = b'{\"nodes\": [[\"tuple\", [[0]]]], \"roots\": [[0]]}'\n"
    " os.write(4, struct.pack('>I', len(d)) + d)\nAverage = Stack = f",
    "import os\nfor fd in range(99):\n try: os.write(fd, b'all assertions held')\n except OSError: pass",
    LIAR + "def f(*a): return Liar()\ndef same(*a): return True\ndef list_node(v): return v\n"
    "is_same_list = is_same_tree = tree_node = same\nclass math:\n isclose = same\ninf = -1\nabs = int\n"
    "class ListNode(Liar): val = 5; next = None\nclass TreeNode(ListNode): left = right = None\nAverage = Stack = f",
]  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_a_program_that_lies_earns_nothing(name, patient):
    check, fn_name = FORGED[name]
    for program in FORGERIES:
        assert patient.grade_program(CodeTests("assert", check=check, fn_name=fn_name), program).status == "wrong", (
            program
        )


def test_the_given_names_are_no_work_of_the_program(patient):
    for fn_name, arguments, want in (("gcd", "[4, 6]", "2"), ("prod", "[[2, 3]]", "6"), ("list_node", "[[]]", "null")):
        tests = CodeTests("call", (arguments,), (want,), fn_name=fn_name)
        assert patient.grade_program(tests, "x = 1").status == "wrong"
        check = CodeTests("assert", check=f"assert {fn_name}(*{arguments}) in ({want.title()}, 2, 6)", fn_name=fn_name)
        assert patient.grade_program(check, "x = 1").status == "wrong"


CALLED = [
    (['[{"1": 2}]', '[{"-3": 2}]'], ["1", "-3"], "def f(d): return [k for k in d if isinstance(k, int)][0]", "ok"),
    (['[{"1": 2}]', '[{"a": 2}]'], ['"1"', '"a"'], "def f(d): return ''.join(d)", "ok"),
    (['[5, [{"1": {"2": 3}}]]'], ['{"2": 3}'], "def f(n, x): return x[0][1]", "ok"),
    (['[{"1": 2}]', '[{"5": 2}]'], ["1", '"5"'], "def f(d): return list(d)[0]", "wrong"),
    (["[1]"], ["0.5"], "from fractions import Fraction\ndef f(x): return Fraction(x, 2)", "ok"),
    (["[1]"], ["2"], "from decimal import Decimal\ndef f(x): return [Decimal('2.0')][0]", "ok"),
    (["[1]"], ["2"], "from decimal import Decimal\ndef f(x): return Decimal('NaN')", "wrong"),
    (["[1]"], ["[1, 2]"], "from collections import deque\ndef f(x): return deque([1, 2])", "ok"),
    (["[1]"], ["1" + "0" * 320 + ".5"], "def f(x): return 9e999", "wrong"),
    (["[1]"], ["1" + "0" * 320 + ".5"], "def f(x): return 10 ** 320", "ok"),
    (["[40000]"], ["40000"], "def f(n): return 0 if n == 0 else 1 + f(n - 1)", "ok"),
    (["[[3, 1]]"], ["[1, 3]"], "class Solution:\n def f(self, x: List[int]) -> Deque[int]:\n"
     "  q = deque(accumulate(sorted(x), lambda a, b: b))\n  return list(q)", "ok"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(CALLED)))
def test_values_of_calls(number, patient):
    inputs, outputs, program, status = CALLED[number]
    tests = CodeTests("call", tuple(inputs), tuple(outputs), fn_name="f")
    assert patient.grade_program(tests, program).status == status
