"""What the launcher says, read as what it is: bytes from the user's own container, which user code can write too. Pure.

A word that is none is dropped, and memory is bounded whatever is written; the worst that a forged word does is to end
the items of the Job that forged it.
"""

from __future__ import annotations

import msgspec

#: No word of the launcher is longer.
LONGEST_BYTES = 256
#: What may lie in a FIFO between two reads.
READ_BYTES = 65536
_REASONS: tuple[list[bytes], ...] = ([], [b"oom"], [b"term"], [b"oom", b"term"])


class Hello(msgspec.Struct, frozen=True):
    """The launcher is there and waits for its first item."""


class Exit(msgspec.Struct, frozen=True):
    """An item has ended. `oom` = processes were killed for lack of memory while it ran; `term` = its container was told
    to end before that, so a failure may not be the script's.
    """

    index: int
    code: int
    oom: bool = False
    term: bool = False


Word = Hello | Exit


def parse(line: bytes) -> Word | None:
    """One line; None = no word of ours."""
    parts = line.split()
    if parts == [b"hello"]:
        return Hello()
    if len(parts) >= 3 and parts[0] == b"exit" and parts[3:] in _REASONS:
        index, code = _number(parts[1], 10**7), _number(parts[2], 256)
        if index is not None and code is not None:
            return Exit(index, code, oom=b"oom" in parts, term=b"term" in parts)
    return None


def _number(text: bytes, limit: int) -> int | None:
    if not text.isdigit() or len(text) > 8:
        return None
    number = int(text)
    return number if number < limit else None


class Lines:
    """Cuts a stream into lines. Of a line that is too long only the end is kept, which makes it no word."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()[-LONGEST_BYTES:]
        return [line for line in lines if line and len(line) <= LONGEST_BYTES]
