"""`penstock context`: the servers that the user has logged in to."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

import click

from gateway.cli import formats, session
from gateway.cli.options import group, subcommand
from penstock import client_contexts
from penstock.client_contexts import Context

context = group("context", "List, choose, show and remove the servers that you have logged in to.")


def _path() -> Any:
    return client_contexts.path_of(os.environ)


def document(one: Context, *, in_use: bool) -> dict[str, Any]:
    """What may be shown of a context: everything but secrets."""
    told: dict[str, Any] = {"name": one.name, "server": one.server, "kind": one.kind, "in_use": in_use}
    expires = datetime.fromtimestamp(one.expires_s, tz=UTC).isoformat() if one.expires_s else ""
    rest = {"user": one.user, "issuer": one.issuer, "client_id": one.client_id, "ca": one.ca, "expires": expires}
    return told | {name: value for name, value in rest.items() if value}


@subcommand(
    context,
    """
    penstock context ls
    penstock context ls --output json
    """,
    name="ls",
)
def ls() -> None:
    """List the servers that you have logged in to; * marks the one in use."""
    contexts = client_contexts.load(_path())
    found = [document(one, in_use=name == contexts.current) for name, one in sorted(contexts.by_name.items())]
    rows = [["*" if one["in_use"] else "", one["name"], one["server"], one["kind"]] for one in found]
    session.show(
        {"contexts": found},
        lambda: formats.table(["", "NAME", "SERVER", "LOGIN"], rows) if rows else "None: 'penstock login SERVER'.",
    )


@subcommand(
    context,
    """
    penstock context use lab
    penstock context use penstock.example.org
    """,
    name="use",
)
@click.argument("name", metavar="NAME")
def use(name: str) -> None:
    """Talk to this server from now on, unless another one is named."""
    with client_contexts.locked(_path()):
        contexts = client_contexts.load(_path()).using(name)
        client_contexts.save(_path(), contexts)
    session.show({"in_use": name}, lambda: f"In use: {name} ({contexts.get(name).server})")


@subcommand(
    context,
    """
    penstock context rm lab
    penstock context rm lab old-cluster
    """,
    name="rm",
)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def rm(names: tuple[str, ...]) -> None:
    """Forget servers and their credentials."""
    with client_contexts.locked(_path()):
        contexts = client_contexts.load(_path())
        for name in dict.fromkeys(names):
            contexts = contexts.without(name)
        client_contexts.save(_path(), contexts)
    session.show({"removed": list(names)}, lambda: f"Forgotten: {', '.join(names)}")


@subcommand(
    context,
    """
    penstock context show
    penstock context show lab --output json
    """,
    name="show",
)
@click.argument("name", required=False, metavar="[NAME]")
def show(name: str | None) -> None:
    """Show one (default: the one in use). Secrets are never shown."""
    contexts = client_contexts.load(_path())
    if name is None and not contexts.current:
        session.show({}, lambda: "No context is in use.")
        return
    one = contexts.get(name or contexts.current)
    told = document(one, in_use=one.name == contexts.current)
    width = max(map(len, told))
    session.show(told, lambda: "\n".join(f"{key:<{width}}  {value}" for key, value in told.items()))
