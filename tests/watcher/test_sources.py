"""The sources of the production watcher, each by itself: answers, refusals, positions, breaks."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from penstock.adapters.s3 import Credentials, S3Config, S3Store
from penstock.adapters.s3.notifications import Notifications
from penstock.adapters.sqlite import SqliteEventLog
from penstock.errors import Unavailable
from penstock.model import TOPIC_DEAD, BucketEvent
from penstock.ports import Delivery, EventLog, Gap, LogEntry
from penstock.probes import serving
from tests.factories import make_event
from tests.watcher.stage import dead_of
from watcher.metrics import WatcherMetrics
from watcher.quarantine import KEPT_BYTES, Quarantine
from watcher.sources.joined import JoinedSource
from watcher.sources.listen import ListenSource
from watcher.sources.topic import TopicSource
from watcher.sources.webhook import WebhookSource
from watcher.storecounters import LOSSES, StoreCounters, moved, read_counters

TOPIC = "penstock.raw"


def notification(key: str, bucket: str = "inbox") -> bytes:
    item = {"key": key, "size": 1, "eTag": "e", "sequencer": "18A0000000000000"}
    record = {"eventName": "s3:ObjectCreated:Put", "s3": {"bucket": {"name": bucket}, "object": item}}
    return json.dumps({"EventName": record["eventName"], "Key": f"{bucket}/{key}", "Records": [record]}).encode()


class AwayLog:
    """The log while it does not answer, until a test brings it back."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.away = True

    async def append(self, topic: str, entries: Sequence[LogEntry]) -> list[tuple[int, int]]:
        if self.away:
            raise Unavailable("the log is away")
        return await self._log.append(topic, entries)

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteEventLog]:
    opened = await SqliteEventLog.open(tmp_path / "log.db")
    yield opened
    await opened.close()


@pytest.fixture
def metrics() -> WatcherMetrics:
    return WatcherMetrics(CollectorRegistry())


@contextlib.asynccontextmanager
async def served(source: WebhookSource) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/", source.handle)
    async with serving(app, "127.0.0.1:0") as address:
        yield f"http://{address}/"


async def post(url: str, body: bytes) -> int:
    async with aiohttp.ClientSession() as session, session.post(url, data=body) as answer:
        return answer.status


# Webhook


async def test_an_answer_comes_only_when_the_events_are_safe(log: SqliteEventLog, metrics: WatcherMetrics) -> None:
    source = WebhookSource(quarantine=Quarantine(log, metrics), metrics=metrics, answer_s=30.0)
    async with served(source) as url, aclosing(source.events()) as events:  # type: ignore[type-var]
        posting = [asyncio.create_task(post(url, notification(f"k{number}"))) for number in range(20)]
        got: list[str] = []
        while len(got) < 20:
            news = await anext(events)
            assert isinstance(news, Delivery)
            assert not any(task.done() for task in posting if len(got) == 0)
            got += [event.key for event in news]
            news.settle()
        assert await asyncio.gather(*posting) == [200] * 20
        assert sorted(got) == sorted(f"k{number}" for number in range(20))
        await source.close()


async def test_refusals_are_a_gap_once_events_go_through_again(log: SqliteEventLog, metrics: WatcherMetrics) -> None:
    source = WebhookSource(quarantine=Quarantine(log, metrics), metrics=metrics, answer_s=0.05, max_waiting=2)
    async with served(source) as url, aclosing(source.events()) as events:  # type: ignore[type-var]
        assert await post(url, notification("refused")) == 503  # nobody follows yet
        posting = asyncio.create_task(post(url, notification("taken")))
        news = await anext(events)
        assert isinstance(news, Delivery)
        # What was refused is not kept: the store sends it again.
        assert [event.key for event in news] == ["taken"]
        news.settle()
        assert await posting == 200
        assert isinstance(await anext(events), Gap)
        await source.close()


async def test_too_many_at_once_are_sent_away_at_once(log: SqliteEventLog, metrics: WatcherMetrics) -> None:
    source = WebhookSource(quarantine=Quarantine(log, metrics), metrics=metrics, answer_s=30.0, max_waiting=3)
    async with served(source) as url:
        posting = [asyncio.create_task(post(url, notification(f"k{number}"))) for number in range(8)]
        async with asyncio.timeout(20):
            while sum(task.done() for task in posting) < 5:
                await asyncio.sleep(0.01)
        assert [task.result() for task in posting if task.done()] == [503] * 5
        assert not await source.drain(0.01)
        assert await post(url, notification("late")) == 503  # it is stopping
        events = source.events()
        news = await anext(events)
        assert isinstance(news, Delivery)
        news.settle()
        assert await source.drain(20)
        assert sorted(await asyncio.gather(*posting)) == [200] * 3 + [503] * 5
        await source.close()
        with pytest.raises(StopAsyncIteration):
            await anext(events)


