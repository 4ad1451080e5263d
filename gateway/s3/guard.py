"""Becomes a program that cannot outlive the process that started it: `python -I -S guard.py PARENT FD PROGRAM ARGS...`.

Run as a script of its own, between fork and the program, because code that runs in the child of a process with threads
may wait forever for a lock that some other thread held. The kernel is asked to kill this process when its parent dies,
however that dies; then the listening socket FD is handed over as service managers do (descriptor 3, `LISTEN_FDS`), so
that the port stays open while the program is started again. Standard library alone, to start in a few milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_HANDED_OVER = 3


def main(arguments: list[str]) -> None:
    """Never returns: the process becomes the program, or ends."""
    parent, descriptor, *command = arguments
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != int(parent):
            os._exit(1)  # it died before the kernel was asked
    if int(descriptor) != _HANDED_OVER:
        os.dup2(int(descriptor), _HANDED_OVER)
        os.close(int(descriptor))
    os.set_inheritable(_HANDED_OVER, True)
    environment = {**os.environ, "LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
    os.execve(command[0], command, environment)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
