"""A webhook that takes every event and tells nobody: how notifications are lost without anyone noticing.

Refusing connections is another fault: a sender sees it, and one with a queue sends again later. A lost event is one
that the sender believes to be delivered.
"""

from __future__ import annotations

import asyncio

from tests.testbed.links import Address, LoopThread

ACCEPTED = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class BlackHole:
    """An HTTP server that answers 200 to everything and counts what had a body."""

    def __init__(self, loop: LoopThread, address: Address) -> None:
        self._loop = loop
        self.address = address
        self.swallowed = 0
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen; a second call changes nothing."""
        await self._loop.call(self._listen())

    async def close(self) -> None:
        """Stop listening; senders are cut off with the bed's loop."""
        await self._loop.call(self._stop())

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, self.address.host, self.address.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                fields = [line.partition(b":") for line in head.lower().splitlines()]
                length = next((int(value) for name, _, value in fields if name == b"content-length"), 0)
                await reader.readexactly(length)
                writer.write(ACCEPTED)
                await writer.drain()
                self.swallowed += 1 if length else 0
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # The sender has gone.
        finally:
            writer.close()
