"""A wire to the object store on which a process dies at a chosen request: the one thing no real part does on demand.

What passes is untouched, so signatures hold. Requests that change something are counted, and at the chosen one the
process is killed: before the store hears of it, or after it has done it and before the answer is read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tests.testbed.links import Address

CHANGES = (b"PUT ", b"POST ", b"DELETE ")
CHUNK = 1 << 16


class KillingWire:
    def __init__(self, store: Address) -> None:
        self._store = store
        self._server: asyncio.Server | None = None
        self._count = 0
        self._step = 0
        self._after = False
        self._strike: Callable[[], Awaitable[None]] | None = None
        self._passing: set[asyncio.Task[None]] = set()
        self.url = ""
        #: The first line of the request at which it happened, "" = not yet.
        self.struck = ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = "http://{}:{}".format(*self._server.sockets[0].getsockname()[:2])
        try:
            yield
        finally:
            self._server.close()
            for task in self._passing:
                task.cancel()
            await asyncio.gather(*self._passing, return_exceptions=True)

    def arm(self, step: int, strike: Callable[[], Awaitable[None]], *, after: bool) -> None:
        """At the `step`-th change from now on."""
        self._count, self._step, self._after, self._strike, self.struck = 0, step, after, strike, ""

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)
        store_reader, store_writer = await asyncio.open_connection(self._store.host, self._store.port)
        due = asyncio.Event()
        try:
            with contextlib.suppress(ConnectionError):
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._requests(reader, store_writer, due))
                    both.create_task(self._answers(store_reader, writer, due))
        finally:
            writer.close()
            store_writer.close()

    async def _requests(self, reader: asyncio.StreamReader, store: asyncio.StreamWriter, due: asyncio.Event) -> None:
        while data := await reader.read(CHUNK):
            if data.startswith(CHANGES) and self._strike is not None:
                self._count += 1
                if self._count == self._step:
                    self.struck = data.split(b" HTTP/", 1)[0].decode("latin-1")
                    if not self._after:
                        await self._hit()
                        break
                    due.set()
            store.write(data)
            await store.drain()
        store.write_eof()

    async def _answers(self, store: asyncio.StreamReader, writer: asyncio.StreamWriter, due: asyncio.Event) -> None:
        while data := await store.read(CHUNK):
            if due.is_set():
                await self._hit()
                return
            writer.write(data)
            await writer.drain()

    async def _hit(self) -> None:
        strike, self._strike = self._strike, None
        if strike is not None:
            await strike()
