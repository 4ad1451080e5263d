"""Ports and address ranges that no other bed on this machine takes at the same time.

Asking the kernel for "any free port" and closing it again is a race between two test runs. Here a port belongs to
whoever holds the lock on its file, from before the first server is configured until the bed closes; the kernel drops
the lock with the process, so nothing is left behind after SIGKILL. The range lies below the kernel's own ephemeral
ports, which an outgoing connection may take at any moment.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
from pathlib import Path

from tests.testbed.errors import BedError
from tests.testbed.paths import shared_folder

FIRST_PORT, LAST_PORT = 20_000, 31_999
SLOTS = 100


def _try_lock(path: Path) -> int | None:
    """The descriptor that holds the lock, or None when somebody else does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                # Every address, so that a server of somebody else on a bridge counts as well.
                probe.bind(("", port))
            except OSError:
                return False
    return True


class Reservations:
    """The ports and the slot of one bed; closing gives them back."""

    def __init__(self) -> None:
        self._held: list[int] = []
        # Not the run's own seed: two runs started with the same seed must not walk the same way.
        self._random = random.SystemRandom()

    def port(self) -> int:
        """A port that is free now and stays ours until `close`."""
        for _ in range(2000):
            port = self._random.randint(FIRST_PORT, LAST_PORT)
            descriptor = _try_lock(shared_folder() / "ports" / str(port))
            if descriptor is None:
                continue
            if _is_free(port):
                self._held.append(descriptor)
                return port
            os.close(descriptor)
        raise BedError(f"No free port was found between {FIRST_PORT} and {LAST_PORT}.")

    def slot(self, taken: frozenset[int] = frozenset()) -> int:
        """A small number that no other bed has; names and address ranges are made from it."""
        for number in range(SLOTS):
            descriptor = None if number in taken else _try_lock(shared_folder() / "slots" / str(number))
            if descriptor is not None:
                self._held.append(descriptor)
                return number
        raise BedError(f"All {SLOTS} address ranges for test beds are taken on this machine.")

    def close(self) -> None:
        """Give everything back."""
        while self._held:
            os.close(self._held.pop())
