"""Which server a program talks to, and with which credential.

A running `penstock up` leaves one small file in the user's state folder, so that on its own machine nobody types an
address or a token; `penstock login` keeps contexts for servers elsewhere. What is named explicitly always wins:
options, then environment, then the context in use, then what runs here. Standard library alone: commands start fast.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from penstock import client_contexts
from penstock.client_contexts import Context, Contexts
from penstock.client_errors import NoServer
from penstock.errors import InvalidInput

DEFAULT_PORT = 8080
HINT = "start one with 'penstock up', log in to one with 'penstock login', or name one (--server, PENSTOCK_SERVER)"


class Connection(NamedTuple):
    """Where to connect, and the token to show there ("" = none is known).

    With a `context` its credential is meant, which may be more than a token. `ca` = file of an authority to trust.
    """

    server: str
    token: str
    context: Context | None = None
    ca: str = ""


class Running(NamedTuple):
    """What a running server's file says."""

    port: int
    server: str
    credentials: Path


def state_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder of the files that running servers leave."""
    # XDG: a relative path is invalid and must be ignored.
    named = Path(environ.get("XDG_STATE_HOME", ""))
    home = Path(environ.get("HOME", "") or Path.home())
    return (named if named.is_absolute() else home / ".local" / "state") / "penstock" / "servers"


def alive(pid: int) -> bool:
    """Tell whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def running_servers(folder: Path, is_alive: Callable[[int], bool] = alive) -> list[Running]:
    """Read what running servers left, lowest port first; what a killed one left behind is passed over."""
    found = []
    for path in folder.glob("*.toml"):
        try:
            told = tomllib.loads(path.read_text(encoding="utf-8"))
            running = Running(int(path.stem), str(told["server"]), Path(told["credentials"]))
            pid = int(told["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # half written, or not ours: it names no server that could be used
        if pid > 0 and is_alive(pid):
            found.append(running)
    return sorted(found)


def read_token(credentials: Path) -> str:
    """Return the token in a credentials file. Raises InvalidInput when it cannot be read."""
    try:
        return str(tomllib.loads(credentials.read_text(encoding="utf-8"))["token"])
    except OSError as error:
        raise InvalidInput(f"the credential cannot be read: {error.strerror}", where=str(credentials)) from error
    except (ValueError, KeyError) as error:
        raise InvalidInput("this is not a credentials file: it has no token", where=str(credentials)) from error


def find(
    server: str | None,
    token: str | None,
    environ: Mapping[str, str],
    is_alive: Callable[[int], bool] = alive,
    *,
    context: str | None = None,
    ca: str | None = None,
) -> Connection:
    """Decide where to connect, from options, the environment, contexts and the servers that run on this machine.

    Raises NoServer when none is named and none runs (or several do and none is on port 8080), NotFound for a context
    that is not there, InvalidInput when what is named is no address or a credential cannot be read.
    """
    if server and context:
        raise InvalidInput("give a server or a context, not both: a context names its server")
    ca = ca or environ.get("PENSTOCK_CA") or None
    contexts = client_contexts.load(client_contexts.path_of(environ))
    local = running_servers(state_folder(environ), is_alive)
    if context:
        # Named here and now: a token from the environment is probably another server's.
        return _of_context(contexts.get(context), token, ca)
    token = token or environ.get("PENSTOCK_TOKEN") or None
    server = server or environ.get("PENSTOCK_SERVER") or None
    if server is not None:
        return _named(address(server), token, ca, contexts, local)
    chosen = environ.get("PENSTOCK_CONTEXT") or contexts.current
    if chosen:
        return _of_context(contexts.get(chosen), token, ca)
    running = _choose(local)
    return Connection(running.server, token or read_token(running.credentials), ca=ca or "")


def _of_context(context: Context, token: str | None, ca: str | None) -> Connection:
    if token:
        return Connection(context.server, token, ca=ca or context.ca)
    return Connection(context.server, context.token, context, ca or context.ca)


def _named(server: str, token: str | None, ca: str | None, contexts: Contexts, local: list[Running]) -> Connection:
    """A server by its address: what is known of it brings the credential."""
    same = [one for one in contexts.by_name.values() if address(one.server) == server]
    # Several logins at one server: the one in use is meant, if it is among them.
    same.sort(key=lambda one: one.name != contexts.current)
    if same:
        return _of_context(same[0], token, ca)
    if token is None:
        here = [running for running in local if address(running.server) == server]
        token = read_token(here[0].credentials) if here else ""
    return Connection(server, token, ca=ca or "")


def address(server: str) -> str:
    """Return an address in its one form; a bare HOST:PORT is taken as http."""
    text = server.strip()
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    rest = rest.rstrip("/")
    if scheme not in {"http", "https"} or not rest or "@" in rest or any(character.isspace() for character in rest):
        # With a user in it a password is, too, which no message may repeat.
        named = "this" if "@" in rest else repr(server)
        raise InvalidInput(
            f"{named} is no address: it must look like http://127.0.0.1:8080; the credential is --token",
            where="--server",
        )
    return f"{scheme}://{rest}"


def _choose(local: list[Running]) -> Running:
    if not local:
        raise NoServer(f"no server runs on this machine: {HINT}")
    if len(local) == 1:
        return local[0]
    usual = [running for running in local if running.port == DEFAULT_PORT]
    if usual:
        return usual[0]
    listed = ", ".join(running.server for running in local)
    raise NoServer(f"several servers run on this machine ({listed}): name one with --server")
