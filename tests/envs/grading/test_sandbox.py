"""The sandbox of programs: the set of hostile and right programs, more attacks, and what is left behind."""

import gc
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from sandboxes import MEMORY_MB, PATIENT, STRICT, is_missing

from envs.grading.answers import CodeTests
from envs.grading.code.grader import CodeGrader, working_backend
from envs.grading.sandbox import Limits
from envs.grading.sandbox.backends import BACKENDS, Backend, Launch, visible_files

DATA = Path(__file__).parents[2] / "data" / "code"
EXPECTED = json.loads((DATA / "expected.json").read_text())
SECRET = "GR_EXPECTED=<6>"  # what a thief looks for: the output of the first test
IDLE_PROCESSES = {"bubblewrap": 2, "landlock": 1}


def task_tests(mode: str) -> CodeTests:
    task = EXPECTED["task"][mode]
    if mode == "stdin":
        return CodeTests("stdin", *zip(*((test["input"], test["output"]) for test in task["tests"]), strict=True))
    if mode == "call":
        inputs = tuple(f"[{argument}]" for argument in task["inputs"])
        return CodeTests("call", inputs, tuple(task["outputs"]), fn_name=task["fn_name"])
    return CodeTests("assert", check=task["test"], fn_name=task["entry_point"])


TESTS = {mode: task_tests(mode) for mode in ("stdin", "call", "assert")}
SUM = "input()\nprint(sum(map(int, input().split())))"


def test_some_way_to_confine_programs_works_here():
    assert not all(map(is_missing, BACKENDS))


# --- the programs in tests/data/code


@dataclass(frozen=True)
class Canary:
    """Where this run keeps the secret: places of its own, so that no other run, nor what one left, is in the way."""

    folder: Path
    port: int
    victim: subprocess.Popen

    def program(self, name: str) -> str:
        """A program that looks for the secret where it is; the one in the file knows a fixed folder and port."""
        source = (DATA / name).read_bytes().decode("utf-8", "surrogateescape")
        return source.replace("canary", self.folder.name).replace("18765", str(self.port))


@pytest.fixture(scope="module")
def canary():
    """Put the secret wherever a program might look for it, and something to destroy beside it."""
    folder = Path(tempfile.mkdtemp(prefix="canary-", dir="/tmp"))
    secret = folder / "expected.txt"
    secret.write_text(SECRET)
    inherited = os.open(secret, os.O_RDWR)
    os.set_inheritable(inherited, True)
    wait = [sys.executable, "-c", "import sys; sys.stdin.read()", "GR_VICTIM_MARK", SECRET]
    victim = subprocess.Popen(wait, stdin=subprocess.PIPE)  # ends with the tests, however they end
    os.environ |= {"GR_EXPECTED_COPY": SECRET, "GR_VICTIM_PID": str(victim.pid)}
    abstract, path = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0{folder.name}")
    path.bind(str(folder / "sock"))
    tcp = socket.create_server(("127.0.0.1", 0))
    servers = [abstract, path, tcp]
    for server in servers:
        server.listen()
        threading.Thread(target=serve_secret, args=(server,), daemon=True).start()
    yield Canary(folder, tcp.getsockname()[1], victim)
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
    os.close(inherited)
    victim.kill()
    victim.communicate()
    shutil.rmtree(folder)
    del os.environ["GR_EXPECTED_COPY"], os.environ["GR_VICTIM_PID"]


def serve_secret(server: socket.socket) -> None:
    while True:
        try:
            connection = server.accept()[0]
        except OSError:
            return
        connection.sendall(SECRET.encode())
        connection.close()


class Watch:
    """The memory of all processes of a group, sampled while the group runs."""

    def __init__(self, group: int):
        self.group, self.peak_bytes = group, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._over.set()
        self._thread.join()

    def _sample(self):
        while not self._over.wait(0.02):
            self.peak_bytes = max(self.peak_bytes, sum(map(resident_bytes, members(self.group))))


