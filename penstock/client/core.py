"""The calls of the HTTP interface `/v1`, one method each, asynchronous, over one aiohttp session.

The command line uses it, and so can any program: it turns answers into the types of `penstock.answers` and failures
into the errors of `penstock.errors`, so that a caller decides by class and never reads a status code or a text. It
retries nothing by itself: most calls order work, and only the caller knows whether doing so twice is fine.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import msgspec
from yarl import URL

from penstock import answers, errors
from penstock.client_contexts import path_of
from penstock.client_errors import RunFailed, RunTimedOut, Unreachable, error_of
from penstock.client_login import authorization_of
from penstock.client_places import find
from penstock.client_wire import base_address, decoded, encoded, object_path, quoted, server_sent_events

T = TypeVar("T")
Body = bytes | AsyncIterable[bytes]
#: Yields the value of the header `Authorization` for the next request; how tokens that expire are renewed.
Authorization = Callable[[], Awaitable[str]]

#: Bytes per read of a streamed object: large enough that the event loop is not the limit, small enough to stay flat.
CHUNK = 256 * 1024


class Calls:
    """One server, one credential. Use as an async context manager.

    Every method may raise `Unreachable`, `Unauthenticated` and `errors.Unavailable`, and `errors.NotFound` where it
    names something; what else it may raise is said at the method.
    """

    def __init__(
        self,
        server: str | None = None,
        token: str = "",
        *,
        authorization: Authorization | None = None,
        ca: str | Path | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        """`server` None = the one that the command line would take: PENSTOCK_SERVER, the context in use, or the
        `penstock up` that runs on this machine, each with its credential. `timeout_s` bounds the connection and each
        wait for bytes, never a whole transfer.

        `authorization` stands in for a token that is not enough (a password, tokens that expire). `ca` is a PEM file of
        the authority that signed the server's certificate, where the system does not know it; certificates are always
        verified. Raises InvalidInput when the address, the token or that file cannot be one, NoServer when none is
        named and none is found.
        """
        if server is None:
            where = find(None, token or None, os.environ, ca=str(ca) if ca else None)
            server, token, ca = where.server, "" if where.context else where.token, where.ca
            if where.context is not None and authorization is None:
                authorization = authorization_of(where.context, path_of(os.environ))
        self.server = base_address(server)
        if not (token.isascii() and token.isprintable()):
            # Not repeated here: it may be a real one with a line end pasted to it.
            raise errors.InvalidInput("this is no token: it holds a line break or a character beyond ASCII")
        self._token = token
        self._authorization = authorization
        self._trust = trust(ca)
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s)
        self._endless = aiohttp.ClientTimeout(total=None, sock_connect=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        headers = {"Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        connector = aiohttp.TCPConnector(ssl=self._trust) if self._trust is not None else None
        self._session = aiohttp.ClientSession(headers=headers, auto_decompress=False, connector=connector)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the connections. Idempotent."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    # What the server is and does

    async def status(self) -> answers.Status:
        return await self._json("GET", "/v1/status", answers.Status)

    @asynccontextmanager
    async def changes(self) -> AsyncIterator[AsyncIterator[answers.Change]]:
        """Subscribe to every change of phase; on entry the subscription stands, so a look after it misses nothing.

        The iterator ends when the server stops.
        """
        async with self._call("GET", "/v1/changes", endless=True, accept="text/event-stream") as response:
            yield _changes(response.content)

    # Functions

    async def apply(self, fdl: str, scripts: Mapping[str, str], *, dry_run: bool = False) -> answers.Applied:
        """Deploy all functions of one FDL text; `scripts` maps each path in it to the script's text.

        Raises InvalidInput when any of them is refused: then none is deployed.
        """
        params = {"dry_run": "1"} if dry_run else None
        body = {"fdl": fdl, "scripts": dict(scripts)}
        return await self._json("POST", "/v1/apply", answers.Applied, params=params, body=body)

    async def functions(self) -> list[dict[str, Any]]:
        """Return the definition and the counts of every function."""
        return (await self._json("GET", "/v1/functions", answers.FunctionList)).functions

    async def function(self, name: str) -> dict[str, Any]:
        return await self._json("GET", _function(name), dict[str, Any])

    async def delete_function(self, name: str) -> None:
        """Remove a function; its queued work becomes `cancelled`."""
        await self._order("DELETE", _function(name))

    async def pause(self, name: str) -> None:
        await self._order("POST", _function(name, "pause"))

    async def resume(self, name: str) -> None:
        await self._order("POST", _function(name, "resume"))

    async def backfill(
        self, name: str, *, prefix: str = "", force: bool = False, dry_run: bool = False
    ) -> answers.Matched:
        """Run the existing objects of a function's inputs that it never ran; `prefix` is BUCKET/PREFIX."""
        body = {"prefix": prefix, "force": force, "dry_run": dry_run}
        return await self._json("POST", _function(name, "backfill"), answers.Matched, body=body)

    async def replay(
        self, name: str, *, prefix: str = "", since_ms: int = 0, force: bool = False, dry_run: bool = False
    ) -> answers.Matched:
        """Run again what is `dead` or `failed`; with `force` whatever has ended. `prefix` is BUCKET/PREFIX."""
        body = {"prefix": prefix, "since_ms": since_ms, "force": force, "dry_run": dry_run}
        return await self._json("POST", _function(name, "replay"), answers.Matched, body=body)

    async def submit(self, name: str, body: Body, *, content_type: str = "application/octet-stream") -> str:
        """Queue a body for a function and return the id of its invocation."""
        headers = {"Content-Type": content_type}
        told = await self._json("POST", _function(name, "submit"), dict[str, Any], data=body, headers=headers)
        return str(told["invocation"])

    async def run(
        self,
        name: str,
        body: Body,
        *,
        timeout_s: float | None = None,
        content_type: str = "application/octet-stream",
    ) -> answers.Answer:
        """Run a function on a body and wait for its answer.

        Raises RunFailed when the script failed (its last lines are in the message), RunTimedOut when the server
        stopped waiting (`timeout_s`, None = the server's own limit); the work then goes on.
        """
        params = {} if timeout_s is None else {"timeout_s": f"{timeout_s:g}"}
        headers = {"Content-Type": content_type, "Accept": "*/*"}
        request = self._request("POST", _function(name, "run"), params=params, data=body, headers=headers, endless=True)
        async with request as response:
            invocation = response.headers.get("X-Penstock-Invocation", "")
            text = await response.read()
        if response.status < 400:
            return answers.Answer(invocation=invocation, text=text)
        error = error_of(response.status, text)
        if response.status == 504:
            raise RunTimedOut(error.message, invocation=invocation)
        raise RunFailed(error.message, invocation=invocation) if response.status == 500 else error

    # Invocations and dead letters

    async def invocations(
        self,
        *,
        function: str = "",
        phase: str = "",
        since_ms: int = 0,
        prefix: str = "",
        limit: int = 100,
        page: str = "",
        oldest: bool = False,
    ) -> answers.InvocationPage:
        """Return one page, newest first unless `oldest`. `prefix` is BUCKET/PREFIX of the input."""
        wanted = {
            "function": function,
            "phase": phase,
            "since_ms": str(since_ms or ""),
            "prefix": prefix,
            "limit": str(limit),
            "page": page,
            "oldest": "1" if oldest else "",
        }
        params = {name: value for name, value in wanted.items() if value}
        return await self._json("GET", "/v1/invocations", answers.InvocationPage, params=params)

    async def invocation(self, name: str) -> answers.Invocation:
        """Return one invocation with its timeline; `name` is its id or a unique prefix of it (6 characters or more)."""
        return await self._json("GET", _invocation(name), answers.Invocation)

    async def log(
        self, name: str, *, attempt: int | None = None, offset: int = 0, follow: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """Yield the output of one attempt (None = the latest); with `follow` until the attempt ends."""
        params = {"offset": str(offset)} if offset else {}
        if attempt is not None:
            params["attempt"] = str(attempt)
        if follow:
            params["follow"] = "1"
        async with self._call("GET", _invocation(name, "log"), params=params, endless=follow) as response:
            async for chunk in response.content.iter_any():
                yield chunk

    async def cancel(self, name: str) -> None:
        """Order the end of an invocation. Raises Conflict when it has already ended."""
        await self._order("POST", _invocation(name, "cancel"))

    async def dead(self) -> list[dict[str, Any]]:
        """Return the newest dead letters (`kind` "event") and dead invocations (`kind` "invocation"), 1,000 of each."""
        return (await self._json("GET", "/v1/dead", answers.DeadList, params={"limit": "1000"})).dead

    async def dead_letter(self, name: str) -> dict[str, Any]:
        return await self._json("GET", f"/v1/dead/{quoted(name)}", dict[str, Any])

    async def retry_dead(self, name: str) -> None:
        await self._order("POST", f"/v1/dead/{quoted(name)}/retry")

    async def drop_dead(self, name: str) -> None:
        """Forget a dead letter. Raises Unsupported for a dead invocation, which is part of the history."""
        await self._order("DELETE", f"/v1/dead/{quoted(name)}")

    # Buckets and objects

    async def buckets(self) -> list[answers.Bucket]:
        return await self._json("GET", "/v1/buckets", list[answers.Bucket])

    async def create_bucket(self, name: str) -> None:
        """Make a bucket; nothing changes when it is already there."""
        await self._order("PUT", f"/v1/buckets/{quoted(name)}")

    async def objects(self, bucket: str, *, prefix: str = "", after: str = "", limit: int = 1000) -> answers.ObjectPage:
        """Return one page of a bucket's objects in the order of their keys, those behind `after`."""
        params = {"limit": str(limit), **({"prefix": prefix} if prefix else {}), **({"after": after} if after else {})}
        return await self._json("GET", f"/v1/buckets/{quoted(bucket)}/objects", answers.ObjectPage, params=params)

    async def put(self, bucket: str, key: str, body: Body, *, size: int | None = None) -> dict[str, Any]:
        """Store an object; it appears whole or not at all. `size` None = unknown, sent in chunks."""
        headers = {"Content-Type": "application/octet-stream"}
        if size is not None:
            headers["Content-Length"] = str(size)
        return await self._json("PUT", object_path(bucket, key), dict[str, Any], data=body, headers=headers)

    @asynccontextmanager
    async def get(self, bucket: str, key: str) -> AsyncIterator[tuple[int | None, AsyncIterator[bytes]]]:
        """Open an object: its size (None = not told) and its bytes."""
        async with self._call("GET", object_path(bucket, key), accept="*/*") as response:
            yield response.content_length, response.content.iter_chunked(CHUNK)

    async def delete_object(self, bucket: str, key: str) -> None:
        await self._order("DELETE", object_path(bucket, key))

    # How a call is made

    async def ask(
        self, method: str, path: str, kind: type[T], *, params: Mapping[str, str] | None = None, body: object = None
    ) -> T:
        """Call a route that has no method here (such as `/v1/nodes`); `path` is percent-encoded, both ways are JSON."""
        return await self._json(method, path, kind, params=params, body=body)

    async def _order(self, method: str, path: str) -> None:
        """Make a call whose answer says nothing beyond that it worked."""
        async with self._call(method, path) as response:
            await response.read()

    async def _json(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        params: Mapping[str, str] | None = None,
        body: object = None,
        data: Body | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        """Make a call and return its answer decoded; `body` is sent as JSON, `data` as it is."""
        if body is not None:
            data, headers = encoded(body), {"Content-Type": "application/json"}
        async with self._call(method, path, params=params, data=data, headers=headers) as response:
            text = await response.read()
        try:
            return decoded(text, kind)
        except msgspec.DecodeError as error:
            raise errors.Unavailable(f"{self.server} does not answer as a Penstock server does: {error}") from error

    @asynccontextmanager
    async def _call(
        self, method: str, path: str, *, accept: str = "application/json", **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Make a call and raise what an answer of 400 or more means."""
        options["headers"] = {"Accept": accept, **(options.get("headers") or {})}
        async with self._request(method, path, **options) as response:
            if response.status >= 400:
                raise error_of(response.status, await response.read())
            yield response

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        data: Body | None = None,
        headers: Mapping[str, str] | None = None,
        endless: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None, "use the client in `async with`"
        timeout = self._endless if endless else self._timeout
        if self._authorization is not None:
            headers = {"Authorization": await self._authorization(), **(headers or {})}
        try:
            # `encoded`: the path is encoded already, exactly once.
            query = "&".join(f"{name}={quoted(value)}" for name, value in (params or {}).items())
            url = URL(f"{self.server}{path}{'?' * bool(query)}{query}", encoded=True)
            async with self._session.request(method, url, data=data, headers=headers, timeout=timeout) as response:
                yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            # A body that could not be read (the caller's iterator raised) comes out wrapped as a broken connection.
            cause = error.__cause__
            raise (cause if isinstance(cause, errors.PenstockError) else unreachable(self.server, error)) from error


async def _changes(lines: AsyncIterable[bytes]) -> AsyncIterator[answers.Change]:
    async for event, data in server_sent_events(lines):
        if event == "gap":
            yield answers.Change()
        elif event == "invocation":
            yield answers.Change(invocation=decoded(data, answers.Invocation))


def _function(name: str, verb: str = "") -> str:
    return f"/v1/functions/{quoted(name)}" + (f"/{verb}" if verb else "")


def _invocation(name: str, verb: str = "") -> str:
    return f"/v1/invocations/{quoted(name)}" + (f"/{verb}" if verb else "")


def unreachable(server: str, error: Exception) -> Unreachable:
    """Say in one sentence why no answer came."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        why = getattr(error.certificate_error, "verify_message", "") or str(error.certificate_error)
        return Unreachable(
            f"the certificate of {server} is not trusted: {why}; if its authority is your own, name that with --ca"
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        return Unreachable(f"no server answers at {server}: {error.os_error.strerror or error.os_error}")
    if isinstance(error, TimeoutError):
        return Unreachable(f"the server at {server} does not answer in time")
    return Unreachable(f"the connection to {server} broke off: {str(error) or type(error).__name__}")


def trust(ca: str | Path | None) -> ssl.SSLContext | None:
    """Return whom to trust: the system's authorities and those in a PEM file; None = the system's alone.

    Raises InvalidInput when the file cannot be read or holds no certificate.
    """
    if not ca:
        return None
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(cafile=str(ca))
    except ssl.SSLError as error:
        raise errors.InvalidInput("the file holds no certificate in PEM form", where=str(ca)) from error
    except OSError as error:
        raise errors.InvalidInput(f"the certificate file cannot be read: {error.strerror}", where=str(ca)) from error
    return context
