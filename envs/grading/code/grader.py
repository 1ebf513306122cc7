"""Grade programs: run them in a sandbox, and compare their output with the expected one outside of the sandbox."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from time import monotonic
from typing import Any

from envs.grading.answers import CodeTests
from envs.grading.code.arguments import readings
from envs.grading.code.compare import same_text, same_value
from envs.grading.code.extract import extract_program
from envs.grading.sandbox import FAILED, FINISHED, TIMEOUT, Limits, Sandbox, SandboxError
from envs.grading.sandbox.backends import BACKENDS, Backend
from envs.text_env import Grade

_MAX_ATTEMPTS = 2
_SAID = "ASPO_SANDBOX"  # in the environment, which the grading workers of a run inherit


class CodeGrader:
    """Grades Python programs by tests.

        with CodeGrader() as grader:
            tests = CodeTests("stdin", inputs=("1 2\\n",), outputs=("3\\n",))
            grade = grader.grade(tests, "```python\\nprint(sum(map(int, input().split())))\\n```")

    Every test runs in a new process. The tests run in order, up to the first that fails. Expected outputs never enter
    the sandbox. For "assert" tests, the test program runs in a separate process and calls the program from there (see
    `sandbox_stand_ins`).

    The processes start with the first grade. A grader is pickled without its processes. Several threads may use it; it
    makes one grade at a time.

    Args:
        limits: the limits of one program.
        packages: importable packages that programs may use, besides the standard library.
        backends: the sandboxes to try; the first that works is used.

    Raises:
        ValueError: for a package that is not installed.
        RuntimeError: when no backend works here. A program never runs without a sandbox.
    """

    def __init__(
        self,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        packages: Sequence[str] = ("numpy",),
        backends: Sequence[Backend] = BACKENDS,
    ):
        self.limits = limits
        self.packages = tuple(packages)
        self.backends = tuple(backends)
        backend = working_backend(self.backends)
        _say_once(backend)
        self._sandbox = Sandbox(backend, limits, self.packages)
        # A fork with NumPy takes 1.5 times as long, and its import half a second: so there are two sandboxes.
        self._sandbox_with_packages = Sandbox(backend, limits, self.packages, preloaded=self.packages)
        self._lock = threading.Lock()

    def grade(self, tests: CodeTests, completion: str) -> Grade:
        """Grade the last fenced Python block after the thought (see `extract_program`); "no_answer" without one."""
        program = extract_program(completion)
        if program is None:
            return Grade(0.0, False, None, "no_answer")
        return self.grade_program(tests, program)

    def grade_program(self, tests: CodeTests, program: str) -> Grade:
        """Grade a program.

        Returns:
            a Grade with the reward 1.0 or 0.0, the program as `extracted`, and a status: "ok" if every test passes;
            "wrong" if one fails because of its output, a crash, or too much output, memory or files; "timeout" if one
            takes too long; "guarded" for a program longer than `limits.program_bytes`; "sandbox_error" if the sandbox
            failed twice.

        Raises:
            ValueError: for an input that is larger than `limits.scratch_mb`.
        """
        self._check_sizes(tests)
        if len(program.encode("utf-8", "surrogatepass")) > self.limits.program_bytes:
            return Grade(0.0, False, program, "guarded")
        texts = (program, tests.prefix, tests.check)
        wants_packages = any(name in text for name in self.packages for text in texts)
        sandbox = self._sandbox_with_packages if wants_packages else self._sandbox
        with self._lock:
            for _ in range(_MAX_ATTEMPTS):
                try:
                    status = self._status(sandbox, tests, program)
                except SandboxError:
                    continue
                finally:
                    sandbox.forget()
                return Grade(float(status == "ok"), status == "ok", program, status)
        return Grade(0.0, False, program, "sandbox_error")

    def close(self) -> None:
        """End the sandbox; the next grade starts it again."""
        with self._lock:
            self._sandbox.close()
            self._sandbox_with_packages.close()

    def __enter__(self) -> CodeGrader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return CodeGrader, (self.limits, self.packages, self.backends)

    def _status(self, sandbox: Sandbox, tests: CodeTests, program: str) -> str:
        cpu_s = tests.time_limit_s or self.limits.cpu_s
        wall_s = cpu_s * self.limits.wall_s / self.limits.cpu_s
        give_up = monotonic() + self.limits.total_s
        status = "wrong"
        for inputs in readings(tests):
            status = self._first_failure(sandbox, replace(tests, inputs=inputs), program, wall_s, cpu_s, give_up)
            if status != "wrong":
                break
        return status

    def _first_failure(
        self, sandbox: Sandbox, tests: CodeTests, program: str, wall_s: float, cpu_s: float, give_up: float
    ) -> str:
        for job, then, is_right in _runs(tests, program):
            left_s = give_up - monotonic()
            if left_s <= 0:
                return "timeout"
            verdict, output = sandbox.run(job, min(wall_s, left_s), cpu_s, then)
            if verdict == TIMEOUT:
                return "timeout"
            if verdict == FAILED or not is_right(output):
                return "wrong"
        return "ok"

    def _check_sizes(self, tests: CodeTests) -> None:
        for number, text in enumerate(tests.inputs):
            size = len(text.encode("utf-8", "surrogatepass")) if len(text) > self.limits.scratch_mb << 18 else 0
            if size > self.limits.scratch_mb << 20:
                raise ValueError(
                    f"tests.inputs[{number}] has {size} bytes, more than scratch_mb={self.limits.scratch_mb}"
                )


@cache
def working_backend(backends: tuple[Backend, ...]) -> Backend:
    """Try the backends with a program, and return the first that works here.

    Raises:
        RuntimeError: when none works, with the reason and the remedy for each.
    """
    reasons = []
    for backend in backends:
        sandbox = Sandbox(backend, Limits(), packages=())
        try:
            result = sandbox.run({"kind": "stdin", "prefix": "", "program": "print(6 * 7)", "stdin": ""}, 10.0, 10.0)
            if result == (FINISHED, b"42\n"):
                return backend
            reasons.append(f"{backend.name}: a test program gave {result}; {backend.remedy}")
        except SandboxError as error:
            reasons.append(f"{error}; {backend.remedy}")
        finally:
            sandbox.close()
    raise RuntimeError("programs cannot be run safely on this machine, so none is run. " + " | ".join(reasons))


def _say_once(backend: Backend) -> None:
    """Print which sandbox is used: once in a run, and again if another one is used."""
    if os.environ.get(_SAID) != backend.name:
        os.environ[_SAID] = backend.name
        print(f"Programs are graded in a sandbox made by {backend.name}.", file=sys.stderr)


def _runs(tests: CodeTests, program: str) -> Iterator[tuple[dict[str, Any], str | None, Any]]:
    """What runs for each test: the job, the message after it, and the comparison of the output."""
    job = {"kind": tests.kind, "prefix": tests.prefix, "program": program}
    if tests.kind == "assert":
        yield job | {"fn_name": tests.fn_name}, tests.check, lambda output: True
    for given, want in zip(tests.inputs, tests.outputs, strict=True):
        if tests.kind == "stdin":
            yield job | {"stdin": given}, None, partial(same_text, want=want)
        elif tests.kind == "call":
            yield job | {"arguments": given, "fn_name": tests.fn_name}, None, partial(same_value, want=want)
