"""`penstock backfill` and `penstock replay`: work on what is already there, or what already ran."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gateway.cli import formats, session
from gateway.cli.options import command
from penstock.clock import now_ms

if TYPE_CHECKING:
    from penstock.answers import Matched


@command(
    """
    penstock backfill digits-classify
    penstock backfill digits-classify --dry-run
    penstock backfill digits-classify --prefix digits/in/2026
    """
)
@click.argument("function")
@click.option("--prefix", default="", metavar="BUCKET/PREFIX", help="Only objects whose bucket and key start so.")
@click.option("--dry-run", is_flag=True, help="Say how many there are and name some; queue nothing.")
def backfill(function: str, prefix: str, dry_run: bool) -> None:
    """Run a function on the existing objects of its inputs that it never ran."""
    matched = session.call_function(function, lambda client: client.backfill(function, prefix=prefix, dry_run=dry_run))
    session.show(matched, lambda: told(matched, "object", "never ran", dry_run=dry_run))


@command(
    """
    penstock replay digits-classify --dry-run
    penstock replay digits-classify --since 2h
    penstock replay digits-classify --prefix digits/in/digit-00 --force
    """
)
@click.argument("function")
@click.option("--prefix", default="", metavar="BUCKET/PREFIX", help="Only inputs whose bucket and key start so.")
@click.option("--since", metavar="WHEN", help="Only those queued since: 10m, 2h, 3d, or a date.")
@click.option("--force", is_flag=True, help="Whatever matches, also what succeeded; outputs are published again.")
@click.option("--dry-run", is_flag=True, help="Say how many there are and name some; queue nothing.")
def replay(function: str, prefix: str, since: str | None, force: bool, dry_run: bool) -> None:
    """Run invocations of a function again: those that failed or are dead, with --force any that ended."""
    since_ms = formats.since_ms(since, now_ms()) if since else 0
    matched = session.call_function(
        function, lambda client: client.replay(function, prefix=prefix, since_ms=since_ms, force=force, dry_run=dry_run)
    )
    session.show(matched, lambda: told(matched, "invocation", "match", dry_run=dry_run))


def told(matched: Matched, noun: str, verb: str, *, dry_run: bool) -> str:
    """Return what was ordered, or would be."""
    number = f"{matched.matched} {noun}{'' if matched.matched == 1 else 's'}"
    if not matched.matched:
        return f"Nothing to do: no {noun} {'matches' if verb == 'match' else verb}."
    if not dry_run:
        return f"{number} will run; 'penstock watch' shows it."
    named = [
        f"  {formats.printable(example if isinstance(example, str) else str(example))}" for example in matched.examples
    ]
    more = [f"  and {matched.matched - len(named)} more"] if named and matched.matched > len(named) else []
    return "\n".join([f"{number} would run (nothing is queued):", *named, *more])
