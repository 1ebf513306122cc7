"""Who imports whom: no circle, and every folder of aspo_rllib imports only what stands before it in ORDER.

Imports inside functions and under TYPE_CHECKING count, too.
"""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("aspo_rllib", "envs")
# The parts of aspo_rllib from the bottom to the top; those of one line do not import each other.
ORDER = [
    {"names", "metric_names", "watchdog", "internals", "tiny_model"},
    {"types", "losses"},
    {"registration"},
    {"model"},
    {"config"},
    {"weights"},
    {"rollout", "learner"},
    {"run"},
    {"doctor", "models", "export"},
    {"evaluate"},
    {"replay"},
    {"aspo"},
    {"report", "tune_run"},
    {"recipe"},
]
# Other packages that a part must not import, because it has to work, or to start fast, without them.
FORBIDDEN = {
    "losses": {"ray", "vllm", "transformers"},
    "model": {"ray", "vllm"},
    "types": {"ray", "vllm", "torch", "transformers"},
    "learner.advantages": {"ray", "vllm", "torch"},
    "learner.batching": {"ray", "vllm"},
    "report": {"torch", "vllm", "transformers"},
    "config": {"vllm"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def imported(name: str) -> set[str]:
    """All that a module imports: modules of ours by their full names, other packages as they are written."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports here are absolute"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & MODULES.keys()) or {node.module}
    return found


GRAPH = {name: imported(name) for name in MODULES}


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("aspo_rllib")])
def test_private_names_of_other_objects_stand_in_one_module(name):
    found = []
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            base = isinstance(node.value, ast.Call) and ast.unparse(node.value) == "super()"
            found += [ast.unparse(node)] if not own and not base else []
        elif isinstance(node, ast.ImportFrom):
            path = [*node.module.split("."), *(alias.name for alias in node.names)]
            found += [node.module] if any(re.match("_(?!_)", part) for part in path) else []
    assert name == "aspo_rllib.internals" or found == []


def part(name: str) -> str:
    return name.split(".")[1]


def height(name: str) -> int:
    (found,) = [level for level, parts in enumerate(ORDER) if part(name) in parts]
    return found


def test_there_is_no_circle():
    try:
        TopologicalSorter({name: targets & MODULES.keys() for name, targets in GRAPH.items()}).prepare()
    except CycleError as error:
        pytest.fail(f"modules that import each other: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("aspo_rllib.")])
def test_a_part_imports_only_what_stands_before_it(name):
    ours = [target for target in GRAPH[name] & MODULES.keys() if target.startswith("aspo_rllib")]
    assert "aspo_rllib" not in ours, "the package's own modules do not go through its public names"
    wrong = [target for target in ours if part(target) != part(name) and height(target) >= height(name)]
    assert not wrong


def test_the_public_package_has_nothing_above_it():
    """Its lazy names point to everything; eagerly it imports only what needs no other package."""
    tree = ast.parse(MODULES["aspo_rllib"].read_text())
    eager = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)} & MODULES.keys()
    assert eager == {"aspo_rllib.registration", "aspo_rllib.tiny_model"}


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("envs")])
def test_envs_stand_on_their_own(name):
    assert not [target for target in GRAPH[name] if target.partition(".")[0] == "aspo_rllib"]


@pytest.mark.parametrize(("prefix", "packages"), FORBIDDEN.items())
def test_a_part_does_without_some_packages(prefix, packages):
    members = [name for name in MODULES if f"{name}.".startswith(f"aspo_rllib.{prefix}.")]
    assert members
    wrong = {(name, target) for name in members for target in GRAPH[name] if target.partition(".")[0] in packages}
    assert not wrong


@pytest.mark.parametrize("name", MODULES)
def test_modules_stay_short(name):
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("name", MODULES)
def test_functions_stay_short(name):
    """Without their signature and docstring."""
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            has_docstring = ast.get_docstring(node) is not None
            body = node.body[1:] if has_docstring else node.body
            if body:
                assert body[-1].end_lineno - body[0].lineno < 50, f"{name}.{node.name}"
