"""Values that lie in files and may change while the process runs: keys, passwords and tokens of a mounted Secret.

A mounted Secret changes by renaming a folder, so the files' times and numbers tell, and reading costs a `stat`. Between
two versions a file may be missing for a moment: what was last known counts then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from penstock.errors import InvalidInput

T = TypeVar("T")


class NotText(InvalidInput):
    """A file is not what it should be, UTF-8 text."""


def text_of(file: Path) -> str:
    """The text of a small file, a secret as a rule, without the space around it. Raises OSError, NotText."""
    data = file.read_bytes()
    try:
        return data.decode("utf-8").strip()
    except UnicodeDecodeError:
        pass  # it holds the bytes, so it is not kept as a cause
    raise NotText("is not UTF-8 text; write the word into it again as plain text", where=str(file))


class Reread(Generic[T]):
    """Call it for the value: `read` is called again when one of the files has changed."""

    def __init__(self, files: Sequence[Path], read: Callable[[], T]) -> None:
        """Reads at once. Raises OSError, and whatever `read` raises."""
        self._files = files
        self._read = read
        self._stamp = self._stamp_now()
        self._known = read()

    def __call__(self) -> T:
        """Raises what `read` raises, except for OSError and NotText."""
        try:
            stamp = self._stamp_now()
            if stamp != self._stamp:
                self._known, self._stamp = self._read(), stamp
        except (OSError, NotText):
            pass  # between two versions, or half a one
        return self._known

    def _stamp_now(self) -> tuple[int, ...]:
        states = [file.stat() for file in self._files]
        return tuple(number for state in states for number in (state.st_mtime_ns, state.st_ino, state.st_size))