def members(group: int) -> list[int]:
    pids = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            pids.append(int(path.parent.name))
    return pids


def resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0


def idle_members(group: int, expected: int) -> int:
    """The number of processes, after at most five seconds for those that are about to end."""
    give_up = time.monotonic() + 5
    while len(members(group)) > expected and time.monotonic() < give_up:
        time.sleep(0.02)
    return len(members(group))


@pytest.mark.parametrize("name", EXPECTED["files"])
def test_program_is_graded_as_expected_and_leaves_nothing_behind(name, backend, canary, tmp_path, monkeypatch):
    facts = EXPECTED["files"][name]
    program = canary.program(name)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    passes = facts["expect"] == "pass"
    limits = PATIENT if passes else STRICT
    with CodeGrader(limits, backends=[backend]) as grader:
        assert grader.grade_program(TESTS["stdin"], SUM).correct
        group = grader._sandbox.pid
        num_idle = IDLE_PROCESSES[backend.name]
        assert idle_members(group, num_idle) == num_idle
        idle_bytes = sum(map(resident_bytes, members(group)))
        start = time.monotonic()
        with Watch(group) as watch:
            grade = grader.grade_program(TESTS[facts["mode"]], program)
        assert time.monotonic() - start < limits.wall_s * (len(TESTS["stdin"].inputs) if passes else 1) + 10
        assert grade.correct == passes, grade
        assert grade.status in (("ok",) if passes else ("wrong", "timeout"))
        # A child of the idle interpreter and its supervisor have what it has in their memory as well.
        assert watch.peak_bytes < (MEMORY_MB << 20) + 2 * idle_bytes
        if grader._sandbox.pid == group:
            assert idle_members(group, num_idle) == num_idle
        assert grader.grade_program(TESTS["stdin"], SUM).correct
    assert idle_members(group, 0) == 0
    assert list(tmp_path.iterdir()) == []
    assert sorted(path.name for path in canary.folder.iterdir()) == ["expected.txt", "sock"]
    assert (canary.folder / "expected.txt").read_text() == SECRET
    assert canary.victim.poll() is None
    assert not list(Path("/tmp").glob("*pwned*"))


@pytest.mark.parametrize(
    "name", [name for name, facts in EXPECTED["files"].items() if facts["category"] in ("steal-answer", "network")]
)
def test_stolen_answer_does_not_pass_the_one_test_that_it_is_right_for(name, strict, canary):
    facts, tests = EXPECTED["files"][name], TESTS[EXPECTED["files"][name]["mode"]]
    tests = CodeTests(tests.kind, tests.inputs[:1], tests.outputs[:1], fn_name=tests.fn_name)
    assert facts["expect"] == "fail"
    assert not strict.grade_program(tests, canary.program(name)).correct


# --- right programs that sandboxes tend to break, and more attacks

