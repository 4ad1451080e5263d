"""Whatever is sent, the server answers as its document says: no defect shows (no 5xx), no schema is broken, and nothing
but the open pages answers without a credential.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from yarl import URL

from gateway.openapi.document import document
from tests.oscar.fuzzing import Request, requests
from tests.oscar.schemas import Checker
from tests.oscar.world import World, service, world_of

#: Answered without a credential, by the promise.
OPEN = {"/health", "/ready", "/", "/ui", "/ui/api", "/openapi.json", "/metrics"}
PATIENCE_S = 30.0


@pytest.fixture
async def fuzzed(tmp_path: Path) -> AsyncIterator[World]:
    async with world_of(tmp_path / "data", http={"body_timeout_s": 5.0, "run_timeout_s": 5.0}) as world:
        await furnish(world)
        yield world


async def furnish(world: World) -> None:
    """What the known names stand for; a request may have deleted it."""
    await world.ask("POST", "/system/services", service("copy", script="true\n"))
    await world.ask("POST", "/system/buckets", {"bucket_name": "shelf"})
    await world.ask("PUT", "/v1/buckets/shelf/objects/in/a", b"data")
    await world.ask("POST", "/v1/functions/copy/resume")


class Sender:
    """Sends one request from hypothesis' synchronous world and judges the answer."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._checker = Checker(document())
        self.answered: dict[int, int] = {}

    async def judge(self, sent: Request) -> None:
        for credential in ("", self._world.basic()):
            status, headers, body = await self._send(sent, credential)
            self.answered[status] = self.answered.get(status, 0) + 1
            told = f"{sent} -> {status} {body[:300]!r}"
            assert status < 500 or _is_of_the_function(sent, status, headers), told
            if not credential and sent.route not in OPEN:
                assert status in {400, 401, 404, 405, 413, 431}, told
                continue
            self._check(sent, status, headers, body, told)
            if status == 204 and (sent.method == "DELETE" or sent.route.endswith("/pause")):
                await furnish(self._world)

    def _check(self, sent: Request, status: int, headers: Any, body: bytes, told: str) -> None:
        answers = document()["paths"][sent.route][sent.method.lower()]["responses"]
        if sent.path.partition("?")[0] != sent.route and status in {404, 405}:
            return  # the name led to no address or to another one
        if str(status) not in answers:
            # The framework's own refusals come before any operation: a head that is no HTTP, a name that leads away.
            assert status in {400, 404, 405}, told
            return
        content = answers[str(status)].get("content", {})
        media = headers.get("Content-Type", "").partition(";")[0]
        if body and content:
            assert media in content or media in {"text/plain", "text/html"}, told
        if media == "application/json" and "application/json" in content and body:
            assert self._checker.problems(json.loads(body), content["application/json"]["schema"]) == [], told

    async def _send(self, sent: Request, credential: str) -> tuple[int, Any, bytes]:
        headers = {**sent.headers, **({"Authorization": credential} if credential else {})}
        url = URL(self._world.platform.address + sent.path, encoded=True)
        async with asyncio.timeout(PATIENCE_S):
            async with self._world.session.request(
                sent.method,
                url,
                data=sent.body,
                headers=headers,
                allow_redirects=False,
                skip_auto_headers=("Content-Type", "User-Agent"),
            ) as answer:
                if answer.headers.get("Content-Type", "") == "text/event-stream" or _endless(sent):
                    answer.close()
                    return answer.status, answer.headers, b""
                return answer.status, answer.headers, await answer.read()


def _is_of_the_function(sent: Request, status: int, headers: Any) -> bool:
    """A synchronous run whose script failed, or did not end in time: the answer names the invocation."""
    return sent.route in {"/run/{name}", "/v1/functions/{name}/run"} and (
        status in {500, 504} and "X-Penstock-Invocation" in headers
    )


def _endless(sent: Request) -> bool:
    return "follow" in sent.path


