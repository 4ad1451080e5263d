"""`penstock dead`: what could not be turned into work, and what used up its retries."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

import click

from gateway.cli import formats, session
from gateway.cli.options import group, subcommand
from penstock.clock import now_ms
from penstock.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from penstock.client import Client

SHOWN = 2000

dead = group("dead", "List, show, retry and drop what could not be turned into work or used up its retries.")


@subcommand(
    dead,
    """
    penstock dead ls
    penstock dead ls --output json
    """,
)
def ls() -> None:
    """List dead letters (events that could not be understood) and dead invocations (retries used up)."""
    found = session.call(lambda client: client.dead())
    now = now_ms()
    rows = [
        (
            formats.short(str(one.get("id", ""))),
            str(one.get("kind", "")),
            formats.age(moment(one), now),
            str(one.get("function") or "-"),
            str(one.get("error") or "-"),
            formats.clip(str(one.get("message") or one.get("reason") or ""), 80),
        )
        for one in found
    ]
    head = ("ID", "KIND", "AGE", "FUNCTION", "ERROR", "MESSAGE")
    session.show({"dead": found}, lambda: formats.table(head, rows, right=(2,)) if rows else "Nothing is dead.")


@subcommand(
    dead,
    """
    penstock dead show 3f9c2b7d01aa
    penstock dead show 3f9c2b7d01aa --output json
    """,
)
@click.argument("name", metavar="ID")
def show(name: str) -> None:
    """Show one dead letter with its original bytes, or one dead invocation."""

    async def work(client: Client) -> dict[str, Any]:
        return await client.dead_letter(_whole([str(one["id"]) for one in await client.dead()], name))

    found = session.call(work)
    session.show(found, lambda: described(found))


@subcommand(
    dead,
    """
    penstock dead retry 3f9c2b7d01aa
    penstock dead retry --all
    """,
)
@click.argument("names", nargs=-1, metavar="ID...")
@click.option("--all", "everything", is_flag=True, help="All of them.")
def retry(names: tuple[str, ...], everything: bool) -> None:
    """Try again: the original bytes go back into the log, a dead invocation gets a further attempt."""
    _each(names, everything, lambda client, name: client.retry_dead(name), "is tried again")


@subcommand(
    dead,
    """
    penstock dead drop 3f9c2b7d01aa
    penstock dead drop --all
    """,
)
@click.argument("names", nargs=-1, metavar="ID...")
@click.option("--all", "everything", is_flag=True, help="All dead letters.")
def drop(names: tuple[str, ...], everything: bool) -> None:
    """Forget dead letters for good. Dead invocations are part of the history and stay: retry them or leave them."""
    _each(names, everything, lambda client, name: client.drop_dead(name), "is dropped", kinds=("event",))


def _each(
    names: tuple[str, ...],
    everything: bool,
    work: Callable[[Client, str], Awaitable[None]],
    done: str,
    *,
    kinds: tuple[str, ...] = ("event", "invocation"),
) -> None:
    if bool(names) == everything:
        raise click.UsageError("Give the ids of what you mean, or --all.", click.get_current_context())

    async def all_of_them(client: Client) -> list[str]:
        known = {str(one["id"]): str(one["kind"]) for one in await client.dead()}
        # All ids are looked up before the first is touched, so that a wrong one changes nothing.
        wanted = (
            [one for one, kind in known.items() if kind in kinds] if everything else [_whole(known, n) for n in names]
        )
        for name in wanted:
            if known[name] not in kinds:
                raise InvalidInput(
                    f"{formats.short(name)} is a dead invocation, part of the history: retry it or leave it"
                )
        for name in wanted:
            await work(client, name)
        return wanted

    treated = session.call(all_of_them)
    document = {"dead": [{"id": name, "action": done} for name in treated]}
    session.show(document, lambda: "\n".join(f"{formats.short(name)} {done}" for name in treated) or "Nothing to do.")


def _whole(known: Iterable[str], name: str) -> str:
    """Return the whole id of a prefix as `dead ls` shows it."""
    matching = [identity for identity in known if identity.startswith(name)]
    if name in matching:
        return name
    if len(matching) > 1:
        raise InvalidInput(f"{len(matching)} dead letters start with '{name}': give more of the id")
    if not matching:
        raise NotFound(f"nothing dead has an id that starts with '{name}'")
    return matching[0]


def moment(one: dict[str, Any]) -> int:
    """Return when something died."""
    return int(one.get("time_ms") or one.get("finished_ms") or 0)


def described(one: dict[str, Any]) -> str:
    """Return a dead letter as people read it; its original bytes as text where they are text."""
    lines = []
    for name, value in one.items():
        if name != "original" and value not in (None, "", [], {}):
            lines.append(f"{name:<12}{formats.printable(str(value))}")
    if one.get("original"):
        lines += ["", "original bytes:", original(str(one["original"]))]
    return "\n".join(lines)


def original(text: str) -> str:
    """Return base64 bytes readably: text as text (control codes escaped), the rest as hex."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        return formats.printable(text)
    cut = f"\n({len(data)} bytes in all)" if len(data) > SHOWN else ""
    try:
        readable = data[:SHOWN].decode("utf-8", "strict" if len(data) <= SHOWN else "ignore")
    except UnicodeDecodeError:
        return data[:SHOWN].hex(" ") + cut
    return "\n".join(formats.printable(line) for line in readable.splitlines()) + cut
