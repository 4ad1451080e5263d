"""The server around the handlers: probes, status, changes, limits on connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from gateway.api.server import address_of, bind, parse_listen
from gateway.embedded import Embedded
from penstock.client import Client
from penstock.errors import Conflict, Forbidden, InvalidInput
from tests.gateway.conftest import COPY, fdl, running, settings_for


async def connect(platform: Embedded) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = platform.address.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)


# ---- probes and status


async def test_probes(http: aiohttp.ClientSession) -> None:
    async with http.get("/health") as answer:
        assert (answer.status, await answer.text()) == (200, "Ok")
    async with http.get("/ready") as answer:
        assert (answer.status, await answer.json()) == (200, {"ready": True})


async def test_not_ready_names_what_is_missing(platform: Embedded, http: aiohttp.ClientSession) -> None:
    platform._parts_up["watcher"].clear()
    async with http.get("/ready") as answer:
        assert answer.status == 503
        assert await answer.json() == {"ready": False, "waiting_for": ["watcher"]}


async def test_metrics_count_what_happened(http: aiohttp.ClientSession, client: Client) -> None:
    await client.apply(fdl(), {"copy.sh": COPY})
    await client.run("copy", b"x")
    async with http.get("/metrics") as answer:
        text = await answer.text()
    assert 'penstock_invocations{function="copy",phase="succeeded"} 1.0' in text
    assert 'penstock_http_requests_total{method="POST",route="/v1/apply",status="200"} 1.0' in text
    assert "penstock_ready 1.0" in text
    assert 'penstock_build_info{service="embedded",version="' in text


async def test_status_tells_of_the_server_and_of_each_function(client: Client, platform: Embedded) -> None:
    await client.apply(fdl(concurrency=2), {"copy.sh": COPY})
    await client.run("copy", b"x")
    status = await client.status()
    assert status.data == str(platform.data)
    assert status.slots.cpu_millis_total > 0
    assert status.uptime_s > 0
    [one] = status.functions
    assert (one.name, one.succeeded, one.queued, one.running, one.concurrency) == ("copy", 1, 0, 0, 2)


async def test_a_defect_is_500_with_the_requests_id_and_no_details(
    http: aiohttp.ClientSession, platform: Embedded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken() -> list[str]:
        raise ValueError("internals")

    monkeypatch.setattr(platform.services.store, "buckets", broken)
    async with http.get("/v1/buckets", headers={"Accept": "application/json", "X-Request-Id": "mine"}) as answer:
        assert answer.status == 500
        told = (await answer.json())["error"]
    assert told["message"] == "the server met an error it did not expect; its log tells it under mine"
    assert "internals" in capsys.readouterr().out


# ---- changes


async def test_changes_tell_every_phase_of_an_invocation(client: Client) -> None:
    await client.apply(fdl(), {"copy.sh": COPY})
    phases = []
    async with asyncio.timeout(20), client.changes() as changes:
        invocation = await client.submit("copy", b"x")
        async for change in changes:
            assert change.invocation is not None
            assert change.invocation.id == invocation
            phases.append(change.invocation.phase)
            if change.invocation.final:
                break
    assert phases[0] == "queued"
    assert phases[-1] == "succeeded"


async def test_streams_end_when_the_server_stops(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path / "data")) as platform:
        headers = {"Authorization": f"Bearer {platform.services.credentials.token}"}
        async with (
            aiohttp.ClientSession(base_url=platform.address, headers=headers) as session,
            session.get("/v1/changes") as answer,
        ):
            platform.services.changes.close()
            async with asyncio.timeout(5):
                text = await answer.text()
    assert text == ": changes from now on\n\n"


# ---- limits


async def test_a_connection_that_says_nothing_is_closed(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path / "data", header_timeout_s=0.1)) as platform:
        reader, writer = await connect(platform)
        writer.write(b"GET /health HTT")
        async with asyncio.timeout(5):
            # Reset or closed in order, as the kernel likes; a connection left open would run into the timeout.
            await asyncio.gather(reader.read(), return_exceptions=True)
        await close(writer)
        assert b'penstock_http_connections_refused_total{reason="silent"} 1.0' in platform.services.metrics.text()


async def test_a_connection_that_spoke_stays(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path / "data", header_timeout_s=0.1)) as platform:
        async with aiohttp.ClientSession(base_url=platform.address) as session:
            for _ in range(3):
                async with session.get("/health") as answer:
                    assert answer.status == 200
                await asyncio.sleep(0.15)
        assert b'reason="silent"' not in platform.services.metrics.text()


async def test_too_many_connections_are_told_so(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path / "data", max_connections=2)) as platform:
        held = [await connect(platform) for _ in range(2)]
        for _, writer in held:
            writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        for reader, _ in held:
            await reader.readuntil(b"Ok")
        reader, writer = await connect(platform)
        text = await reader.read()
        assert text.startswith(b"HTTP/1.1 503 ")
        assert text.endswith(b"too many connections; try again in a moment\n")
        for one in (writer, *(writer for _, writer in held)):
            await close(one)


async def test_a_head_that_is_too_large_is_refused(http: aiohttp.ClientSession) -> None:
    async with http.get("/health", headers={"X-Big": "x" * 20_000}) as answer:
        assert answer.status == 400
    async with http.get("/health", params={"big": "x" * 20_000}) as answer:
        assert answer.status == 400


async def test_a_reader_that_does_not_read_is_given_up(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path / "data", body_timeout_s=0.2)) as platform:
        store = platform.services.store
        await store.create_bucket("inbox")
        await store.write("inbox", "big", chunks(64, 1024 * 1024))
        _, writer = await connect(platform)
        token = platform.services.credentials.token
        writer.write(
            f"GET /v1/buckets/inbox/objects/big HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        )
        async with asyncio.timeout(10):
            while b'route="/v1/buckets/{bucket}/objects/{key}"' not in platform.services.metrics.text():
                await asyncio.sleep(0.02)
        await close(writer)


async def chunks(count: int, size: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * size


# ---- the socket


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("127.0.0.1:8080", ("127.0.0.1", 8080)), ("[::1]:0", ("::1", 0)), ("localhost:1", ("localhost", 1))],
)
def test_listen_is_host_and_port(text: str, wanted: tuple[str, int]) -> None:
    assert parse_listen(text) == wanted


@pytest.mark.parametrize(
    "text", ["8080", ":8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:port", "h:70000", "::1:80", ""]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"listen: give HOST:PORT such as"):
        parse_listen(text)


def test_a_taken_port_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Conflict, match=rf"port {port} on 127.0.0.1 is taken by another program; stop that one, or"):
            bind(f"127.0.0.1:{port}", allow_remote=False)


def test_an_address_that_others_can_reach_needs_a_word() -> None:
    with pytest.raises(Forbidden, match="the credential would travel in clear"):
        bind("0.0.0.0:0", allow_remote=False)
    with bind("0.0.0.0:0", allow_remote=True) as sock:
        assert address_of(sock)[0].startswith("http://127.0.0.1:")


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"192\.0\.2\.1 is not an address of this machine"):
        bind("192.0.2.1:0", allow_remote=True)
    with pytest.raises(InvalidInput, match="has no address here"):
        bind("no-such-host.invalid:0", allow_remote=True)