async def fuzz(world: World, examples: int, *, derandomize: bool, within: str = "") -> dict[int, int]:
    """Hypothesis calls plain functions, so it has a thread of its own and each request runs on this loop."""
    sender = Sender(world)
    loop = asyncio.get_running_loop()

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=derandomize,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(requests(within))
    def each(sent: Request) -> None:
        asyncio.run_coroutine_threadsafe(sender.judge(sent), loop).result(4 * PATIENCE_S)

    await asyncio.to_thread(each)
    return sender.answered


def _is_wide(answered: dict[int, int]) -> None:
    """The requests went everywhere, or the test proves little."""
    assert {200, 201, 204, 400, 401, 404} <= set(answered), answered


async def test_some_hundred_requests_of_every_kind(fuzzed: World) -> None:
    _is_wide(await fuzz(fuzzed, 300, derandomize=True))


@pytest.mark.slow
@pytest.mark.endurance
async def test_ten_thousand_requests_of_every_kind(fuzzed: World) -> None:
    answered = await fuzz(fuzzed, 10_000, derandomize=False)
    _is_wide(answered)
    assert sum(answered.values()) >= 20_000, "each with and without a credential"


async def test_the_server_is_well_afterwards(fuzzed: World) -> None:
    await fuzz(fuzzed, 50, derandomize=True)
    assert (await fuzzed.ask("GET", "/ready", who="")).status == 200
    assert not list((fuzzed.platform.data / "tmp").iterdir())


@pytest.mark.parametrize("part", ["path", "header", "body"])
async def test_sizes_are_bounded(tmp_path: Path, part: str) -> None:
    http = {"max_header_bytes": 4096, "max_payload_bytes": 10_000, "max_document_bytes": 10_000}
    async with world_of(tmp_path / "data", http=http) as world:
        await world.create()
        if part == "path":
            answer = await world.ask("GET", "/system/services/" + "a" * 20_000)
            assert answer.status in {400, 414}
        elif part == "header":
            answer = await world.ask("GET", "/system/services", X_Much="a" * 20_000)
            assert answer.status in {400, 431}
        else:
            for method, path in (("POST", "/job/copy"), ("POST", "/run/copy"), ("POST", "/system/services")):
                answer = await world.ask(method, path, b"a" * 10_001)
                assert (answer.status, "larger than the 10,000 bytes" in answer.text) == (413, True)


async def test_slow_clients_cannot_hold_the_server(tmp_path: Path) -> None:
    """Silent connections and stalled bodies are given up, while others are served; too many at once are told so."""
    limits = {"header_timeout_s": 0.3, "body_timeout_s": 0.3, "max_connections": 8}
    async with world_of(tmp_path / "data", http=limits) as world:
        await world.create()
        address = URL(world.platform.address)
        assert address.host is not None
        assert address.port is not None
        silent = [await asyncio.open_connection(address.host, address.port) for _ in range(4)]
        reader, writer = await asyncio.open_connection(address.host, address.port)
        head = f"POST /job/copy HTTP/1.1\r\nHost: x\r\nAuthorization: {world.basic()}\r\nContent-Length: 100\r\n\r\nab"
        writer.write(head.encode())
        assert (await world.ask("GET", "/system/services")).status == 200, "others are served meanwhile"
        async with asyncio.timeout(PATIENCE_S):
            assert b" 503 " in await reader.readline(), "a stalled body"
            await reader.read()  # and the connection is closed
            for held, _ in silent:
                try:
                    assert await held.read() == b"", "silent connections are closed"
                except ConnectionResetError:
                    continue
        for _, one in [*silent, (reader, writer)]:
            one.close()
        crowd = [await asyncio.open_connection(address.host, address.port) for _ in range(12)]
        async with asyncio.timeout(PATIENCE_S):
            told = [await one.read(12) for one, _ in crowd[9:]]
        assert b"HTTP/1.1 503" in told
        for _, one in crowd:
            one.close()
        async with aiohttp.ClientSession(base_url=address) as session, asyncio.timeout(PATIENCE_S):
            while True:
                async with session.get("/health") as answer:
                    if answer.status == 200:
                        break
                await asyncio.sleep(0.05)
