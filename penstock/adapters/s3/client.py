"""Signed HTTP to one S3 store: one pool of connections, a deadline for everything, and retries where they are safe.

What may have been done although no answer came is never simply sent again: such a request ends as `Doubtful`, and
whoever made it looks first. HTTP details end here; above are answers and Penstock's errors.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from yarl import URL

from penstock.adapters.s3 import wire
from penstock.adapters.s3.body import EMPTY, Body
from penstock.adapters.s3.config import MIB, S3Config
from penstock.adapters.s3.endpoint import parse_endpoint
from penstock.adapters.s3.retrying import pause_s, retry_after_s
from penstock.adapters.s3.sigv4 import Scope, query_string, sign
from penstock.adapters.s3.store_clock import StoreClock
from penstock.adapters.s3.trouble import Failure, Refused, Target, translate
from penstock.errors import Closed, InvalidInput, Unavailable

#: Larger bodies wait for the store's word that it wants them, else a refusal would be lost under the broken upload.
_ASK_FIRST_BYTES = 256 * 1024
_NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_MAX_ERROR_BYTES = 64 * 1024


class Doubtful(Unavailable):
    """A request that must not be repeated blindly may or may not have been carried out."""


class _Broken(Exception):
    """No answer. Never leaves the adapter."""

    def __init__(self, cause: Exception, *, sent: bool) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.sent = sent


@dataclass(frozen=True)
class Ask:
    """One request. `repeatable` = sending it twice is the same as once."""

    method: str
    target: Target
    key: str = ""
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body = EMPTY
    repeatable: bool = True


@dataclass(frozen=True)
class Answer:
    """A success, its body read."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Client:
    """Made anywhere; belongs to the event loop of its first request."""

    def __init__(self, config: S3Config) -> None:
        """Raises InvalidInput for an endpoint that is none and a file of authorities that cannot be read."""
        self.config = config
        self.endpoint = parse_endpoint(config.endpoint, config.style)
        self._scope = Scope(config.region)
        self._tls = _tls(config.verify) if self.endpoint.secure else True
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(config.connections)
        self._clock = StoreClock(config.clock)
        self._asks_first = True
        self._closed = False

    async def call(self, ask: Ask) -> Answer:
        """Ask until there is an answer. Raises Doubtful (not repeatable), and what `trouble.translate` says."""
        attempt = 0
        while True:
            attempt += 1
            failure = Failure(0)
            try:
                async with self._slots:
                    response = await self._send(ask)
                    answer = await self._finish(response, ask)
                if isinstance(answer, Answer):
                    return answer
                failure = answer
            except _Broken as broken:
                await self._pause(ask, attempt, broken=broken)
            else:
                await self._pause(ask, attempt, failure=failure)

    async def open(self, ask: Ask) -> aiohttp.ClientResponse:
        """As `call`, for an answer whose body is read by the caller, who must `close` the response."""
        attempt = 0
        while True:
            attempt += 1
            try:
                response = await self._send(ask)
                if response.status < 300:
                    return response
                failure = await self._finish(response, ask)
                assert isinstance(failure, Failure)
            except _Broken as broken:
                await self._pause(ask, attempt, broken=broken)
            else:
                await self._pause(ask, attempt, failure=failure)

    async def _pause(
        self, ask: Ask, attempt: int, *, broken: _Broken | None = None, failure: Failure | None = None
    ) -> None:
        """Return when it is time to try again; raise when it is not to be tried again."""
        if failure is not None and failure.code == _CLOCK_CORRECTED and attempt < self.config.attempts:
            return
        if broken is not None:
            error: Exception = _unreachable(broken, ask.target, self.endpoint.host)
            cause: Exception | None = broken.cause
            hopeless = isinstance(broken.cause, aiohttp.ClientConnectorCertificateError)
            doubtful = broken.sent
        else:
            assert failure is not None
            error, cause = translate(failure, ask.target), Refused(failure)
            hopeless, doubtful = not failure.busy, failure.busy
        if hopeless:
            raise error from cause
        if doubtful and not ask.repeatable:
            raise Doubtful(str(error)) from cause
        if attempt >= self.config.attempts:
            raise error from cause
        asked = failure.retry_after_s if failure is not None else None
        await asyncio.sleep(pause_s(attempt, random.random(), asked))  # noqa: S311 - spreads clients, hides nothing

    async def _send(self, ask: Ask) -> aiohttp.ClientResponse:
        """Send once and return the answer's head. Raises _Broken, Closed."""
        session = self._open_session()
        host, path = self.endpoint.place(ask.target.bucket, ask.key)
        query = query_string(ask.query) if ask.query else ""
        headers = sign(
            self.config.account(),
            self._scope,
            self._clock.now_s(),
            method=ask.method,
            path=path,
            query=query,
            headers={"host": host, **ask.headers, **ask.body.headers},
            payload_hash=ask.body.payload_hash,
        )
        url = f"{self.endpoint.scheme}://{host}{path}"
        limit = self.config.deadline_s + ask.body.size / MIB
        asks_first = self._asks_first and ask.body.size > _ASK_FIRST_BYTES
        try:
            async with asyncio.timeout(limit):
                response = await session.request(
                    ask.method,
                    URL(f"{url}?{query}" if query else url, encoded=True),
                    headers=headers | _framing(ask.body, ask.method),
                    data=_content(ask.body),
                    expect100=asks_first,
                    allow_redirects=False,
                )
        except _NOT_SENT as error:
            raise _Broken(error, sent=False) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            # Perhaps something in between swallows the question: without it the next try has a chance.
            self._asks_first = self._asks_first and not (asks_first and isinstance(error, TimeoutError))
            raise _Broken(error, sent=True) from error
        return response

    async def _finish(self, response: aiohttp.ClientResponse, ask: Ask) -> Answer | Failure:
        """Read the rest of a short answer."""
        try:
            async with asyncio.timeout(self.config.deadline_s):
                if response.status < 300:
                    return Answer(response.status, response.headers, await response.read())
                short = response.content_length is not None and response.content_length <= _MAX_ERROR_BYTES
                body = await (response.read() if short else response.content.read(_MAX_ERROR_BYTES))
                return self._failure(response, body)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _Broken(error, sent=True) from error
        finally:
            # A connection whose request was sent and whose answer was read to the end is in the pool again; this closes
            # others.
            if not response.content.at_eof() or (response.status >= 300 and ask.body.chunks is not None):
                response.close()

    def _failure(self, response: aiohttp.ClientResponse, body: bytes) -> Failure:
        code = wire.error_code(body) or wire.tame_code(response.headers.get("x-minio-error-code", ""))
        if response.status == 403 and self._clock.corrected(wire.http_time_s(response.headers.get("Date"))):
            code = _CLOCK_CORRECTED
        marker = response.headers.get("x-amz-delete-marker") == "true"
        return Failure(response.status, code, retry_after_s(response.headers.get("Retry-After")), marker)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise Closed("the S3 store is closed")
        if self._session is None:
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=self._tls, keepalive_timeout=20),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=self.config.connect_s, sock_read=self.config.stall_s
                ),
                auto_decompress=False,
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            )
            # When a pooled connection breaks, aiohttp sends a PUT again on its own, although it may have been done.
            session._retry_connection = False  # noqa: SLF001 - there is no public switch; a test tells if it goes
            self._session = session
        return self._session

    async def close(self) -> None:
        self._closed = True
        if self._session is not None:
            await self._session.close()
            self._session = None


#: In place of a code: the clock was corrected, so the same request is worth sending at once.
_CLOCK_CORRECTED = "clock corrected"


def _framing(body: Body, method: str) -> dict[str, str]:
    """Headers that are not signed."""
    if method in {"PUT", "POST"}:
        return {"content-length": str(body.size), "user-agent": "penstock"}
    return {"user-agent": "penstock"}


def _content(body: Body) -> object:
    return body.chunks() if body.chunks is not None else (body.data or None)


def _unreachable(broken: _Broken, target: Target, host: str) -> Unavailable:
    if isinstance(broken.cause, aiohttp.ClientConnectorCertificateError):
        return Unavailable(
            f"{target} cannot be {target.wish}: the certificate of the object store at {host} is not trusted; "
            "give the file of its authority"
        )
    how = "did not answer in time" if isinstance(broken.cause, TimeoutError) else "cannot be reached or hung up"
    return Unavailable(f"{target} cannot be {target.wish}: the object store at {host} {how}")


def _tls(verify: bool | Path) -> ssl.SSLContext | bool:
    if isinstance(verify, bool):
        return verify
    try:
        return ssl.create_default_context(cafile=str(verify))
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(f"{verify} is not a readable PEM file of certificates", where="verify") from error
