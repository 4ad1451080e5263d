"""`penstock login`: proves to a server who the user is, and keeps the credential as a context."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from urllib.parse import urlsplit

import click

from gateway.cli import session
from gateway.cli.options import command
from penstock import client_contexts
from penstock.client_contexts import Context
from penstock.client_places import Connection, address
from penstock.errors import Forbidden, InvalidInput

CLIENT_ID = "penstock"


@command(
    """
    penstock login https://penstock.example.org --user alice
    penstock login https://penstock.example.org --issuer https://sso.example.org/realms/lab
    penstock login https://example.org/penstock --name lab --token-stdin < token.txt
    """
)
@click.argument("server", metavar="SERVER")
@click.option("--name", metavar="NAME", help="Name of the context (default: the server's host).")
@click.option("--user", metavar="USER", help="Log in with this user and a password, which is asked for.")
@click.option("--password-stdin", is_flag=True, help="Read the password from stdin.")
@click.option("--token-stdin", is_flag=True, help="Log in with a token, read from stdin.")
@click.option("--issuer", metavar="URL", help="Log in at this OpenID issuer, in any browser (device flow).")
@click.option("--client-id", default=CLIENT_ID, metavar="ID", help="What the issuer knows this program as (penstock).")
@click.option("--scope", metavar="WORDS", help="What to ask the issuer for (openid profile email offline_access).")
@click.option("--no-use", is_flag=True, help="Keep the context that is in use.")
def login(
    *,
    server: str,
    name: str | None,
    user: str | None,
    password_stdin: bool,
    token_stdin: bool,
    issuer: str | None,
    client_id: str,
    scope: str | None,
    no_use: bool,
) -> None:
    """Log in to a server and keep the credential, so that the other commands find both.

    It is tried first and kept only when the server accepts it, in ~/.config/penstock/contexts.toml, which other users
    cannot read. Give --user, --issuer or --token-stdin; on a terminal a user and a password are asked for.
    """
    if sum((user is not None or password_stdin, token_stdin, issuer is not None)) > 1:
        raise click.UsageError("Give one of --user, --token-stdin and --issuer.")
    where = address(server)
    named = client_contexts.check_name(name or _host(where))
    context = Context(name=named, server=where, ca=_ca())
    if issuer is not None:
        context = _with_oidc(context, issuer, client_id, scope)
    elif token_stdin:
        context = replace(context, token=_from_stdin("token"))
    else:
        context = _with_password(context, user, password_stdin=password_stdin)
    _try(context)
    path = client_contexts.path_of(os.environ)
    with client_contexts.locked(path):
        contexts = client_contexts.load(path).having(context, use=not no_use)
        client_contexts.save(path, contexts)
    document = {"context": named, "server": where, "kind": context.kind, "in_use": contexts.current == named}
    session.show(document, lambda: f"Logged in to {where}; the context is '{named}'.")


def _host(server: str) -> str:
    return (urlsplit(server).hostname or "server").replace(":", "-")


def _ca() -> str:
    given = session.options().ca or os.environ.get("PENSTOCK_CA") or ""
    # Commands run in other folders later.
    return os.path.abspath(given) if given else ""  # noqa: PTH100 - links in it are meant


def _from_stdin(what: str) -> str:
    text = sys.stdin.read().strip("\r\n")
    if not text or not text.isprintable():
        raise InvalidInput(f"stdin must hold the {what} on one line, and nothing else")
    return text


def _with_password(context: Context, user: str | None, *, password_stdin: bool) -> Context:
    if user is None:
        if password_stdin or not sys.stdin.isatty():
            raise click.UsageError("Give --user, --token-stdin or --issuer.")
        user = click.prompt("User", default="admin", err=True)
    if ":" in str(user):
        raise InvalidInput("a user's name cannot hold a colon")
    if password_stdin:
        return replace(context, user=user, password=_from_stdin("password"))
    if not sys.stdin.isatty():
        raise click.UsageError("There is no terminal to ask for the password: give --password-stdin.")
    return replace(context, user=user, password=click.prompt("Password", hide_input=True, err=True))


def _with_oidc(context: Context, issuer: str, client_id: str, scope: str | None) -> Context:
    import asyncio  # noqa: PLC0415 - the HTTP client takes half a second, which help must not pay

    from penstock.client.core import trust  # noqa: PLC0415
    from penstock.client_login import SCOPE, DeviceLogin, with_tokens  # noqa: PLC0415

    flow = DeviceLogin(client_id, scope=scope or SCOPE, trust=trust(context.ca))

    async def through() -> Context:
        known = await flow.discover(issuer)
        invitation = await flow.invite(known)
        session.note(f"Open {invitation.direct or invitation.address} in any browser")
        session.note(f"and confirm the code {invitation.code} (good for {invitation.expires_in_s / 60:.0f} minutes).")
        tokens = await flow.finish(known, invitation)
        made = replace(context, issuer=known.issuer, client_id=client_id, token_endpoint=known.token_endpoint)
        return with_tokens(made, tokens)

    return asyncio.run(through())


def _try(context: Context) -> None:
    """Ask the server something that needs the credential."""
    import asyncio  # noqa: PLC0415 - as above

    from penstock.client_errors import Unauthenticated  # noqa: PLC0415

    # An access token that is new needs no renewal, which would use up the refresh token that is to be kept.
    fresh = Connection(context.server, context.access_token, ca=context.ca)
    where = fresh if context.access_token else Connection(context.server, context.token, context, context.ca)

    async def asked() -> None:
        async with session.opened(where) as client:
            try:
                await client.functions()
            except Unauthenticated as error:
                raise Unauthenticated(
                    f"{context.server} does not accept this login, so it was not kept: {error.message}"
                ) from error
            except Forbidden as error:
                raise Forbidden(f"{context.server} knows you and lets you do nothing: {error.message}") from error

    asyncio.run(asked())
