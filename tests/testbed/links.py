"""A wire between us and a server that a test can stretch, cut and mend.

Every component is reached through a `Link`: a small TCP relay in front of it. Faults of the network are made there, so
they need no root, touch no firewall, and reach exactly one server of one bed. A benchmark that must not pay for the
relay uses the component's direct address.

The relays live on a thread of their own (`LoopThread`), since the event loops of tests come and go.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

Result = TypeVar("Result")
CHUNK = 1 << 16
# How much one direction may hold back while it is delayed, in chunks.
HELD_CHUNKS = 256


class LoopThread:
    """An event loop on a thread of its own, for what must go on between tests."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="testbed", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run to the end from a thread without a loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def call(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run to the end from any loop, this one included."""
        if asyncio.get_running_loop() is self._loop:
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def close(self) -> None:
        """End the thread, with whatever still runs on it."""
        self.run(self._cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cancel_all(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class Cut(Enum):
    """How a cut wire looks to a client."""

    REFUSE = "refuse"
    """Connections are refused, existing ones reset: the server's process is gone."""
    DROP = "drop"
    """Connections hang and nothing passes: the packets are lost."""


@dataclass(frozen=True)
class Address:
    """A TCP address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Link:
    """A relay from one or more addresses of ours to a server's own address."""

    def __init__(self, loop: LoopThread, listen: list[Address], upstream: Address | None) -> None:
        self._loop = loop
        self._listen = listen
        self._upstream = upstream
        self._servers: list[asyncio.Server] = []
        self._passing: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._flows = asyncio.Event()
        self._flows.set()
        self._delay = 0.0
        self._opened = False
        self._refuses = False

    @property
    def address(self) -> Address:
        """Where clients on this host connect."""
        return self._listen[0]

    async def open(self) -> None:
        """Accept connections; a second call changes nothing, so a cut wire stays cut."""
        if not self._opened:
            self._opened = True
            await self._loop.call(self._accept())

    async def lead_to(self, upstream: Address | None) -> None:
        """Change where the wire ends; None refuses, as long as there is no server."""
        self._upstream = upstream

    async def slow(self, seconds: float) -> None:
        """Delay what passes by `seconds` in each direction, without narrowing the wire."""
        self._delay = seconds

    async def cut(self, how: Cut = Cut.REFUSE) -> None:
        """Cut the wire until `mend`."""
        await self._loop.call(self._refuse() if how is Cut.REFUSE else self._drop())

    async def mend(self) -> None:
        """End `slow` and `cut`; held data passes on, as a network would send it again."""
        self._delay = 0.0
        await self._loop.call(self._restore())

    async def close(self) -> None:
        """Stop for good."""
        await self._loop.call(self._refuse())

    async def _accept(self) -> None:
        if self._servers:
            return
        for address in self._listen:
            self._servers.append(await asyncio.start_server(self._serve, address.host, address.port))

    async def _refuse(self) -> None:
        self._refuses = True
        for server in self._servers:
            for listening in server.sockets:
                asyncio.get_running_loop().remove_reader(listening.fileno())
        # What was accepted a moment ago becomes a connection within two turns of the loop; a server that is closed in
        # between would forget it, and its client would wait for ever.
        for _ in range(3):
            await asyncio.sleep(0)
        for server in self._servers:
            server.close()
        self._servers.clear()
        for task, writers in list(self._passing.items()):
            for writer in writers:
                _reset(writer)
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    async def _drop(self) -> None:
        self._flows.clear()

    async def _restore(self) -> None:
        self._refuses = False
        self._flows.set()
        await self._accept()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        writers = self._passing[task] = [writer]
        try:
            await self._flows.wait()
            # A connection may have been accepted just before the wire was cut, and be served only now.
            if self._refuses or self._upstream is None:
                _reset(writer)
                return
            far_reader, far_writer = await asyncio.open_connection(self._upstream.host, self._upstream.port)
            writers.append(far_writer)
            async with asyncio.TaskGroup() as directions:
                directions.create_task(self._direction(reader, far_writer))
                directions.create_task(self._direction(far_reader, writer))
        except* OSError:
            for one in writers:
                _reset(one)
        except* asyncio.CancelledError:
            # Only `cut` and `close` cancel, and they have reset both ends; asyncio would log it as a failure.
            pass
        finally:
            del self._passing[task]
            for one in writers:
                one.close()

    async def _direction(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(HELD_CHUNKS)
        async with asyncio.TaskGroup() as both:
            both.create_task(self._take(reader, held))
            both.create_task(self._give(held, writer))

    async def _take(self, reader: asyncio.StreamReader, held: asyncio.Queue[tuple[float, bytes]]) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            data = await reader.read(CHUNK)
            await held.put((clock() + self._delay, data))
            if not data:
                return

    async def _give(self, held: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due, data = await held.get()
            wait = due - clock()
            if wait > 0:
                await asyncio.sleep(wait)
            await self._flows.wait()
            if not data:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset, so that the client sees a broken connection and not an orderly end."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if not writer.transport.is_closing():
        writer.transport.abort()
