"""Speaks to the pods: sends a run, asks whether one is up, and how much it is used. One session for all of them."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import Self

import aiohttp
import msgspec

from dispatcher.sidecar import calls
from dispatcher.sidecar.calls import Call, Unframer, Use, frame
from gateway.resident.answer import Answer
from penstock.errors import InvalidInput, PenstockError, Unavailable

#: A pod is in the same cluster: it is there within this time or it is gone.
CONNECT_S = 2.0
_ASK = aiohttp.ClientTimeout(total=CONNECT_S)
#: Added to the deadline of a run: its outputs still have to go up.
_PUBLISH_S = 60.0
_LONGEST_HEAD = 64 * 1024 * 1024
_LARGE_BYTES = 512 * 1024


class NotBegun(Exception):
    """The pod did not begin the run: it may be sent elsewhere."""


class PodLost(PenstockError):
    """The pod was lost while it ran, or may have run; what it did is not known."""

    code = "pod_lost"


class PodClient:
    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # Connections live as long as their pods; a request on one that was just closed could not be told from a lost
        # one.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=300.0)
        self._session = aiohttp.ClientSession(
            connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def _open(self) -> aiohttp.ClientSession:
        assert self._session is not None
        return self._session

    async def up(self, address: str) -> bool:
        """Whether runs are taken there."""
        try:
            async with self._open.get(address + calls.READY_PATH, timeout=_ASK) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def use(self, address: str, key: str) -> Use | None:
        """None = it does not say."""
        try:
            async with self._open.get(address + calls.USE_PATH, headers=_proof(key), timeout=_ASK) as answer:
                return calls.decode_use(await answer.read()) if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError):
            return None

    async def run(self, address: str, key: str, call: Call, body: bytes, *, content_type: str) -> Answer:
        """Send one run and wait for its end. Raises NotBegun, PodLost, InvalidInput."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=call.deadline_s + _PUBLISH_S)
        whole = frame(call) + body
        data = whole if len(whole) <= _LARGE_BYTES else io.BytesIO(whole)
        try:
            response = await self._open.post(
                address + calls.RUN_PATH, data=data, headers=_proof(key), timeout=timeout, allow_redirects=False
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotBegun(str(error)) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise PodLost(f"the function's pod was lost during the run: {_say(error)}") from error
        try:
            return await _answer(response, call, content_type)
        except BaseException:
            response.close()
            raise


async def _answer(response: aiohttp.ClientResponse, call: Call, content_type: str) -> Answer:
    if response.status != 200:
        await _raise(response)
    head = Unframer(_LONGEST_HEAD)
    chunks = _chunks(response)
    async for chunk in chunks:
        if head.feed(chunk):
            break
    try:
        result = calls.decode_reply(head.head or b"").result
    except msgspec.DecodeError as error:
        raise PodLost("the function's pod was lost before it had answered") from error
    if result.invocation != call.invocation:
        raise PodLost("the function's pod answered for another run")

    async def rest() -> AsyncIterator[bytes]:
        if head.rest:
            yield head.rest
        async for chunk in chunks:
            yield chunk

    async def close() -> None:
        # An answer that was not read to its end closes the connection.
        response.close() if not response.content.at_eof() else response.release()

    return Answer(invocation=call.invocation, result=result, content_type=content_type, chunks=rest(), close=close)


async def _raise(response: aiohttp.ClientResponse) -> None:
    why = response.headers.get(calls.NOT_BEGUN, "")
    text = (await response.content.read(500)).decode("utf-8", "replace").strip()
    if why:
        response.release()
        raise NotBegun(why)
    if response.status == 400:
        raise InvalidInput(text)
    raise PodLost(f"the function's pod answered {response.status}: {text}")


async def _chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unavailable(f"the function's pod was lost in the middle of its answer: {_say(error)}") from error


def _proof(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _say(error: Exception) -> str:
    return str(error) or type(error).__name__