RIGHT = {
    "asyncio": "import asyncio\nasync def main():\n await asyncio.sleep(0)\n input()\n"
    " print(sum(map(int, input().split())))\nasyncio.run(main())",
    "dev_stdin": "print(sum(map(int, open('/dev/stdin').read().split()[1:])))",
    "fast_io": "import os, sys\nclass Out:\n def __init__(s): s.b = []\n def write(s, t): s.b.append(t)\n"
    " def flush(s): os.write(1, ''.join(s.b).encode()); s.b = []\nsys.stdout = Out()\n"
    "data = os.read(0, os.fstat(0).st_size).split()\nprint(sum(map(int, data[1:])))",
    "unclosed_output": "out = open(1, 'w')\ninput()\nout.write(str(sum(map(int, input().split()))))",
    "atexit": "import atexit\ninput()\nx = sum(map(int, input().split()))\natexit.register(lambda: print(x))",
    "deep_recursion": "import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)\n"
    "assert f(200000) == 200000\ninput()\nprint(sum(map(int, input().split())))",
    "deep_c_recursion": "import sys\nfrom functools import lru_cache\nsys.setrecursionlimit(10**6)\n@lru_cache(None)\n"
    "def f(n): return 0 if n == 0 else 1 + f(n - 1)\nf(100000)\ninput()\nprint(sum(map(int, input().split())))",
    "recursion_limit": "def f(n): return 0 if n == 0 else 1 + f(n - 1)\nf(990)\n" + SUM,
    "unlimited_stack": "import resource, sys\n"
    "resource.setrlimit(resource.RLIMIT_STACK, (resource.RLIM_INFINITY,) * 2)\n" + SUM,
    "dataclass_and_pickle": "import pickle\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n x: int\n"
    "assert pickle.loads(pickle.dumps(P(3))) == P(3)\n" + SUM,
    "threads": "from concurrent.futures import ThreadPoolExecutor as E\ninput()\nwith E(4) as e:\n"
    " print(sum(e.map(int, input().split())))",
    "alarm": "import signal\nsignal.signal(signal.SIGALRM, lambda *a: 0)\nsignal.setitimer(signal.ITIMER_REAL, 0.01)\n"
    "signal.pause()\n" + SUM,
    "long_integers": "x = 10 ** 20000\nassert len(str(x)) == 20001\nassert int('9' * 9000) > x // x\n" + SUM,
    "leaves_a_file": "open('left.txt', 'x').write('a')\n" + SUM,
    "closes_stdin": "import sys\nlines = sys.stdin.readlines()\nsys.stdin.close()\n"
    "print(sum(map(int, lines[1].split())))",
    "dev_stdout": "import sys\nx = open('/dev/stdin').read().split()\n"
    "print(sum(map(int, x[1:])), file=open('/dev/stdout', 'w'))",
    "dev_fd": "out = open('/dev/fd/1', 'w')\nx = open('/dev/fd/0').read().split()\n"
    "out.write(str(sum(map(int, x[1:]))))",
    "dev_stderr": "import sys\nsys.stderr = open('/dev/stderr', 'w')\nsys.stderr.write('n? ')\n" + SUM,
    "own_name": "import os, sys\nassert len(sys.argv) == 1 and sys.argv[0] == __file__\n"
    "assert os.path.isabs(os.path.dirname(__file__)) and __name__ == '__main__'\n" + SUM,
    "given_names": "n = int(input())\nc = Counter(map(int, sys.stdin.readline().split()))\nprint(sum(c.elements()))",
    "builtins_replaced": "import builtins, sys\nbuiltins.input = sys.stdin.readline\ninput()\n"
    "print(sum(map(int, input().split())))",
    "fileinput": "import fileinput\nlines = list(fileinput.input())\nprint(sum(map(int, lines[1].split())))",
    "byte_order_mark": "\ufefffrom __future__ import annotations\n" + SUM,
    "recursion": "def f(n): return 0 if n == 0 else 1 + f(n - 1)\nassert f(49000) == 49000\n" + SUM,
    "threads_one_by_one": "from threading import Thread\nfor _ in range(100):\n"
    " t = Thread(target=int); t.start(); t.join()\n" + SUM,
    "removes_what_it_writes": "import os, tempfile\nfor i in range(40):\n"
    " with tempfile.TemporaryFile() as f: f.write(b'x' * (1 << 20))\n" + SUM,
    "removes_its_files": "import os, shutil\nos.makedirs('a/b')\nopen('a/b/c', 'w').write('x')\nos.rename('a', 'd')\n"
    "shutil.rmtree('d')\nassert os.listdir('.') == []\n" + SUM,
    "fstring_prompt_on_stderr": "import sys\nsys.stderr.write('n? ')\n" + SUM,
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_program_passes(name, patient):
    assert patient.grade_program(TESTS["stdin"], RIGHT[name]).status == "ok"


_SYSCALL = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nr = [{calls}]\nprint(6 if max(r) >= 0 else r)"
# Each prints the right answer only if the attack works, or else must not pass for having printed it.
ATTACKS = {
    "processes": _SYSCALL.format(calls="libc.syscall(435, b'\\0' * 88, 88), libc.fork(), libc.vfork()"),
    "sessions_and_groups": "import os\nfor f in (os.setsid, lambda: os.setpgid(0, 0)):\n try: f(); print(6)\n"
    " except OSError: pass",
    "signal_by_fcntl": "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())\nprint(6)",
    "signals": "import os\nfor pid in (0, -1, 1, os.getppid(), os.getpid()):\n try: os.kill(pid, 0); print(6)\n"
    " except OSError: pass",
    "parent_limits": "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU)\nprint(6)",
    "raise_own_limit": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\nprint(6)",
    "unseen_memory": _SYSCALL.format(
        calls="libc.memfd_create(b'x', 0), libc.shmget(0, 4096, 0o1600), libc.syscall(425, 8, b'\\0' * 120)"
    ),
    "modes_of_files": "import os\nos.chmod('.', 0o777)\nprint(6)",
    "read_host_file": "print(6 if open('/etc/hostname').read() else 0)",
    "list_processes": "import os\nos.listdir('/proc')\nprint(6)",
    "write_outside": "open('/dev/shm/x', 'w').write('x')\nprint(6)",
    "import_ours": "import envs.text_env\nprint(6)",
    "other_packages": "import torch\nprint(6)",
    "right_but_crashes": "print(6)\nimport os\nos.abort()",
    "right_but_exit_code": "print(6)\nexit(3)",
    "right_but_raises": "print(6, flush=True)\nraise ValueError",
    "right_but_too_long": "print(6)\nprint(' ' * (1 << 21))",
    "closed_stdout": "import os\nos.close(1)\nprint(6)",
    "many_files": "import os\nfor i in range(10**6): os.close(os.open(str(i), os.O_CREAT))\nprint(6)",
    "nested_folders": "import os\nwhile True: os.mkdir('d'); os.chdir('d')",
    "thread_bomb": "import threading, time\nthreading.stack_size(32768)\n"
    "while True: threading.Thread(target=time.sleep, args=(99,)).start()",
    "thread_bomb_in_c": "import ctypes, os\nlibc = ctypes.CDLL(None)\nn = 0\nattr = ctypes.create_string_buffer(64)\n"
    "libc.pthread_attr_init(attr); libc.pthread_attr_setstacksize(attr, ctypes.c_size_t(16384))\n"
    "pause, t = ctypes.cast(libc.pause, ctypes.c_void_p), ctypes.c_ulong()\n"
    "while n < 1000 and libc.pthread_create(ctypes.byref(t), attr, pause, None) == 0: n += 1\n"
    "print(6 if n == 1000 else n, flush=True)\nos._exit(0)",
    "threads_with_files_of_their_own": _SYSCALL.format(calls="libc.syscall(56, 0x10b00, 0, 0, 0, 0)"),
    "threads_kept": "import threading, time\nfor _ in range(300):\n"
    " threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\nprint(6)",
    "removed_files": "import os\nkept = []\nfor i in range(3):\n kept.append(os.open('f', os.O_CREAT | os.O_RDWR))\n"
    " os.unlink('f')\n os.write(kept[-1], b'x' * (16 << 20))\nprint(6)",
    "removed_files_by_rename": "import os\nkept = []\nfor i in range(3):\n kept.append(open('f', 'wb', 0))\n"
    " kept[-1].write(b'x' * (16 << 20))\n open('g', 'w').close(); os.rename('g', 'f')\n"
    "print(6, flush=True)\nos._exit(0)",
    "removed_files_of_a_thread": "import os, threading\ndef run():\n kept = []\n for i in range(3):\n"
    "  kept.append(os.open('f', os.O_CREAT | os.O_RDWR)); os.unlink('f'); os.write(kept[-1], b'x' * (16 << 20))\n"
    " print(6, flush=True)\n os._exit(0)\nthreading.Thread(target=run).start()",
    "removed_files_that_are_mapped": "import mmap, os, time\nkept = []\nfor i in range(9):\n"
    " f = os.open('f', os.O_CREAT | os.O_RDWR); os.unlink('f'); os.write(f, b'x' * (16 << 20))\n"
    " kept.append(mmap.mmap(f, 4096)); os.close(f); time.sleep(.1)\nprint(6)",
    "stdin_is_a_folder": "import os\ntry: os.unlink('stdin')\nexcept OSError: pass\nos.mkdir('stdin')\nprint(7)",
    "own_folder_is_strange": "import os\nos.mkdir('a', 0)\nos.mkdir('stdin'); os.mkdir('stdout')\nos.umask(0o777)\n"
    "open('b', 'w')\nprint(7)",
    "streams_are_removed": "import os\nfor d in ('/streams', os.path.dirname(os.getcwd()) + '/streams'):\n"
    " for f in ('stdin', 'stdout'):\n"
    "  for act in (os.unlink, lambda p: os.rename(p, p + 'x'), lambda p: open(p, 'r+'), os.rmdir):\n"
    "   try: act(f'{d}/{f}') and f == 'stdin' and print(6)\n   except OSError: pass\nprint(7)",
    "answers_after_the_cpu_limit": "import os, signal\n"
    "signal.signal(signal.SIGXCPU, lambda *a: (os.write(1, b'6'), os._exit(0)))\nwhile True: pass",
    "blocks_the_cpu_limit": "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n"
    "while time.process_time() < 1.2: pass\nprint(6)",
    "sleeps": "import time\ntime.sleep(99)\nprint(6)",
    "null_byte": "print(6)\0",
    "nested_source": "(" * 100_000,
    "endless_destructor": "class A:\n def __del__(self):\n  while True: pass\na = A()\nprint(6)",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_earns_nothing(name, strict):
    tests = CodeTests("stdin", ("3\n1 2 3\n",), ("6\n",))
    start = time.monotonic()
    grade = strict.grade_program(tests, ATTACKS[name])
    assert grade.status in ("wrong", "timeout")
    assert time.monotonic() - start < STRICT.wall_s + 10
    assert strict.grade_program(tests, SUM).correct


def test_bubblewrap_is_found_wherever_path_has_it(monkeypatch, tmp_path):
    found = shutil.which("bwrap")
    if found is None:
        pytest.skip("there is no bubblewrap")
    (tmp_path / "bwrap").symlink_to(found)
    monkeypatch.setenv("PATH", str(tmp_path))
    bubblewrap = next(backend for backend in BACKENDS if backend.name == "bubblewrap")
    assert bubblewrap.launch(visible_files(()), 1 << 20).command[0] == str(tmp_path / "bwrap")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(OSError, match="no program bwrap in PATH"):
        bubblewrap.launch(visible_files(()), 1 << 20)


def test_the_wall_time_of_a_test_is_some_times_its_cpu_time(backend):
    limits = Limits()
    assert 2 <= limits.wall_s / limits.cpu_s <= 3
    with CodeGrader(replace(PATIENT, wall_s=2.5, cpu_s=1), backends=[backend]) as grader:
        tests = CodeTests("stdin", ("",), ("1",), time_limit_s=1.0)
        assert grader.grade_program(tests, "import time; time.sleep(1.5); print(1)").status == "ok"
        assert grader.grade_program(tests, "import time; time.sleep(9); print(1)").status == "timeout"


def test_packages_are_imported_before_a_program_that_wants_them_runs(patient):
    program = "import sys\nprint('numpy' in sys.modules)\nimport numpy"
    assert patient.grade_program(CodeTests("stdin", ("",), ("True",)), program).correct
    plain = "import sys\nprint('num' + 'py' in sys.modules)"
    assert patient.grade_program(CodeTests("stdin", ("",), ("False",)), plain).correct


def test_program_changes_nothing_for_the_next_one(strict):
    poison = "import builtins, json, os, sys\nbuiltins.print = lambda *a: os.write(1, b'6')\nsys.modules['math'] = None"
    assert strict.grade_program(CodeTests("stdin", ("",), ("6",)), poison + "\nprint()").correct
    clean = "import math\nprint(math.comb(4, 2) + 1)"
    assert strict.grade_program(CodeTests("stdin", ("",), ("7",)), clean).correct


def test_nothing_of_a_program_is_in_the_memory_of_the_next(strict):
    heap_holds_mark = (
        "import ctypes\nsbrk = ctypes.CDLL(None).sbrk\nsbrk.restype, size = ctypes.c_void_p, 1 << 21\n"
        "heap = ctypes.string_at(sbrk(0) - size, size)\nprint(b'DEESDAB' in heap[::-1])"
    )
    assert strict.grade_program(CodeTests("stdin", ("BADSEED" * 1000,), ("True",)), heap_holds_mark).correct
    assert strict.grade_program(CodeTests("stdin", ("",), ("False",)), heap_holds_mark).correct


# --- processes, files and memory


def test_many_programs_leave_no_process_no_file_and_no_memory(backend, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kinds = [
        (CodeTests("stdin", ("2\n3 4\n",), ("7\n",)), SUM),
        (CodeTests("call", ("[[3, 4]]",), ("7",), fn_name="add"), "add = sum"),
        (CodeTests("assert", check="assert add([3, 4]) == 7", fn_name="add"), "add = sum"),
    ]
    with CodeGrader(PATIENT, backends=[backend]) as grader:

        def grade_some(count):
            for number in range(count):
                assert grader.grade_program(*kinds[number % len(kinds)]).status == "ok"
            gc.collect()
            group = grader._sandbox.pid
            num_fds = len(os.listdir("/proc/self/fd"))
            num_idle = idle_members(group, IDLE_PROCESSES[backend.name])
            return num_idle, num_fds, list(tmp_path.rglob("*/*")), resident_bytes(os.getpid())

        *before, memory_before = grade_some(10)
        *after, memory_after = grade_some(190)
        assert after == before
        assert memory_after - memory_before < 8 << 20
    assert list(tmp_path.iterdir()) == []


def test_a_sandbox_that_is_killed_is_replaced_and_the_program_graded_again(backend):
    tests = CodeTests("stdin", ("",), ("done",))
    with CodeGrader(PATIENT, backends=[backend]) as grader:
        grader.grade_program(tests, "")
        first = grader._sandbox.pid
        killer = threading.Timer(0.5, os.killpg, (first, 9))
        killer.start()
        assert grader.grade_program(tests, "import time; time.sleep(1.5); print('done')").status == "ok"
        killer.join()
        assert grader._sandbox.pid != first
        assert idle_members(first, 0) == 0


def test_a_sandbox_that_is_always_killed_is_never_called_a_wrong_answer(backend):
    with CodeGrader(PATIENT, backends=[backend]) as grader:
        over = threading.Event()

        def kill_all():
            while not over.wait(0.02):
                with suppress(ProcessLookupError):
                    for pid in members(grader._sandbox.pid or -1):
                        os.kill(pid, 9)

        killer = threading.Thread(target=kill_all)
        killer.start()
        grade = grader.grade_program(CodeTests("stdin", ("",), ("",)), "import time; time.sleep(5)")
        over.set()
        killer.join()
        assert (grade.reward, grade.correct, grade.status) == (0.0, False, "sandbox_error")


def test_grader_is_pickled_without_its_processes(backend):
    with CodeGrader(PATIENT, packages=(), backends=[backend]) as grader:
        grader.grade_program(TESTS["stdin"], SUM)
        with pickle.loads(pickle.dumps(grader)) as clone:
            assert (clone.limits, clone.packages, clone.backends) == (PATIENT, (), (backend,))
            assert clone._sandbox.pid is None
            assert clone.grade_program(TESTS["stdin"], SUM).correct
            assert clone._sandbox.pid != grader._sandbox.pid


def test_threads_share_a_grader(strict):
    grades = {}

    def grade(number):
        tests = CodeTests("stdin", ("",), (str(number),))
        grades[number] = strict.grade_program(tests, f"print({number})").status

    threads = [threading.Thread(target=grade, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert grades == dict.fromkeys(range(8), "ok")


def test_a_grader_that_is_dropped_ends_its_sandbox(backend):
    grader = CodeGrader(PATIENT, backends=[backend])
    grader.grade_program(TESTS["stdin"], SUM)
    group = grader._sandbox.pid
    del grader
    gc.collect()
    assert idle_members(group, 0) == 0


def test_nothing_outlives_a_grader_that_is_killed(backend, tmp_path):
    code = f"""if True:
        from envs.grading.answers import CodeTests
        from envs.grading.code.grader import CodeGrader
        from envs.grading.sandbox.backends import BACKENDS
        grader = CodeGrader(backends=[b for b in BACKENDS if b.name == {backend.name!r}])
        tests = CodeTests("stdin", ("",), ("",))
        grader.grade_program(tests, "")
        print(grader._sandbox.pid, flush=True)
        grader.grade_program(tests, "open('file', 'w'); import time; time.sleep(99)")
    """
    root = Path(__file__).resolve().parents[3]
    environ = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(root)}
    with subprocess.Popen([sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE) as grader:
        group = int(grader.stdout.readline())
        time.sleep(0.3)
        assert len(members(group)) > IDLE_PROCESSES[backend.name]
        grader.kill()
    assert idle_members(group, 0) == 0
    assert list(tmp_path.iterdir()) == []


# --- the refusal to run unprotected


def test_refuses_when_nothing_can_confine_programs_and_says_what_is_missing():
    def no_program(files, scratch_bytes):
        return Launch(["/nonexistent/bwrap"], "/scratch", "/streams")

    def no_kernel(files, scratch_bytes):
        raise OSError("the kernel has Landlock version 0, and 3 is needed")

    backends = [Backend("bubblewrap", no_program, "install it"), Backend("landlock", no_kernel, "get a newer kernel")]
    with pytest.raises(RuntimeError, match="none is run") as refusal:
        CodeGrader(backends=backends)
    message = str(refusal.value)
    assert "bubblewrap: the sandbox did not start" in message and "/nonexistent/bwrap" in message
    assert "install it" in message
    assert "landlock: the kernel has Landlock version 0, and 3 is needed; get a newer kernel" in message


def test_refuses_when_the_sandbox_starts_but_cannot_confine(tmp_path):
    def unconfinable(files, scratch_bytes):
        rules = {"readable": [], "listable": [], "devices": [], "scratch": str(tmp_path / "nonexistent")}
        return Launch(files.command, str(tmp_path), str(tmp_path), rules)

    with pytest.raises(RuntimeError, match=r"(?s)none is run.*broken: the sandbox did not start.*nonexistent"):
        CodeGrader(backends=[Backend("broken", unconfinable, "")])


def test_the_first_backend_that_works_is_taken(backend):
    broken = Backend("broken", lambda files, scratch_bytes: Launch(["false"], "/scratch", "/streams"), "")
    assert working_backend((broken, backend)) == backend


def test_missing_package_is_named():
    with pytest.raises(ValueError, match="packages: 'no_such_package' is not installed"):
        CodeGrader(packages=["numpy", "no_such_package"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("wall_s", 0),
        ("cpu_s", -1.0),
        ("total_s", float("inf")),
        ("wall_s", float("nan")),
        ("memory_mb", 255),
        ("memory_mb", 512.5),
        ("output_bytes", 0),
        ("scratch_mb", 300),
        ("program_bytes", 0),
    ],
)
def test_limits_name_what_is_out_of_range(field, value):
    with pytest.raises(ValueError, match=f"{field}={value}"):
        Limits(**{field: value})
