"""In the sandbox: the standard input and output of programs, as files outside of the programs' folder.

They have names, so that a program can open /dev/stdin and /dev/stdout. The folder of these names is read-only, so a
program can neither remove nor replace them.
"""

import os

_STDIN, _STDOUT = "stdin", "stdout"


class Streams:
    """The files in `folder`; they are made once, before any program runs."""

    def __init__(self, folder: str):
        self._folder = folder
        self._stdin_path = os.path.join(folder, _STDIN)
        self._stdout_path = os.path.join(folder, _STDOUT)
        # The mode applies to programs, which have no capabilities; this descriptor can still write.
        self._stdin = os.open(self._stdin_path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        os.mkfifo(self._stdout_path, 0o600)
        os.chmod(folder, 0o555)

    def make_removable(self) -> None:
        """Allow the removal of the files, when no more program will run."""
        os.chmod(self._folder, 0o700)

    def open_input(self, text: bytes) -> int:
        """Return a descriptor that reads this text."""
        os.ftruncate(self._stdin, 0)
        written = 0
        while written < len(text):
            written += os.pwrite(self._stdin, text[written : written + (1 << 24)], written)
        return os.open(self._stdin_path, os.O_RDONLY)

    def clear_input(self) -> None:
        """Forget the text."""
        os.ftruncate(self._stdin, 0)

    def open_output(self) -> tuple[int, int]:
        """Return the two ends of the standard output, the reading one first."""
        reader = os.open(self._stdout_path, os.O_RDONLY | os.O_NONBLOCK)
        return reader, os.open(self._stdout_path, os.O_WRONLY)
