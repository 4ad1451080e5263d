"""Traces reach a collector: a real HTTP server that takes posts as an OpenTelemetry collector does, or refuses them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter

from dispatcher.lifecycle import queued, refused
from penstock import settings as penstock_settings
from penstock.client import Client
from penstock.errors import InvalidInput
from penstock.model import ErrorClass, Phase, Record
from penstock.settings_telemetry import TelemetryGroup
from penstock.telemetry import MOST, Exporter, open_exporter
from penstock.tracing import TRACEPARENT
from tests.factories import NOW, make_event, make_function
from tests.live import ended, fdl, own_state_folder, running, settings_for, until

__all__ = ["own_state_folder", "until"]

GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
CARRY = 'printenv TRACEPARENT > "$TMP_OUTPUT_DIR/$(basename "$INPUT_FILE_PATH")"\n'


class Collector:
    """`answers` = statuses of the next posts, then 200."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.bodies: list[dict[str, Any]] = []
        self.address = ""

    @property
    def spans(self) -> list[dict[str, Any]]:
        return [
            span
            for body in self.bodies
            for resource in body["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]

    async def _take(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/json"
        status = self.answers.pop(0) if self.answers else 200
        if status == 200:
            self.bodies.append(await request.json())
        return web.json_response({}, status=status)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Collector]:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/traces", self._take)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield self
        finally:
            await runner.cleanup()


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with Collector().serving() as collector:
        yield collector


class Counts:
    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.exported = Counter("exported", "Taken.", registry=registry)
        self.dropped = Counter("dropped", "Given up.", registry=registry)

    def __call__(self) -> tuple[float, float]:
        return tuple(next(iter(one.collect())).samples[0].value for one in (self.exported, self.dropped))  # type: ignore[return-value]


def exporter(endpoint: str, counts: Counts, **settings: Any) -> Exporter:
    group = TelemetryGroup(endpoint=endpoint, **settings)
    return Exporter(group, exported=counts.exported, dropped=counts.dropped)


def final(name: str = "inv", **event: Any) -> Record:
    record = queued(name, make_function(), make_event(**event), now=NOW, epoch=1)
    return refused(record, Phase.SKIPPED, "gone", ErrorClass.GONE, now=NOW + 5)


async def test_only_ended_invocations_that_their_trace_wants_are_sent(collector: Collector) -> None:
    counts = Counts()
    one = exporter(collector.address, counts)
    one.offer(queued("waits", make_function(), make_event(), now=NOW, epoch=1))
    one.offer(final("unsampled", trace=GIVEN[:-2] + "00"))
    one.offer(final("sampled", trace=GIVEN))
    async with aiohttp.ClientSession() as session:
        assert await one.turn(session)
        assert await one.turn(session)
    assert [span["name"] for span in collector.spans if span["kind"] == 5] == ["thumbs"]
    assert counts() == (1.0, 0.0)


async def test_a_collector_that_says_later_gets_them_later_and_in_order(collector: Collector) -> None:
    collector.answers = [503, 429]
    counts = Counts()
    one = exporter(collector.address + "/", counts)
    async with aiohttp.ClientSession() as session:
        for number in range(2):
            one.offer(final(f"inv-{number}"))
            assert not await one.turn(session)
        assert counts() == (0.0, 0.0)
        assert await one.turn(session)
    assert counts() == (2.0, 0.0)


async def test_what_it_refuses_for_good_is_given_up_and_counted(collector: Collector) -> None:
    collector.answers = [400]
    counts = Counts()
    one = exporter(collector.address, counts)
    one.offer(final())
    async with aiohttp.ClientSession() as session:
        assert await one.turn(session)
    assert counts() == (0.0, 1.0)


async def test_a_collector_that_is_away_costs_the_oldest_and_no_memory() -> None:
    counts = Counts()
    one = exporter("http://127.0.0.1:1", counts, buffer=3, timeout_s=5)
    async with aiohttp.ClientSession() as session:
        for number in range(5):
            one.offer(final(f"inv-{number}"))
            assert not await one.turn(session)
    assert counts() == (0.0, 2.0)


async def test_many_go_in_several_posts(collector: Collector) -> None:
    counts = Counts()
    one = exporter(collector.address, counts)
    for number in range(MOST + 1):
        one.offer(final(f"inv-{number}"))
    async with aiohttp.ClientSession() as session:
        await one.turn(session)
        assert counts() == (MOST, 0.0)
        await one.turn(session)
    assert counts() == (MOST + 1, 0.0)
    assert len(collector.bodies) == 2


def test_no_endpoint_no_exporter_and_a_bad_one_is_one_sentence() -> None:
    counts = Counts()
    assert open_exporter(TelemetryGroup(), counts.exported, counts.dropped) is None
    with pytest.raises(InvalidInput, match=r"telemetry\.endpoint: 'collector:4318' is no HTTP address"):
        open_exporter(TelemetryGroup(endpoint="collector:4318"), counts.exported, counts.dropped)


async def test_a_chain_of_functions_is_one_trace(tmp_path: Path, collector: Collector, until: Any) -> None:
    """Upload with a context -> first function -> its output -> second function: both scripts see the trace, both
    outputs carry it, and the collector is told of it as a tree.
    """
    settings = penstock_settings.override(
        settings_for(tmp_path / "data"), "telemetry", endpoint=collector.address, interval_s=0.05
    )
    async with (
        running(settings) as platform,
        Client(platform.address, platform.services.credentials.token) as client,
    ):
        await client.apply(fdl("one", source="first", target="middle"), {"one.sh": CARRY})
        await client.apply(fdl("two", source="middle", target="last"), {"two.sh": CARRY})
        headers = {"Authorization": f"Bearer {platform.services.credentials.token}", TRACEPARENT: GIVEN}
        async with (
            aiohttp.ClientSession(base_url=platform.address, headers=headers) as session,
            session.put("/v1/buckets/first/objects/files/a.txt", data=b"x") as answer,
        ):
            assert answer.status == 201

        async def invocations() -> list[Any]:
            return list((await client.invocations(function="two")).invocations)

        found = await until(invocations, len)
        last = await ended(client, found[0].id)
        assert last.phase == "succeeded"
        middle = b"".join([piece async for piece in platform.services.store.read("middle", "files/a.txt")]).decode()
        output = b"".join([piece async for piece in platform.services.store.read("last", "files/a.txt")]).decode()
        info = await platform.services.store.head("last", "files/a.txt")

        async def told() -> list[str]:
            return [span["name"] for span in collector.spans if span["kind"] == 5]

        assert await until(told, lambda names: len(names) == 2)
    spans = {span["name"]: span for span in collector.spans if span["kind"] == 5}
    assert {span["traceId"] for span in collector.spans} == {GIVEN[3:35]}
    assert spans["one"]["parentSpanId"] == GIVEN[36:52]
    assert spans["two"]["parentSpanId"] == spans["one"]["spanId"]
    assert middle.strip() == f"00-{GIVEN[3:35]}-{spans['one']['spanId']}-01"
    assert output.strip() == info.metadata[TRACEPARENT] == f"00-{GIVEN[3:35]}-{spans['two']['spanId']}-01"
