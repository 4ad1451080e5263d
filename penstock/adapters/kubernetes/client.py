"""One tuned session to the API server: bytes in, bytes out, bounded in flight, errors by meaning.

A generated client costs tens of megabytes and builds an object tree for every answer; what Penstock asks of the API
server is a dozen requests whose bodies it has ready. Every request may be repeated safely: objects are created by
name, replaced by version and deleted by name, so a push-back or a lost answer is tried again here until the deadline.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import socket
import ssl
import time
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec

from penstock.adapters.kubernetes.access import Access, Token, tls
from penstock.adapters.kubernetes.pressure import Pressure
from penstock.adapters.kubernetes.trouble import Pushback, trouble
from penstock.errors import Closed, Unavailable

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
#: Metadata only: what is created or looked up is rarely needed back as a whole.
META_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
META_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"

encode = msgspec.json.Encoder().encode
#: Longest that `close` waits for the last sockets.
_CLOSE_S = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClientSettings:
    #: Requests under way at once. 32 saturate an API server; twice that only waits in its queue.
    in_flight: int = 32
    #: One attempt, from connecting to the last byte.
    attempt_s: float = 15.0
    #: All attempts together; then the caller hears `Unavailable`.
    patience_s: float = 30.0
    #: A watch that hears nothing this long is taken for dead: bookmarks come every minute.
    silence_s: float = 150.0


@dataclasses.dataclass
class Use:
    """What was asked and how it was answered, since the start: for metrics. Streams are not counted."""

    #: Attempts with an answer, refusals among them.
    answered: int = 0
    #: Attempts that the server put off (429, 5xx), and those without any answer.
    pushed_back: int = 0
    unanswered: int = 0
    #: Requests that were sent again.
    retried: int = 0
    #: Seconds that requests lost to it, summed: in vain for an answer, in the pause after it, and in the queue while
    #: the server's push-backs let fewer through.
    held_s: float = 0.0


class _Gate:
    """Lets as many through as `Pressure` allows, in order of arrival."""

    def __init__(self, pressure: Pressure) -> None:
        self.pressure = pressure
        self.inside = 0
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()

    async def enter(self, *, urgent: bool = False) -> None:
        """`urgent` = at once, counted like all others."""
        if urgent or (self.inside < self.pressure.allowed and not self._waiting):
            self.inside += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        self.inside -= 1
        while self._waiting and self.inside < self.pressure.allowed:
            turn = self._waiting.popleft()
            if not turn.done():
                self.inside += 1
                turn.set_result(None)


class KubernetesClient:
    """Shared by all that speak to one cluster. Close it last."""

    def __init__(self, access: Access, settings: ClientSettings | None = None) -> None:
        """Raises InvalidInput (certificates)."""
        self.access = access
        self.settings = settings or ClientSettings()
        self._tls: ssl.SSLContext | None = tls(access) if access.server.startswith("https:") else None
        self._token = Token(access)
        self._gate = _Gate(Pressure(self.settings.in_flight))
        self.use = Use()
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._headers: dict[tuple[str, str], dict[str, str]] = {}
        self._sent_token = ""
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    @property
    def pressure(self) -> Pressure:
        return self._gate.pressure

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        params: Mapping[str, str] | None = None,
        accept: str = JSON,
        content_type: str = JSON,
        patience_s: float | None = None,
        urgent: bool = False,
    ) -> bytes:
        """Send until it is answered; returns the answer's body. `urgent` = before all that waits for its turn: what
        holds a Lease must not be late because thousands of Jobs are being created.

        Raises AlreadyExists, Conflict, Expired, Forbidden (QuotaExceeded, NamespaceMissing), NotFound, Refused (422),
        and Unavailable (Pushback, OutOfSpace) when there was no better answer within the patience; Closed.
        """
        deadline = time.monotonic() + (self.settings.patience_s if patience_s is None else patience_s)
        while True:
            sent = await self._turn(urgent=urgent)
            try:
                status, retry_after, data = await self._attempt(method, path, body, params, accept, content_type)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                failure: Unavailable = Unavailable(f"{method} {path}: the API server does not answer ({_say(error)})")
                failure.__cause__ = error
                self.use.unanswered += 1
                self.use.held_s += time.monotonic() - sent
            else:
                if status < 400:
                    self.use.answered += 1
                    self._gate.pressure.answered()
                    return data
                found = trouble(status, data, what=f"{method} {path}", retry_after=retry_after)
                if status == 401 and self._token.reload():
                    continue
                if not isinstance(found, Unavailable):
                    self.use.answered += 1
                    self._gate.pressure.answered()
                    raise found
                self.use.pushed_back += 1
                failure = found
            finally:
                self._gate.leave()
            await self._pause(failure, deadline)

    async def _turn(self, *, urgent: bool) -> float:
        """Enter the gate, and wait there while the server wants nothing. Returns the moment when it may be sent."""
        asked, pressure = time.monotonic(), self._gate.pressure
        # Where all is well, a queue is our own bound and nobody's push-back.
        pressed = pressure.pressing(asked)
        await self._gate.enter(urgent=urgent)
        try:
            if not urgent and (held := pressure.held_until - time.monotonic()) > 0:
                pressed = True
                await asyncio.sleep(held)
        except asyncio.CancelledError:
            self._gate.leave()
            raise
        sent = time.monotonic()
        if pressed:
            self.use.held_s += sent - asked
        return sent

    async def _pause(self, failure: Unavailable, deadline: float) -> None:
        """Wait as long as the server asked, or raise when that is beyond the deadline."""
        now = time.monotonic()
        after_s = failure.after_s if isinstance(failure, Pushback) else 0.0
        pause = self._gate.pressure.pushed_back(now, after_s)
        if now + pause >= deadline:
            raise failure
        self.use.retried += 1
        self.use.held_s += pause
        await asyncio.sleep(pause)

    async def _attempt(  # noqa: PLR0917 - by keyword costs, once per Job
        self,
        method: str,
        path: str,
        body: bytes | None,
        params: Mapping[str, str] | None,
        accept: str,
        content_type: str,
    ) -> tuple[int, str, bytes]:
        session = self._open()
        async with session.request(
            method, path, data=body, params=params, headers=self._header(accept, content_type)
        ) as response:
            return response.status, response.headers.get("Retry-After", ""), await response.read()

    def _header(self, accept: str, content_type: str) -> dict[str, str]:
        token = self._token.header()
        if token != self._sent_token:
            self._headers.clear()
            self._sent_token = token
        headers = self._headers.get((accept, content_type))
        if headers is None:
            headers = {"Accept": accept, "Content-Type": content_type, "Accept-Encoding": "identity"}
            if token:
                headers["Authorization"] = token
            self._headers[accept, content_type] = headers
        return headers

    def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise Closed("the connection to the cluster was closed")
        if self._session is None:
            # The gate bounds requests; watches and logs hold a connection each and must not starve them.
            connector = aiohttp.TCPConnector(
                ssl=True if self._tls is None else self._tls, limit=0, socket_factory=self._socket
            )
            self._session = aiohttp.ClientSession(
                self.access.server,
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=self.settings.attempt_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent",),
            )
        return self._session

    async def send(self, method: str, path: str, document: object, *, content_type: str = JSON, **options: Any) -> Any:
        """`request` with a document each way, for what is not on the hot path."""
        return msgspec.json.decode(
            await self.request(method, path, encode(document), content_type=content_type, **options)
        )

    async def get(self, path: str, *, accept: str = JSON, **params: str) -> Any:
        """Read one document. Raises as `request`."""
        return msgspec.json.decode(await self.request("GET", path, params=params or None, accept=accept))

    @asynccontextmanager
    async def stream(
        self, path: str, params: Mapping[str, str], *, silence_s: float | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """A long answer in chunks as they come (a watch, a log), outside of the bound on requests.

        Raises as `request`, without trying again; Unavailable also when the stream breaks or falls silent.
        """
        quiet = self.settings.silence_s if silence_s is None else silence_s
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.settings.attempt_s, sock_read=quiet or None)
        try:
            async with self._open().get(
                path, params=params, headers=self._header(JSON, JSON), timeout=timeout
            ) as response:
                if response.status >= 400:
                    if response.status == 401:
                        self._token.reload()
                    data = await response.read()
                    after = response.headers.get("Retry-After", "")
                    raise trouble(response.status, data, what=f"GET {path}", retry_after=after)
                try:
                    yield response.content.iter_any()
                finally:
                    # Left in the middle: nobody is to wait for the orderly end of a connection that may be dead.
                    if response.connection is not None and response.connection.transport is not None:
                        response.connection.transport.abort()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"GET {path}: the stream from the API server broke ({_say(error)})") from error

    async def close(self) -> None:
        """End every stream and connection. Idempotent."""
        self._closed = True
        if self._session is not None:
            await self._session.close()
            # Connections that a cancelled request left in the middle close in the loop's next turns, by TLS's rules.
            deadline = time.monotonic() + _CLOSE_S
            # A socket tells nobody that it was closed, so it is looked at.
            while any(one.fileno() != -1 for one in self._sockets) and time.monotonic() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    def _socket(self, address: Any) -> socket.socket:
        made = socket.socket(*address[:3])
        self._sockets.add(made)
        return made


def _say(error: BaseException) -> str:
    return str(error) or type(error).__name__
