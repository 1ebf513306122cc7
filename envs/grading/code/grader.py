"""Grade programs: run them in a sandbox, and compare what comes out with what was expected, outside of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import cache, partial
from time import monotonic
from typing import Any

from envs.grading.answers import CodeTests
from envs.grading.code.compare import same_text, same_value
from envs.grading.code.extract import extract_program
from envs.grading.sandbox import FAILED, FINISHED, TIMEOUT, Limits, Sandbox, SandboxError
from envs.grading.sandbox.backends import BACKENDS, Backend
from envs.text_env import Grade

_MAX_ATTEMPTS = 2


class CodeGrader:
    """Judges Python programs by tests.

        with CodeGrader() as grader:
            tests = CodeTests("stdin", inputs=("1 2\\n",), outputs=("3\\n",))
            grade = grader.grade(tests, "```python\\nprint(sum(map(int, input().split())))\\n```")

    Every test runs in a fresh process, in order, up to the first that fails. Expected outputs never enter the
    sandbox; of "assert" tests, the test program runs in a process of its own and calls the program from there (see
    `sandbox_calls`): arguments and results cross as copies, so it does not see what a function does to its arguments,
    and an exception of the program reaches it as another one.

    Processes start with the first grade. A grader can be pickled, without them, and used from several threads, one
    grade at a time.

    Args:
        limits: what one program may use.
        packages: importable packages that programs may use, besides the standard library.
        backends: what may confine programs; the first that works does.

    Raises:
        ValueError: for a package that is not installed.
        RuntimeError: when no backend works here. Nothing is ever run unprotected.
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
        self._sandbox = Sandbox(working_backend(self.backends), limits, self.packages)
        self._lock = threading.Lock()

    def grade(self, tests: CodeTests, completion: str) -> Grade:
        """Judge the last fenced Python block after the thought (see `extract_program`); "no_answer" without one."""
        program = extract_program(completion)
        if program is None:
            return Grade(0.0, False, None, "no_answer")
        return self.grade_program(tests, program)

    def grade_program(self, tests: CodeTests, program: str) -> Grade:
        """Judge a program.

        Returns:
            a Grade with the reward 1.0 or 0.0, `extracted` being the program, and the status
            "ok" when every test passes, "wrong" when one fails, by its output, a crash or too much output, memory or
            files; "timeout" when one takes too long; "guarded" for a program longer than `limits.program_bytes`;
            "sandbox_error" when the sandbox was lost twice.

        Raises:
            ValueError: for an input that is larger than `limits.scratch_mb`.
        """
        self._check_sizes(tests)
        if len(program.encode("utf-8", "surrogatepass")) > self.limits.program_bytes:
            return Grade(0.0, False, program, "guarded")
        with self._lock:
            for _ in range(_MAX_ATTEMPTS):
                try:
                    status = self._status(tests, program)
                except SandboxError:
                    continue
                finally:
                    self._sandbox.forget()
                return Grade(float(status == "ok"), status == "ok", program, status)
        return Grade(0.0, False, program, "sandbox_error")

    def close(self) -> None:
        """End the sandbox; a further grade starts it again."""
        with self._lock:
            self._sandbox.close()

    def __enter__(self) -> CodeGrader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return CodeGrader, (self.limits, self.packages, self.backends)

    def _status(self, tests: CodeTests, program: str) -> str:
        give_up = monotonic() + self.limits.total_s
        for job, then, is_right in _runs(tests, program):
            left_s = give_up - monotonic()
            if left_s <= 0:
                return "timeout"
            wall_s = min(tests.time_limit_s or self.limits.wall_s, left_s)
            verdict, output = self._sandbox.run(job, wall_s, tests.time_limit_s or self.limits.cpu_s, then)
            if verdict == TIMEOUT:
                return "timeout"
            if verdict == FAILED or not is_right(output):
                return "wrong"
        return "ok"

    def _check_sizes(self, tests: CodeTests) -> None:
        for number, text in enumerate(tests.inputs):
            if len(text) > self.limits.scratch_mb << 20:
                raise ValueError(
                    f"tests.inputs[{number}] has {len(text)} characters, more than scratch_mb={self.limits.scratch_mb}"
                )


@cache
def working_backend(backends: tuple[Backend, ...]) -> Backend:
    """Return the first backend that runs a program here, after trying.

    Raises:
        RuntimeError: when none does, with the reason and the remedy for each.
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


def _runs(tests: CodeTests, program: str) -> Iterator[tuple[dict[str, Any], str | None, Any]]:
    """What to run for each test: the job, what follows it, and a judge of the output."""
    job = {"kind": tests.kind, "prefix": tests.prefix, "program": program}
    if tests.kind == "assert":
        yield job | {"fn_name": tests.fn_name}, tests.check, lambda output: True
    for given, want in zip(tests.inputs, tests.outputs, strict=True):
        if tests.kind == "stdin":
            yield job | {"stdin": given}, None, partial(same_text, want=want)
        elif tests.kind == "call":
            yield job | {"arguments": given, "fn_name": tests.fn_name}, None, partial(same_value, want=want)
