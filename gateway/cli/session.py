"""What the commands share: connecting, waiting for the answer, and writing it as a table or as JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gateway.cli import servers
from gateway.cli.formats import close_to
from gateway.cli.options import Globals
from gateway.cli.streams import write_out
from penstock.errors import NotFound, PenstockError

if TYPE_CHECKING:
    # Only for annotations: importing an HTTP client costs half a second, and help must not pay for it.
    from penstock.client import Client

T = TypeVar("T")


def connection() -> servers.Connection:
    """Return the server and the credential that this command line means."""
    wanted = options()
    return servers.find(wanted.server, wanted.token, os.environ, context=wanted.context, ca=wanted.ca)


def options() -> Globals:
    return click.get_current_context().ensure_object(Globals)


def root() -> click.Command:
    """Return the command `penstock` itself."""
    return click.get_current_context().find_root().command


def call(work: Callable[[Client], Awaitable[T]]) -> T:
    """Connect, do the work and return what it returns."""
    import asyncio  # noqa: PLC0415 - see TYPE_CHECKING above

    from penstock.client import Unauthenticated  # noqa: PLC0415 - see TYPE_CHECKING above

    where = connection()

    async def connected() -> T:
        async with opened(where) as client:
            return await work(client)

    try:
        return asyncio.run(connected())
    except Unauthenticated as error:
        if where.context is not None:
            if where.context.kind == "oidc" and "log in again" in error.message:
                raise
            raise Unauthenticated(
                f"the server at {where.server} does not accept the login of the context '{where.context.name}': log in"
                f" again with 'penstock login {where.server}'"
            ) from error
        said = "does not know this token" if where.token else "wants a token"
        raise Unauthenticated(
            f"the server at {where.server} {said}: give the one in its DIR/credentials as --token or PENSTOCK_TOKEN, or"
            " log in with 'penstock login'"
        ) from error


def opened(where: servers.Connection) -> Client:
    """Return a client of a server, not connected yet."""
    from penstock.client import Client  # noqa: PLC0415 - see TYPE_CHECKING above
    from penstock.client_contexts import path_of  # noqa: PLC0415
    from penstock.client_login import authorization_of  # noqa: PLC0415

    if where.context is None or where.context.kind in {"token", "none"}:
        return Client(where.server, where.token, ca=where.ca or None)
    authorization = authorization_of(where.context, path_of(os.environ))
    return Client(where.server, authorization=authorization, ca=where.ca or None)


def call_function(name: str, work: Callable[[Client], Awaitable[T]]) -> T:
    """As `call`, for work on one function: when there is none of this name, the nearest one is suggested."""

    async def helped(client: Client) -> T:
        try:
            return await work(client)
        except NotFound as error:
            try:
                known = [str(function["name"]) for function in await client.functions()]
            except PenstockError:
                raise error from None  # the first trouble is the one to tell
            if name in known:
                raise
            hint = close_to(name, known) or (f" There are: {', '.join(known)}." if known else " There are none yet.")
            raise NotFound(f"there is no function '{name}'.{hint}") from error

    return call(helped)


def show(document: Any, text: Callable[[], str]) -> None:
    """Write the answer to stdout: the document as JSON, or the text that people read."""
    if options().json:
        import msgspec  # noqa: PLC0415 - 40 ms that help must not pay

        built = msgspec.to_builtins(document)
        emit(json.dumps(built, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False))
        return
    emit(text())


def emit(text: str) -> None:
    """Write a line, or several, to stdout. Names on disk that are no text are written as escapes."""
    write_out(text.encode("utf-8", "backslashreplace") + b"\n")


def note(sentence: str) -> None:
    """Say something that is not the answer, on stderr so that pipes stay clean."""
    click.echo(sentence, err=True)
