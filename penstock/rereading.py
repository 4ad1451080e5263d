"""Values that lie in files and may change while the process runs: keys, passwords and tokens of a mounted Secret.

A mounted Secret changes by renaming a folder, so the files' times and numbers tell, and reading costs a `stat`. Between
two versions a file may be missing for a moment: what was last known counts then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


class Reread(Generic[T]):
    """Call it for the value: `read` is called again when one of the files has changed."""

    def __init__(self, files: Sequence[Path], read: Callable[[], T]) -> None:
        """Reads at once. Raises OSError, and whatever `read` raises."""
        self._files = files
        self._read = read
        self._stamp = self._stamp_now()
        self._known = read()

    def __call__(self) -> T:
        """Raises what `read` raises, except for OSError."""
        try:
            stamp = self._stamp_now()
            if stamp != self._stamp:
                self._known, self._stamp = self._read(), stamp
        except OSError:
            pass  # between two versions
        return self._known

    def _stamp_now(self) -> tuple[int, ...]:
        states = [file.stat() for file in self._files]
        return tuple(number for state in states for number in (state.st_mtime_ns, state.st_ino, state.st_size))
