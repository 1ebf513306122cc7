"""In the sandbox: the kernel asks before a program starts a thread or exits with code 0; the supervisor answers.

The kernel's limit on threads counts those of a user, not of a program, and does not apply to root.
"""

import errno
import fcntl
import struct
from collections.abc import Callable

_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_QUESTION = struct.Struct("QIIi60x")  # id, thread, flags, system call; the arguments of the call follow
_ANSWER = struct.Struct("QqiI")
_CONTINUE = 1


class Gate:
    """The supervisor's end, for one run of one program.

    Args:
        listener: the descriptor on which the kernel asks.
        clone: the number of the system call that starts threads.
        max_threads: the number of threads that are allowed.
        may_end: whether a process may exit with code 0 now.
    """

    def __init__(self, listener: int, clone: int, max_threads: int, may_end: Callable[[], bool]):
        self.listener = listener
        self._clone = clone
        self._threads_left = max_threads
        self._may_end = may_end
        self._may_go_on = True

    def answer(self) -> bool:
        """Answer one question, and tell whether the program may continue.

        If there are too many threads, the new one does not start, and the program continues. A program that may not end
        with code 0 does not continue.
        """
        question = bytearray(_QUESTION.size)
        if not self._transfer(_RECEIVE, question):
            return True
        number, _, _, call = _QUESTION.unpack(question)
        if call == self._clone:
            self._threads_left -= 1
            allowed = self._threads_left >= 0
        else:
            allowed = self._may_end()
            self._may_go_on = allowed
        self._transfer(_SEND, bytearray(_ANSWER.pack(number, 0, *((0, _CONTINUE) if allowed else (-errno.EAGAIN, 0)))))
        return self._may_go_on

    def _transfer(self, request: int, message: bytearray) -> bool:
        try:
            fcntl.ioctl(self.listener, request, message)
        except OSError as error:
            if error.errno != errno.ENOENT:  # the thread that asked was killed in the meantime
                raise
            return False
        return True