async def test_garbage_waits_for_the_log_too(log: SqliteEventLog, metrics: WatcherMetrics) -> None:
    away = AwayLog(log)
    source = WebhookSource(quarantine=Quarantine(away, metrics), metrics=metrics)  # type: ignore[arg-type]
    async with served(source) as url:
        assert await post(url, b"rubbish") == 503
        away.away = False
        assert await post(url, b"rubbish") == 200
    (letter,) = await dead_of(log)
    assert letter.original == b"rubbish"


async def test_of_large_garbage_the_beginning_is_kept(log: SqliteEventLog, metrics: WatcherMetrics) -> None:
    await Quarantine(log, metrics).put(b"x" * (KEPT_BYTES + 1), "too strange", topic=TOPIC)
    (letter,) = await dead_of(log)
    assert len(letter.original) == KEPT_BYTES
    assert letter.message.startswith("too strange (of its 524289 bytes the first 524288 are kept)")


# Topic


async def test_a_position_is_stored_only_when_all_before_it_is_safe(
    log: SqliteEventLog, metrics: WatcherMetrics
) -> None:
    await log.append(TOPIC, [LogEntry("k", value) for value in (notification("a"), b"rubbish", notification("b"))])

    def source() -> TopicSource:
        quarantine = Quarantine(log, metrics)
        return TopicSource(log=log, topic=TOPIC, group="g", quarantine=quarantine, metrics=metrics, commit_s=0.0)

    first = source()
    async with aclosing(first.events()) as events:  # type: ignore[type-var]
        news = await anext(events)
        assert isinstance(news, Delivery)
        assert [event.key for event in news] == ["a", "b"]
        # Not settled: as if the process died now.
    assert await log.committed("g", TOPIC) == {}
    second = source()
    async with aclosing(second.events()) as events:  # type: ignore[type-var]
        again = await anext(events)
        assert isinstance(again, Delivery)
        assert again == news
        again.settle()
        following = asyncio.create_task(anext(events, None))
        async with asyncio.timeout(20):
            while await log.committed("g", TOPIC) != await log.end(TOPIC):
                await asyncio.sleep(0.01)
        await second.close()
        assert await following is None
    letters = await dead_of(log)
    assert {letter.original for letter in letters} == {b"rubbish"}
    assert (letters[0].topic, letters[0].offset > 0) == (TOPIC, True)
    assert await log.end(TOPIC_DEAD) != {}


# Listening: the server is played, since the MinIO of the bed holds back what it should send


class Stream:
    """An object store that sends what a test says."""

    def __init__(self) -> None:
        self.lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.status = 200

    async def listen(self, request: web.Request) -> web.StreamResponse:
        if self.status != 200:
            return web.Response(status=self.status)
        assert request.query.getall("events")
        answer = web.StreamResponse()
        await answer.prepare(request)
        while (line := await self.lines.get()) is not None:
            await answer.write(line)
        return answer


@contextlib.asynccontextmanager
async def listening(metrics: WatcherMetrics) -> AsyncIterator[tuple[Stream, ListenSource]]:
    stream = Stream()
    app = web.Application()
    app.router.add_get("/", stream.listen)
    async with serving(app, "127.0.0.1:0") as address:
        store = S3Store(S3Config(endpoint=f"http://{address}", credentials=Credentials("a", "s"), attempts=1))
        source = ListenSource(Notifications(store.client), metrics=metrics, retry_s=0.01)
        try:
            yield stream, source
        finally:
            await source.close()
            stream.lines.put_nowait(None)
            await store.close()


PING = b'{"Records":null}\n'


