"""What the two sidecars tell each other, over a socket that user code does not see.

`input` tells what became of each item's staging; `output` tells whose turn it is. The end of the socket without a
parting word is how each of them learns at once that the other one has crashed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time

import msgspec

from penstock.model import ErrorClass

_CONNECT_PAUSE_S = 0.005


class Staged(msgspec.Struct, frozen=True, kw_only=True, tag="staged"):
    """An item's input and variables are there."""

    index: int
    hops: int
    staged_ms: int
    #: The body was plain data, so a synchronous answer is made from the output files.
    raw: bool = False


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """An item cannot run."""

    index: int
    error: ErrorClass
    message: str
    exit_code: int | None = None


class Greeted(msgspec.Struct, frozen=True, tag="greeted"):
    """The launcher is there, so `input` need not hold its FIFOs open any more."""


class Turn(msgspec.Struct, frozen=True, tag="turn"):
    """It is this item's turn; those before it need no staging any more."""

    index: int


class Over(msgspec.Struct, frozen=True, tag="over"):
    """Everything is published, or nothing will be."""

    code: int = 0


FromInput = Staged | Refused
FromOutput = Greeted | Turn | Over
_encode = msgspec.json.Encoder().encode


class Link:
    """One end. `ended` = the other end is gone."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rest = b""
        self.ended = False

    def fileno(self) -> int:
        return self._connection.fileno()

    def say(self, message: FromInput | FromOutput) -> None:
        """What nobody hears any more is lost."""
        with contextlib.suppress(OSError):
            self._connection.sendall(_encode(message) + b"\n")

    def lines(self) -> list[bytes]:
        """The messages that have come; does not wait."""
        try:
            while not self.ended:
                data = self._connection.recv(65536, socket.MSG_DONTWAIT)
                self.ended = not data
                self._rest += data
        except BlockingIOError:
            pass
        except OSError:
            self.ended = True
        lines = self._rest.split(b"\n")
        self._rest = lines.pop()
        return lines

    def close(self) -> None:
        self._connection.close()


def listen(path: str) -> socket.socket:
    """Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - pathlib is not imported here
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(1)
    return listener


def connect(path: str, wait_s: float) -> Link:
    """Raises TimeoutError: nobody listens."""
    until = time.monotonic() + wait_s
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            connection.close()
            if time.monotonic() > until:
                raise TimeoutError(f"the container `input` does not answer at {path}") from error
            time.sleep(_CONNECT_PAUSE_S)
        else:
            return Link(connection)
