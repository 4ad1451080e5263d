"""A wire to MinIO that breaks at exact places: after so many bytes, or just when the answer to one request comes back.

The bed's own wire is cut at a moment; these tests need the moment to be that of a certain byte. It can also end TLS, so
that a MinIO without a certificate is reached over one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from tests.testbed.links import Address

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass
class Faults:
    """Each is used up by happening."""

    #: The answer to the next request whose head contains this is lost: the connection is reset instead.
    lose_answer_to: list[bytes] = field(default_factory=list)
    #: Resets the connection when this many bytes have come down it.
    cut_down_after: list[int] = field(default_factory=list)
    #: The same for bytes that go up, counted over all of them.
    cut_up_after: list[int] = field(default_factory=list)
    #: What happened, for the test.
    happened: list[str] = field(default_factory=list)
    #: Set when anything has happened.
    noticed: asyncio.Event = field(default_factory=asyncio.Event)
    up_bytes: int = 0

    def note(self, what: str) -> None:
        self.happened.append(what)
        self.noticed.set()


class _Passage:
    """One connection."""

    def __init__(self, faults: Faults, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.faults, self.near, self.far = faults, near, far
        self.armed = b""
        self.down = 0

    async def up(self, reader: asyncio.StreamReader) -> None:
        faults = self.faults
        while data := await reader.read(1 << 16):
            for wanted in faults.lose_answer_to:
                if wanted in data:
                    faults.lose_answer_to.remove(wanted)
                    self.armed = wanted
                    break
            faults.up_bytes += len(data)
            if faults.cut_up_after and faults.up_bytes > faults.cut_up_after[0]:
                faults.cut_up_after.pop(0)
                faults.note("cut up")
                self.reset()
                return
            self.far.write(data)
            await self.far.drain()
        self.reset()

    async def back(self, reader: asyncio.StreamReader) -> None:
        faults = self.faults
        while data := await reader.read(1 << 16):
            if self.armed and data != _CONTINUE:
                faults.note(f"lost {self.armed.decode()}")
                self.reset()
                return
            self.down += len(data)
            if faults.cut_down_after and self.down > faults.cut_down_after[0]:
                faults.cut_down_after.pop(0)
                faults.note("cut down")
                self.reset()
                return
            self.near.write(data)
            await self.near.drain()
        self.reset()

    def reset(self) -> None:
        for writer in (self.near, self.far):
            if not writer.transport.is_closing():
                writer.transport.abort()


@contextlib.asynccontextmanager
async def relay(upstream: Address, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Address, Faults]]:
    """Yields where to connect, and the faults to fill."""
    faults = Faults()
    serving: set[asyncio.Task[None]] = set()

    async def serve(near_reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        far_reader, far = await asyncio.open_connection(upstream.host, upstream.port)
        passage = _Passage(faults, near, far)
        ways = [asyncio.create_task(passage.up(near_reader)), asyncio.create_task(passage.back(far_reader))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass  # the test is over; asyncio would log it as a failure
        finally:
            passage.reset()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            serving.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield Address(host, port), faults
    finally:
        server.close()
        for task in list(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