async def test_lines_are_events_however_they_are_cut_and_a_break_is_a_gap(metrics: WatcherMetrics) -> None:
    async with listening(metrics) as (stream, source):
        source._buckets = frozenset({"inbox"})
        events = source.events()
        line = notification("a+b%2F") + b"\n"
        for part in (PING, b" ", line[:40], line[40:] + notification("x", "other") + b"\n", b"rubbish\n"):
            stream.lines.put_nowait(part)
        news = await anext(events)
        assert isinstance(news, list)
        assert [event.key for event in news] == ["a+b%2F"]  # not escaped on this way
        stream.lines.put_nowait(None)
        stream.lines.put_nowait(PING)
        stream.lines.put_nowait(notification("later") + b"\n")
        assert isinstance(await anext(events), Gap)
        news = await anext(events)
        assert isinstance(news, list)
        assert [event.key for event in news] == ["later"]
        await source.close()
        with pytest.raises(StopAsyncIteration):
            await anext(events)


async def test_a_store_that_may_not_be_listened_to_is_no_gap(metrics: WatcherMetrics) -> None:
    async with listening(metrics) as (stream, source):
        stream.status = 403
        events = source.events()
        following = asyncio.ensure_future(anext(events, None))
        async with asyncio.timeout(20):
            while not source._refused:
                await asyncio.sleep(0.01)
        await source.watch_buckets(["inbox"])  # waits for nothing
        await source.close()
        assert await following is None


# Joined


class ListSource:
    """A source that yields what it was given."""

    def __init__(self, news: Sequence[list[BucketEvent] | Gap], error: Exception | None = None) -> None:
        self._news = news
        self._error = error
        self.watched: set[str] = set()

    async def events(self) -> AsyncIterator[list[BucketEvent] | Gap]:
        for one in self._news:
            yield one
        if self._error is not None:
            raise self._error

    async def watch_buckets(
        self, buckets: Collection[str], prefixes: Mapping[str, Collection[str]] | None = None
    ) -> None:
        self.watched = set(buckets)

    async def close(self) -> None: ...


async def test_joined_sources_tell_everything_and_which_way_it_came() -> None:
    batches = [[make_event(f"{number}")] for number in range(50)]
    first, second = ListSource(batches), ListSource([*batches[:2], Gap(why="x")])
    heard: list[str] = []
    joined = JoinedSource({"one": first, "two": second}, heard=lambda way, _: heard.append(way))
    joined.tell(Gap(bucket="b", why="somebody else's"))
    await joined.watch_buckets(["b"])
    assert first.watched == second.watched == {"b"}
    news = [one async for one in joined.events()]
    assert sum(len(one) for one in news if isinstance(one, list)) == 52
    assert {one.why for one in news if isinstance(one, Gap)} == {"x", "somebody else's"}
    assert (heard.count("one"), heard.count("two")) == (50, 2)


async def test_a_source_that_fails_fails_the_whole() -> None:
    joined = JoinedSource({"good": ListSource([]), "bad": ListSource([], RuntimeError("broken"))})
    with pytest.raises(RuntimeError, match="broken"):
        _ = [one async for one in joined.events()]


# The store's counters

PAGE = """# TYPE minio_notify_events_skipped_total counter
minio_notify_events_skipped_total{server="a"} 1
minio_notify_events_skipped_total{server="b"} 2
# TYPE minio_notify_target_failed_events counter
minio_notify_target_failed_events{target_id="x"} 5
# TYPE minio_notify_target_queue_length gauge
minio_notify_target_queue_length{target_id="x"} 7
"""


def test_counters_of_all_servers_and_targets_are_summed_and_judged() -> None:
    losses, queued = read_counters(PAGE)
    assert (losses[LOSSES[0]], losses[LOSSES[1]], queued) == (3.0, 5.0, 7.0)
    assert moved({}, losses) == ""
    assert moved(losses, losses) == ""
    assert "from 3 to 4" in moved(losses, {**losses, LOSSES[0]: 4.0})
    assert "restarted" in moved(losses, {LOSSES[0]: 0.0})
    with pytest.raises(ValueError, match=r".+"):
        read_counters("<html>")


async def test_what_is_lost_all_the_time_is_told_more_and_more_seldom(metrics: WatcherMetrics) -> None:
    told: list[Gap] = []
    counters = StoreCounters(url="http://x", account=lambda: ("a", "s"), lost=told.append, metrics=metrics)
    at: list[int] = []
    for look in range(40):
        counters._judge("lost")
        if len(told) > len(at):
            at.append(look)
    assert at == [0, 1, 3, 7, 15, 31]
    for _ in range(40):
        counters._judge("")
    counters._judge("lost again")
    assert told[-1].why == "lost again"
