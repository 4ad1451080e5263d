"""`penstock invocation`: one function's work on one input, and all of its story."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import click

from gateway.cli import formats, session
from gateway.cli.options import group, subcommand
from gateway.cli.streams import write_out
from penstock.clock import now_ms

if TYPE_CHECKING:
    from penstock.answers import Invocation
    from penstock.client import Client

PHASES = (
    *("queued", "planned", "submitted", "running"),
    *("succeeded", "failed", "dead", "cancelled", "superseded", "skipped"),
)
PAGE = 1000

invocation = group("invocation", "List, show and cancel invocations, read their logs.")


@subcommand(
    invocation,
    """
    penstock invocation ls
    penstock invocation ls --function digits-classify --phase failed --since 1h
    penstock invocation ls --prefix digits/in/2026 --all --output json
    """,
)
@click.option("--function", default="", metavar="NAME", help="Only this function's.")
@click.option("--phase", type=click.Choice(PHASES), help="Only those in this phase.")
@click.option("--since", metavar="WHEN", help="Only those queued since: 10m, 2h, 3d, or a date.")
@click.option("--prefix", default="", metavar="BUCKET/PREFIX", help="Only inputs whose bucket and key start so.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@click.option("--all", "everything", is_flag=True, help="All of them, however many.")
@click.option("--oldest", is_flag=True, help="Oldest first instead of newest first.")
def ls(
    *, function: str, phase: str | None, since: str | None, prefix: str, limit: int, everything: bool, oldest: bool
) -> None:
    """List invocations, newest first."""
    now = now_ms()
    since_ms = formats.since_ms(since, now) if since else 0

    async def work(client: Client) -> tuple[list[Invocation], str]:
        found: list[Invocation] = []
        page = ""
        while True:
            wanted = PAGE if everything else min(PAGE, limit - len(found))
            answer = await client.invocations(
                function=function,
                phase=phase or "",
                since_ms=since_ms,
                prefix=prefix,
                limit=wanted,
                page=page,
                oldest=oldest,
            )
            found += answer.invocations
            if function and not answer.invocations:
                await client.function(function)  # a misspelt name must not look like a function without history
            page = answer.next
            if not page or (not everything and len(found) >= limit):
                return found, page

    found, more = session.call_function(function, work) if function else session.call(work)
    session.show({"invocations": found, "next": more}, lambda: listed(found, now))
    if more:
        session.note(f"There are more than {len(found)}: --all lists them, --limit sets how many.")


@subcommand(
    invocation,
    """
    penstock invocation show 3f9c2b7d01aa
    penstock invocation show 3f9c2b7d01aa --output json
    """,
)
@click.argument("name", metavar="ID")
def show(name: str) -> None:
    """Show one invocation: its timeline with the time between the steps, its outputs, why it failed."""
    found = session.call(lambda client: client.invocation(name))
    session.show(found, lambda: described(found))


@subcommand(
    invocation,
    """
    penstock invocation logs 3f9c2b7d01aa
    penstock invocation logs -f 3f9c2b7d01aa
    penstock invocation logs 3f9c2b7d01aa --attempt 1
    """,
)
@click.argument("name", metavar="ID")
@click.option("-f", "follow", is_flag=True, help="Go on until the attempt ends.")
@click.option("--attempt", type=click.IntRange(min=1), metavar="N", help="Of this attempt (default: the latest).")
def logs(name: str, follow: bool, attempt: int | None) -> None:
    """Print what the script printed, exactly as it did."""

    async def work(client: Client) -> None:
        async for chunk in client.log(name, attempt=attempt, follow=follow):
            write_out(chunk)

    session.call(work)


@subcommand(
    invocation,
    """
    penstock invocation cancel 3f9c2b7d01aa
    penstock invocation cancel 3f9c2b7d01aa 77b0c1d2e3f4
    """,
)
@click.argument("names", nargs=-1, required=True, metavar="ID...")
def cancel(names: tuple[str, ...]) -> None:
    """End invocations: a queued one never starts, a running one is killed with all its processes."""

    async def work(client: Client) -> None:
        for name in names:
            await client.cancel(name)
            if not session.options().json:
                session.emit(f"{formats.short(name)} is being cancelled")

    session.call(work)
    if session.options().json:
        session.show({"invocations": [{"id": name, "action": "cancel"} for name in names]}, str)


def listed(found: list[Invocation], now: int) -> str:
    """Return invocations as a table."""
    if not found:
        return "No invocations."
    rows = [
        (
            formats.short(one.id),
            one.function,
            one.phase,
            str(one.attempt),
            formats.age(one.queued_ms, now),
            took(one, now),
            formats.clip(one.input, 60),
            formats.clip(one.reason, 60),
        )
        for one in found
    ]
    return formats.table(("ID", "FUNCTION", "PHASE", "TRY", "AGE", "RAN", "INPUT", "REASON"), rows, right=(3, 4, 5))


def took(one: Invocation, now: int) -> str:
    """Return how long the last attempt ran, or runs already."""
    if not one.started_ms or one.phase in {"queued", "planned"}:
        return "-"
    return formats.duration((one.finished_ms or now) - one.started_ms)


def described(one: Invocation) -> str:
    """Return one invocation as people read it."""
    lines = [
        f"Invocation  {one.id}",
        f"Function    {one.function}",
        f"Input       {formats.printable(one.input)} ({formats.size(one.size)})",
        f"Phase       {one.phase}" + (f", exit code {one.exit_code}" if one.exit_code is not None else ""),
    ]
    if one.attempt > 1:
        lines.append(f"Attempt     {one.attempt}")
    if one.reason:
        lines.append(f"Reason      {formats.printable(one.reason)}")
    if one.job:
        lines.append(f"Job         {one.job}")
    lines += [
        f"Output      {formats.printable(f'{output.bucket}/{output.key}')} ({formats.size(output.size)})"
        for output in one.outputs
    ]
    if one.log_bytes:
        cut = ", cut off" if one.log_truncated else ""
        lines.append(
            f"Log         {formats.size(one.log_bytes)}{cut} ('penstock invocation logs {formats.short(one.id)}')"
        )
    if one.timeline:
        lines += ["", timeline(one)]
    return "\n".join(lines)


def timeline(one: Invocation) -> str:
    """Return the steps of an invocation with the time since the one before, and the whole at the end."""
    steps = one.timeline
    since = [0, *(after.time_ms - before.time_ms for before, after in pairwise(steps))]
    rows = [
        (step.phase, _clock(step.time_ms), f"+{formats.duration(after)}" if index else "", str(step.attempt), step.note)
        for index, (step, after) in enumerate(zip(steps, since, strict=True))
    ]
    drawn = formats.table(("STEP", "TIME", "AFTER", "TRY", "NOTE"), rows, right=(2, 3))
    whole = formats.duration(steps[-1].time_ms - steps[0].time_ms)
    return f"{drawn}\n{'whole time' if one.final else 'so far'}: {whole}"


def _clock(moment_ms: int) -> str:
    from datetime import datetime  # noqa: PLC0415 - only shown here

    return datetime.fromtimestamp(moment_ms / 1000).astimezone().strftime("%H:%M:%S.%f")[:-3]


def outcome(one: Invocation) -> str:
    """Return in one line how an invocation ended."""
    ran = formats.duration(one.finished_ms - one.started_ms) if one.started_ms and one.finished_ms else ""
    outputs = ", ".join(f"{output.bucket}/{output.key}" for output in one.outputs)
    parts = [f"{formats.short(one.id)} {one.phase}", f"in {ran}" if ran else "", f"-> {outputs}" if outputs else ""]
    return formats.printable(" ".join(filter(None, parts)) + (f": {one.reason}" if one.reason else ""))


async def wait_for(client: Client, identity: str) -> Invocation:
    """Return an invocation once it is final.

    The feed of changes is opened before the first look, so that an end between the two is seen; after a gap it looks
    again.
    """
    from penstock.errors import Unavailable  # noqa: PLC0415 - beside its only use

    async with client.changes() as changes:
        found = await _find(client, identity)
        if found is not None and found.final:
            return found
        async for change in changes:
            if change.invocation is None:
                found = await _find(client, identity)
                if found is not None and found.final:
                    return found
            elif change.invocation.id == identity and change.invocation.final:
                return await client.invocation(identity)
    raise Unavailable(f"the server stopped while invocation {formats.short(identity)} was waited for: the work goes on")


async def _find(client: Client, identity: str) -> Invocation | None:
    """Return an invocation, or None when its submission has been accepted and not been routed yet."""
    from penstock.errors import NotFound  # noqa: PLC0415 - beside its only use

    try:
        return await client.invocation(identity)
    except NotFound:
        return None
