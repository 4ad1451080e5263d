"""The wire: what passes, what is delayed, refused, dropped, and that nothing is lost or reordered on the way."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from tests.testbed.links import Address, Cut, Link, LoopThread
from tests.testbed.ports import Reservations


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    one = LoopThread()
    yield one
    one.close()


@pytest.fixture
def ports() -> Iterator[Reservations]:
    one = Reservations()
    yield one
    one.close()


@asynccontextmanager
async def echo() -> AsyncIterator[Address]:
    """A server that returns all it was sent, once the client has said that it is done."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(await reader.read())
            await writer.drain()
        except ConnectionError:
            pass  # A wire that was cut.
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Address("127.0.0.1", server.sockets[0].getsockname()[1])


async def ask(address: Address, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(data)
        writer.write_eof()
        return await reader.read()
    except OSError as error:
        # A reset that comes between the two writes is told as "not connected".
        raise ConnectionResetError(str(error)) from error
    finally:
        writer.close()


@asynccontextmanager
async def wired(thread: LoopThread, ports: Reservations) -> AsyncIterator[Link]:
    async with echo() as server:
        link = Link(thread, [Address("127.0.0.1", ports.port())], server)
        await link.open()
        yield link
        await link.close()


async def test_bytes_and_the_end_pass_both_ways(thread: LoopThread, ports: Reservations) -> None:
    data = os.urandom(3_000_000)
    async with wired(thread, ports) as link:
        assert await ask(link.address, data) == data


async def test_a_delay_does_not_narrow_the_wire(thread: LoopThread, ports: Reservations) -> None:
    data = os.urandom(3_000_000)
    loop = asyncio.get_running_loop()
    async with wired(thread, ports) as link:
        await link.slow(0.2)
        started = loop.time()
        assert await ask(link.address, data) == data
        took = loop.time() - started
    # Some 46 chunks each way: one after the other they would take 18 s.
    assert 0.4 <= took < 4


async def test_refused_until_mended(thread: LoopThread, ports: Reservations) -> None:
    async with wired(thread, ports) as link:
        reader, writer = await asyncio.open_connection(link.address.host, link.address.port)
        writer.write(b"x")
        await link.cut()
        with pytest.raises(ConnectionError):
            await reader.readexactly(1)
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await ask(link.address, b"x")
        await link.open()
        with pytest.raises(ConnectionRefusedError):
            await ask(link.address, b"x")
        await link.mend()
        assert await ask(link.address, b"x") == b"x"


async def test_dropped_data_passes_when_mended(thread: LoopThread, ports: Reservations) -> None:
    async with wired(thread, ports) as link:
        await link.cut(Cut.DROP)
        asking = asyncio.create_task(ask(link.address, b"x"))
        done, _ = await asyncio.wait([asking], timeout=0.3)
        assert not done
        await link.mend()
        assert await asyncio.wait_for(asking, 5) == b"x"


async def test_without_a_server_connections_are_reset(thread: LoopThread, ports: Reservations) -> None:
    link = Link(thread, [Address("127.0.0.1", ports.port())], None)
    await link.open()
    with pytest.raises(ConnectionError):
        await ask(link.address, b"x")
    async with echo() as server:
        await link.lead_to(server)
        assert await ask(link.address, b"x") == b"x"
    with pytest.raises(ConnectionError):
        await ask(link.address, b"x")
    await link.close()


def test_reserved_ports_and_slots_are_nobody_elses() -> None:
    one, other = Reservations(), Reservations()
    mine, theirs = ({who.port() for _ in range(50)} for who in (one, other))
    assert len(mine) == len(theirs) == 50
    assert not mine & theirs
    slots = {one.slot(), other.slot(), one.slot()}
    assert len(slots) == 3
    skipped = other.slot(taken=frozenset(range(40)))
    assert skipped >= 40
    one.close()
    other.close()
