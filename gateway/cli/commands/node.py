"""`penstock node`: the machines that the scaler switches, what it decided and why, and the way in from CLUES."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from gateway.cli import failures, formats, session
from gateway.cli.options import group, subcommand
from penstock.clock import now_ms
from penstock.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from penstock.client import Client
    from scaler.interface.answers import NodeView, RequestView
    from scaler.interface.clues_import import Imported
    from scaler.interface.remote import NodeCalls

T = TypeVar("T")
_FILE = click.Path(dir_okay=False, path_type=Path)

node = group("node", "List, show and switch nodes, ask for room, see why, import CLUES's configuration.")


def _call(work: Callable[[NodeCalls], Awaitable[T]]) -> T:
    async def asked(client: Client) -> T:
        from scaler.interface.remote import NodeCalls  # noqa: PLC0415 - 100 ms that help must not pay

        return await work(NodeCalls(client.ask))

    return session.call(asked)


@subcommand(
    node,
    """
    penstock node ls
    penstock node ls --pool cpu --output json
    """,
)
@click.option("--pool", metavar="NAME", help="Nodes of this pool only.")
@click.option("--state", metavar="STATE", help="Nodes in this state only.")
def ls(pool: str | None, state: str | None) -> None:
    """List nodes with their state, load and the reason why each stays as it is."""
    found = _call(lambda calls: calls.nodes())
    chosen = [one for one in found if (not pool or one.pool == pool) and (not state or one.state == state)]
    if found and not chosen and pool and pool not in {one.pool for one in found}:
        hint = formats.close_to(pool, {one.pool for one in found})
        raise NotFound(f"no node is in a pool '{pool}'.{hint}")
    session.show({"nodes": chosen}, lambda: _table(chosen))


def _table(nodes: list[NodeView]) -> str:
    if not nodes:
        return "No nodes."
    now = now_ms()
    rows = [
        (
            one.name,
            one.pool,
            one.state if one.enabled else f"{one.state}, disabled",
            formats.age(one.since_ms, now),
            str(one.pods),
            _load(one),
            formats.clip(one.reason, 70),
        )
        for one in nodes
    ]
    return formats.table(("NODE", "POOL", "STATE", "SINCE", "PODS", "CPU", "REASON"), rows, right=(3, 4))


def _load(one: NodeView) -> str:
    return f"{one.used.get('cpu', '0')}/{one.offers['cpu']}" if one.offers.get("cpu") else "-"


@subcommand(
    node,
    """
    penstock node show cpu-1
    penstock node show cpu-1 --output json
    """,
)
@click.argument("name", metavar="NODE")
def show(name: str) -> None:
    """Show one node: its clocks, failures, room and labels."""
    from gateway.cli.node_text import described  # noqa: PLC0415 - see above

    found = _call(lambda calls: calls.node(name))
    session.show(found, lambda: described(found, now_ms()))


_NAMES = click.argument("names", nargs=-1, required=True, metavar="NODE...")


def _order(names: tuple[str, ...], what: str, *, force: bool = False) -> None:
    """All names are looked up before the first is touched, so that a wrong one changes nothing."""

    async def work(calls: NodeCalls) -> list[NodeView]:
        known = {one.name for one in await calls.nodes()}
        for name in names:
            if name not in known:
                raise NotFound(f"there is no node '{name}'.{formats.close_to(name, known)}")
        return [await calls.order(name, what, force=force) for name in dict.fromkeys(names)]

    found = _call(work)
    session.show(
        {"nodes": found},
        lambda: "\n".join(f"{one.name} is {one.state}{'' if one.enabled else ', disabled'}" for one in found),
    )


@subcommand(node, "penstock node on cpu-1\npenstock node on cpu-1 cpu-2")
@_NAMES
def on(names: tuple[str, ...]) -> None:
    """Order nodes on. Maximums and caps hold for people too."""
    _order(names, "on")


@subcommand(node, "penstock node off cpu-1\npenstock node off cpu-1 --force")
@_NAMES
@click.option(
    "--force", is_flag=True, help="Also with work on it: nothing new starts there, and it goes when that ends."
)
def off(names: tuple[str, ...], force: bool) -> None:
    """Take nodes out and power them off. One with work on it is refused without --force; work is never killed."""
    _order(names, "off", force=force)


@subcommand(node, "penstock node enable cpu-1\npenstock node enable cpu-1 cpu-2")
@_NAMES
def enable(names: tuple[str, ...]) -> None:
    """Let the scaler switch these nodes again."""
    _order(names, "enable")


@subcommand(node, "penstock node disable cpu-1\npenstock node disable cpu-1 cpu-2")
@_NAMES
def disable(names: tuple[str, ...]) -> None:
    """Keep the scaler from switching these nodes; while they are on, their room is used."""
    _order(names, "disable")


@subcommand(node, "penstock node reset cpu-1\npenstock node reset cpu-1 cpu-2")
@_NAMES
def reset(names: tuple[str, ...]) -> None:
    """Forget failures and waits of nodes; one that failed or hangs is looked at afresh."""
    _order(names, "reset")


@subcommand(
    node,
    """
    penstock node request --cpu 4 --memory 8Gi --tasks 3 --per-node 1
    penstock node request --cpu 2 --where 'kubernetes.io/arch == "arm64"' --wait 600
    penstock node request --withdraw 3f2a
    """,
)
@click.option("--cpu", metavar="N", help="Processors of one task.")
@click.option("--memory", metavar="N", help="Memory of one task.")
@click.option("--resource", "more", multiple=True, metavar="NAME=N", help="Any other resource of one task.")
@click.option("--tasks", type=click.IntRange(1), default=1, metavar="N", help="Tasks that must fit at once (1).")
@click.option("--per-node", type=click.IntRange(0), default=0, metavar="N", help="Most on one node (0 = no limit).")
@click.option("--where", "expressions", multiple=True, metavar="EXPRESSION", help="Condition on labels of the node.")
@click.option("--tolerate", "tolerations", multiple=True, metavar="TAINT", help="Taint of nodes that may be used too.")
@click.option("--hold", type=click.FloatRange(1, 86400), default=600.0, metavar="S", help="Seconds it is kept (600).")
@click.option("--wait", type=click.FloatRange(min=0), metavar="S", help="Wait so long for it to be served.")
@click.option("--list", "listed", is_flag=True, help="List the requests instead.")
@click.option("--withdraw", metavar="ID", help="Withdraw a request instead.")
def request(
    *,
    cpu: str | None,
    memory: str | None,
    more: tuple[str, ...],
    tasks: int,
    per_node: int,
    expressions: tuple[str, ...],
    tolerations: tuple[str, ...],
    hold: float,
    wait: float | None,
    listed: bool,
    withdraw: str | None,
) -> int:
    """Ask for room before any pod exists: nodes start for it, and it is kept for as long as --hold says."""
    if listed or withdraw:
        found = _call(lambda calls: calls.requests() if listed else _withdrawn(calls, withdraw or ""))
        session.show({"requests": found}, lambda: _requests(found))
        return failures.OK
    resources = dict(filter(lambda pair: pair[1], (("cpu", cpu or ""), ("memory", memory or ""))))
    for text in more:
        name, sign, amount = text.partition("=")
        if not sign:
            raise InvalidInput(f"{text!r} must be NAME=N, like nvidia.com/gpu=1", where="--resource")
        resources[name] = amount
    from scaler.interface.answers import RequestDocument, request_spec  # noqa: PLC0415 - see above

    document = RequestDocument(
        resources={**resources},
        tasks=tasks,
        per_node=per_node,
        expressions=list(expressions),
        tolerations=list(tolerations),
        hold_s=hold,
    )
    # Checked here too, so that a mistake is told before anybody is asked.
    request_spec(document)
    made = _call(lambda calls: calls.submit(document))
    if wait is not None:
        made = _waited(made, wait)
    session.show(made, lambda: _requests([made]))
    return failures.OK if wait is None or made.state == "served" else failures.FAILED


async def _withdrawn(calls: NodeCalls, id_: str) -> list[RequestView]:
    return [await calls.withdraw(id_)]


def _waited(made: RequestView, seconds: float) -> RequestView:
    deadline, id_ = time.monotonic() + seconds, made.id
    while made.state == "waiting" and time.monotonic() < deadline:
        time.sleep(min(2.0, max(0.0, deadline - time.monotonic())))
        made = _call(lambda calls: calls.request(id_))
    return made


def _requests(found: list[RequestView]) -> str:
    rows = [
        (
            one.id,
            one.state,
            f"{one.tasks} x {', '.join(f'{name} {amount}' for name, amount in one.resources.items())}",
            ", ".join(one.nodes) or "-",
            one.reason,
        )
        for one in found
    ]
    return formats.table(("ID", "STATE", "ROOM", "NODES", "REASON"), rows) if rows else "No requests."


@subcommand(node, "penstock node status\npenstock node status --output json")
def status() -> None:
    """Explain the last decision: what was ordered, why nodes stay, whom nobody helps, and how fresh the views are."""
    from gateway.cli.node_text import explained  # noqa: PLC0415 - see above

    found = _call(lambda calls: calls.explain())
    session.show(found, lambda: explained(found, now_ms()))


@subcommand(node, "penstock node ledger\npenstock node ledger --month 2026-11 --output json")
@click.option("--month", default="", metavar="YYYY-MM", help="That month; else the present one.")
def ledger(month: str) -> None:
    """Show energy and money of a month beside the same pools always on, and their price in waiting and switching."""
    from gateway.cli.node_text import books  # noqa: PLC0415 - see above

    found = _call(lambda calls: calls.ledger(month))
    session.show(found, lambda: books(found))


@subcommand(
    node,
    """
    penstock node import clues2.cfg kubernetes_vnodes.info -o pools.yaml
    penstock node import clues2.cfg --hosts wn1,wn2,wn3 --output json
    """,
    name="import",
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=_FILE)
@click.option("--hosts", default="", metavar="NAME,...", help="Machines that no file names.")
@click.option("-o", "target", type=_FILE, metavar="FILE", help="Write the pools there instead of to stdout.")
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
def import_(files: tuple[Path, ...], hosts: str, target: Path | None, force: bool) -> None:
    """Make pools of CLUES's clues2.cfg and kubernetes_vnodes.info, and say what became of every option. No server."""
    from gateway.cli.node_text import imported  # noqa: PLC0415 - see above
    from scaler.interface.clues_import import import_clues  # noqa: PLC0415 - see above

    texts = {}
    for file in files:
        try:
            texts[str(file)] = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise InvalidInput(f"cannot be read: {why}", where=str(file)) from error
    found: Imported = import_clues(texts, hosts=[name.strip() for name in hosts.split(",") if name.strip()])
    pools, told = imported(found)
    if target is not None:
        if target.exists() and not force:
            raise InvalidInput("exists already; --force overwrites it", where=str(target))
        target.write_text(pools, encoding="utf-8")
    if not session.options().json:
        session.note(told)
    session.show(
        found, lambda: pools.rstrip() if target is None else f"{len(found.document['pools'])} pools are in {target}"
    )
