"""A progress bar for long transfers: on stderr, and only where somebody watches."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

#: Below this a bar would only flicker.
WORTH_BYTES = 1024 * 1024


def watched() -> bool:
    """Tell whether stderr is a terminal that can redraw a line."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class Progress:
    """One bar over bytes; silent when nobody watches or the work is small."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    @contextmanager
    def of(self, total: int | None) -> Iterator[None]:
        """Show the bar for the duration of the block; `total` None = unknown."""
        if not watched() or (total is not None and total < WORTH_BYTES):
            yield
            return
        from rich import progress  # noqa: PLC0415 - 100 ms that only a watched transfer pays
        from rich.console import Console  # noqa: PLC0415

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn(binary_units=True),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            self._bar, self._task = bar, bar.add_task(self._label, total=total)
            try:
                yield
            finally:
                self._bar, self._task = None, None

    def advance(self, size: int) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, size)
