"""`penstock watch`: every change of phase as it happens; a live table for people, a line per change for pipes."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from typing import TYPE_CHECKING

import click

from gateway.cli import formats, session
from gateway.cli.commands import status as status_command
from gateway.cli.commands.invocation import took
from gateway.cli.options import command
from penstock.clock import now_ms

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rich.console import Group

    from penstock.answers import Change, Invocation, Status
    from penstock.client import Client

RECENT = 12
#: Redraws per second: faster than the eye needs, slow enough to cost nothing.
FRAMES = 4
COLOURS = {"succeeded": "green", "failed": "red", "dead": "red", "running": "cyan", "cancelled": "yellow"}


@command(
    """
    penstock watch
    penstock watch --function digits-classify
    penstock watch --output json
    """
)
@click.option("--function", default="", metavar="NAME", help="Only this function's changes.")
def watch(function: str) -> None:
    """Follow changes until Ctrl-C: a live table on a terminal, one line per change into a pipe.

    With --output json each change is one JSON document on a line of its own.
    """
    live = sys.stdout.isatty() and not _dumb() and not session.options().json

    async def work(client: Client) -> None:
        if function:
            await client.function(function)  # a misspelt name would otherwise wait forever
        async with client.changes() as changes:
            await (_live(client, changes, function) if live else _lines(changes, function))

    if function:
        session.call_function(function, work)
    else:
        session.call(work)
    session.note("The server stopped.")


def _dumb() -> bool:
    import os  # noqa: PLC0415 - beside its only use

    return os.environ.get("TERM", "dumb") == "dumb"


async def _lines(changes: AsyncIterator[Change], function: str) -> None:
    as_json = session.options().json
    async for change in changes:
        one = change.invocation
        if one is None:
            session.note(
                "Some changes were missed, since this command read too slowly: 'penstock status' has the state."
            )
        elif not function or one.function == function:
            session.emit(document(one) if as_json else line(one))


def document(one: Invocation) -> str:
    """Return one change as one line of JSON."""
    from penstock.client_wire import encoded  # noqa: PLC0415 - loaded anyway by then, and help must not pay for it

    return encoded(one).decode()


def line(one: Invocation) -> str:
    """Return one change as one line of text."""
    reason = f"  {formats.clip(one.reason, 80)}" if one.reason else ""
    text = f"{formats.short(one.id)}  {one.function}  {one.phase:<10}  {one.input}{reason}"
    return formats.printable(text)


async def _live(client: Client, changes: AsyncIterator[Change], function: str) -> None:
    from rich.live import Live  # noqa: PLC0415 - 100 ms that only a terminal pays

    recent: deque[Invocation] = deque(maxlen=RECENT)

    async def collect() -> None:
        async for change in changes:
            one = change.invocation
            if one is not None and (not function or one.function == function):
                recent.appendleft(one)

    collecting = asyncio.create_task(collect(), name="changes")
    try:
        with Live(auto_refresh=False, screen=False) as live:
            while not collecting.done():
                live.update(drawn(await client.status(), tuple(recent), now_ms(), function), refresh=True)
                await asyncio.wait({collecting}, timeout=1 / FRAMES)
        collecting.result()
    finally:
        collecting.cancel()
        await asyncio.gather(collecting, return_exceptions=True)


def drawn(status: Status, recent: tuple[Invocation, ...], now: int, function: str = "") -> Group:
    """Return the picture: counts per function above, the latest changes below."""
    from rich.console import Group  # noqa: PLC0415 - as in `_live`
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    counts = Table(title=f"Penstock {status.version}: {status.backlog} queued", title_justify="left", box=None)
    for index, name in enumerate(status_command.HEAD):
        counts.add_column(name, justify="right" if 0 < index < len(status_command.HEAD) - 1 else "left")
    for one in status.functions:
        if not function or one.name == function:
            counts.add_row(*(Text(formats.printable(cell)) for cell in status_command.row(one)))
    latest = Table(title="Latest changes", title_justify="left", box=None)
    for name in ("ID", "FUNCTION", "PHASE", "RAN", "INPUT"):
        # In a narrow terminal only the input is clipped: an id must stay whole, since it is what is copied.
        latest.add_column(name, no_wrap=name != "INPUT")
    for change in recent:
        phase = Text(change.phase, style=COLOURS.get(change.phase, ""))
        key = Text(formats.printable(formats.clip(change.input, 60)), no_wrap=True, overflow="ellipsis")
        latest.add_row(formats.short(change.id), change.function, phase, took(change, now), key)
    return Group(counts, "", latest)
