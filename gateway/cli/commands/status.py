"""`penstock status`: what the server does, what waits and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.cli import formats, session
from gateway.cli.options import command

if TYPE_CHECKING:
    from penstock.answers import FunctionCounts, Status

HEAD = ("FUNCTION", "QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "DEAD", "OTHER", "LIMIT", "WAITS FOR")


@command(
    """
    penstock status
    penstock status --output json
    """
)
def status() -> None:
    """Show the counts of every function, the use of the machine, and why the next item waits."""
    found = session.call(lambda client: client.status())
    session.show(found, lambda: described(found))


def described(found: Status) -> str:
    """Return the status as people read it."""
    used, total = found.slots.cpu_millis_used, found.slots.cpu_millis_total
    lines = [
        f"Penstock {found.version}, up {formats.duration(found.uptime_s * 1000)}, data in {found.data}",
        f"CPU {used / 1000:g} of {total / 1000:g} in use, {found.backlog} queued, {found.events_pending} events unread",
        "",
        formats.table(HEAD, [row(one) for one in found.functions], right=range(1, 8))
        if found.functions
        else "No functions yet: deploy one with 'penstock apply FILE'.",
    ]
    gains = [f"{one.name}: {hint}" for one in found.functions if (hint := batch_hint(one.batch))]
    return "\n".join(lines + (["", *gains] if gains else []))


def row(one: FunctionCounts) -> tuple[str, ...]:
    """Return one function's line, in the order of HEAD."""
    waits = "paused" if one.paused else (one.waiting_for or "")
    return (
        one.name,
        str(one.queued),
        str(one.running),
        str(one.succeeded),
        str(one.failed),
        str(one.dead),
        str(one.cancelled + one.superseded + one.skipped),
        str(one.concurrency or "-"),
        waits,
    )


def batch_hint(batch: object) -> str:
    """Return what batching would gain, however the server words it."""
    if not batch:
        return ""
    if isinstance(batch, dict):
        return str(batch.get("message") or ", ".join(f"{name} {value}" for name, value in batch.items()))
    return str(batch)
