"""Following a collection: list, then watch from the list's version, for ever.

The watcher of a collection gets a `Snapshot` first and after every loss of the thread (410, when the server no longer
has the history), and a `Change` for each event between. Comparing a snapshot with what it knew tells it what was
deleted meanwhile, so no last state is lost, whatever breaks. Only the fields that the given type names are decoded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Generic, TypeVar

import msgspec
import structlog

from penstock.adapters.kubernetes.client import KubernetesClient
from penstock.adapters.kubernetes.trouble import Expired, trouble
from penstock.errors import Corrupt, Unavailable

log = structlog.get_logger("penstock.kubernetes")

T = TypeVar("T")

PAGE = 500
#: The server ends a watch after this long; going on costs one request and shares the load between servers.
WATCH_S = 290
_SILENCE_MARGIN_S = 5
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0


class ListMeta(msgspec.Struct):
    resourceVersion: str = ""  # noqa: N815 - the API's name
    continue_: str = msgspec.field(default="", name="continue")


class ListOf(msgspec.Struct, Generic[T]):
    metadata: ListMeta
    items: list[T]


class Snapshot(msgspec.Struct, Generic[T], frozen=True):
    """Everything there is, consistent with all writes that were acknowledged before it was asked for."""

    items: list[T]
    version: str = ""
    #: When it was asked for, by `time.monotonic`: what was written after that may be missing.
    asked: float = 0.0


class Change(msgspec.Struct, Generic[T], frozen=True):
    item: T
    #: The object is gone; `item` is its last state.
    deleted: bool


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Meta(msgspec.Struct):
    resourceVersion: str = ""  # noqa: N815


class _Versioned(msgspec.Struct):
    metadata: _Meta


class _Failure(msgspec.Struct):
    code: int = 500


class Follower(Generic[T]):
    """One collection at `path`, narrowed by label selector. `kind` is a msgspec Struct of the fields wanted.

    For whoever must know how old his view is: `heard` is called with True whenever the server was heard (a list, an
    opened watch, an event, a bookmark) and with False when the thread is lost; a short `watch_s` makes a watch on which
    nothing happens speak that often, since its end and the next one's beginning are heard too.
    """

    def __init__(
        self,
        client: KubernetesClient,
        path: str,
        kind: type[T],
        *,
        selector: str = "",
        watch_s: int = WATCH_S,
        heard: Callable[[bool], None] | None = None,
    ) -> None:
        self._client = client
        self._path = path
        self._selector = selector
        self._watch_s = watch_s
        #: Longer than the server may be silent; None = the client's own limit.
        self._silence_s = None if watch_s == WATCH_S else watch_s + _SILENCE_MARGIN_S
        self._heard: Callable[[bool], None] = heard or _nobody_hears
        self._decode_list: msgspec.json.Decoder[ListOf[T]] = msgspec.json.Decoder(ListOf[kind])  # type: ignore[valid-type]
        self._decode: msgspec.json.Decoder[T] = msgspec.json.Decoder(kind)
        self._decode_event = msgspec.json.Decoder(_Event).decode
        self._decode_version = msgspec.json.Decoder(_Versioned).decode
        self._decode_failure = msgspec.json.Decoder(_Failure).decode

    async def list(self) -> Snapshot[T]:
        """Everything there is now. Raises as `KubernetesClient.request`, Corrupt."""
        while True:
            try:
                return await self._list()
            except Expired:
                continue  # the server forgot the version between two pages: begin anew

    async def _list(self) -> Snapshot[T]:
        asked = time.monotonic()
        items: list[T] = []
        after = ""
        while True:
            params = {"limit": str(PAGE), **self._narrowed()}
            if after:
                params["continue"] = after
            data = await self._client.request("GET", self._path, params=params)
            try:
                page = self._decode_list.decode(data)
            except msgspec.DecodeError as error:
                raise Corrupt(f"the list {self._path} cannot be read: {error}") from error
            items += page.items
            after = page.metadata.continue_
            if not after:
                return Snapshot(items, page.metadata.resourceVersion, asked)

    def _narrowed(self) -> dict[str, str]:
        return {"labelSelector": self._selector} if self._selector else {}

    async def follow(self) -> AsyncIterator[Snapshot[T] | Change[T]]:
        """For ever. Trouble that passes is waited out; Closed, Forbidden, NotFound and Corrupt are raised."""
        pause = _FIRST_PAUSE_S
        version = ""
        while True:
            try:
                if not version:
                    snapshot = await self.list()
                    version = snapshot.version
                    self._heard(True)
                    yield snapshot
                async for seen, change in self._watch(version):
                    version = seen
                    pause = _FIRST_PAUSE_S
                    if change is not None:
                        yield change
            except Expired:
                self._heard(False)
                version = ""
            except Unavailable as error:
                self._heard(False)
                log.warning("a watch broke", action="watch_broken", path=self._path, error=error.message)
                await asyncio.sleep(pause)
                pause = min(_LONGEST_PAUSE_S, pause * 2)

    async def _watch(self, version: str) -> AsyncIterator[tuple[str, Change[T] | None]]:
        """Changes after a version, each with the version to go on from, until the server ends the watch."""
        params = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(self._watch_s),
            **self._narrowed(),
        }
        async with self._client.stream(self._path, params, silence_s=self._silence_s) as chunks:
            self._heard(True)
            async for line in lines(chunks):
                self._heard(True)
                event = self._read(self._decode_event, line)
                if event.type == "ERROR":
                    code = self._read(self._decode_failure, event.object).code
                    raise trouble(code, bytes(event.object), what=f"watch {self._path}")
                seen = self._read(self._decode_version, event.object).metadata.resourceVersion
                if event.type == "BOOKMARK":
                    yield seen, None
                else:
                    item = self._read(self._decode.decode, event.object)
                    yield seen, Change(item, event.type == "DELETED")

    def _read(self, decode: Any, data: bytes | msgspec.Raw) -> Any:
        try:
            return decode(data)
        except msgspec.DecodeError as error:
            raise Corrupt(f"an event of {self._path} cannot be read: {error}") from error


def _nobody_hears(alive: bool) -> None:
    """For followers of whom nobody asks how old their view is."""


async def lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Whole lines, without their ends, of any length. A torn last line is dropped: the stream broke in it."""
    rest: list[bytes] = []
    async for chunk in chunks:
        head, *more = chunk.split(b"\n")
        rest.append(head)
        for following in more:
            line = b"".join(rest)
            rest = [following]
            if line.strip():
                yield line
