"""What the bed says when it cannot do its work: one sentence, and where a program failed the tail of its log.

`MissingPart` is apart from `BedError` because the two mean different things to a test: a part that this machine cannot
have is a reason to skip with one line, a part that does not come up is a failure.
"""

from __future__ import annotations

from pathlib import Path


class BedError(Exception):
    """The test bed could not do what was asked."""


class MissingPart(BedError):
    """This machine lacks something that a part needs; the message says how to get it."""


def log_tail(log: Path, lines: int = 25) -> str:
    """The last lines of a log, ready to be put under an error's sentence."""
    if not log.exists():
        return f"(no log at {log})"
    with log.open("rb") as stream:
        stream.seek(0, 2)
        # Enough for the asked lines at any sane width, however large the log has become.
        stream.seek(max(0, stream.tell() - lines * 2000))
        text = stream.read().decode(errors="replace")
    tail = text.splitlines()[-lines:]
    return f"--- last lines of {log}\n" + "\n".join(line[:1000] for line in tail)
