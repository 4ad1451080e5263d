"""Progress for people: a bar on a terminal or in a notebook, nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int], None]


@contextmanager
def bar(label: str, total: int | None, *, wanted: bool) -> Iterator[Advance]:
    """Show a bar for the duration of the block; what it yields moves it on. `total` None = unknown."""
    if not wanted:
        yield lambda _: None
        return
    from rich import progress  # noqa: PLC0415 - 100 ms that only a watched wait pays
    from rich.console import Console  # noqa: PLC0415

    console = Console(stderr=True)
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
    )
    disabled = not (console.is_terminal or console.is_jupyter)
    with progress.Progress(*columns, console=console, disable=disabled) as shown:
        task = shown.add_task(label, total=total)
        yield lambda count: shown.advance(task, count)
