"""The production watcher on a real MinIO: everything that is uploaded enters the log, once, by whatever way."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from penstock.adapters.kafka import KafkaEventLog, KafkaSettings
from penstock.adapters.s3.notifications import Rule
from penstock.errors import InvalidInput
from penstock.model import SYSTEM_BUCKET, TOPIC_EVENTS, Origin
from penstock.ports import EventLog
from tests.testbed.kafka import Kafka
from tests.testbed.minio import Minio
from tests.watcher.stage import Stage, dead_of, eventually, function, opened_stage
from watcher.production import ProductionWatcher
from watcher.sources.listen import ListenSource

pytestmark = pytest.mark.components

#: Keys that go wrong somewhere between a client, a signature, an escaped event and a listing.
AWKWARD = [
    "in/a b+c%2Fd.png",
    "in/..hidden/x..",
    "in/%2e%2e/%2F",
    "in/ünï-日本-🐟",
    "in/quote\"'<&>;?*#=",
    "in/" + "/".join(["k" * 200] * 5) + "/" + "e" * 16,
]


@pytest.fixture
async def stage(minio: Minio, tmp_path: Path) -> AsyncIterator[Stage]:
    async with opened_stage(minio, tmp_path) as opened:
        await opened.registry.create(function("first", opened.bucket))
        yield opened


@pytest.mark.parametrize("way", ["webhook", "topic"])
async def test_awkward_keys_are_told_with_the_identity_of_a_listing(stage: Stage, kafka: Kafka, way: str) -> None:
    assert len(AWKWARD[-1]) == 1024
    stage.kafka_servers = str(kafka.address)
    async with stage.running(webhook=way == "webhook", kafka=way == "topic", hint=False) as running:
        await stage.listed(running)
        for key in AWKWARD:
            await stage.put(key, metadata={"penstock-hops": "2"})
        events = await stage.told(*AWKWARD)
    listed = {info.key: info.identity async for page in stage.store.list(stage.bucket) for info in page}
    assert {event.key: event.identity for event in events} == listed
    assert Counter(event.key for event in events) == Counter(AWKWARD)
    assert {event.origin for event in events} == {Origin.PUSH}
    assert {event.hops for event in events} == {2}


@pytest.mark.slow
async def test_a_storm_of_uploads_is_told_once_each_by_two_ways_at_once(stage: Stage, kafka: Kafka) -> None:
    keys = [f"in/{number % 7}/{number}" for number in range(500)]
    stage.kafka_servers = str(kafka.address)
    async with stage.running(kafka=True, hint=True):
        await stage.put_many(keys)
        await stage.told(*keys)
        # Both ways have told everything: nothing more can come.
        await stage.metric_is("repeats_total", lambda count: count >= 500)
    assert Counter(event.key for event in await stage.events()) == Counter(keys)


async def test_every_version_is_told_and_one_overwritten_unseen_is_found(stage: Stage) -> None:
    await stage.store.create_bucket(stage.bucket)
    await stage.store.enable_versioning(stage.bucket)
    early = [await stage.put("in/a", text) for text in (b"1", b"22", b"333")]
    async with stage.running(hint=False) as running:
        await stage.until(lambda events: len(events) == 3)
        await stage.listed(running)
        late = [await stage.put("in/a", text) for text in (b"4444", b"55555")]
        await stage.until(lambda events: len(events) == 5)
        running.watcher.reconciler.request("", "test")
        await stage.metric_is("listed_total", lambda listed: listed >= 3 + 5)
    events = await stage.events()
    assert {event.identity for event in events[:3]} == {info.identity for info in early}
    assert {event.identity for event in events[3:]} == {info.identity for info in late}
    assert {event.origin for event in events[3:]} == {Origin.PUSH}
    async with stage.running(hint=False):  # a restart repeats none of the old versions
        await stage.metric_is("listed_total", lambda listed: listed >= 5)
    assert len(await stage.events()) == 5


# What a webhook may be sent


async def post(running: ProductionWatcher, body: bytes, **headers: str) -> int:
    url = f"http://{running.address}/"
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as answer:
        return answer.status


async def test_garbage_is_answered_as_taken_and_kept_with_its_bytes(stage: Stage) -> None:
    garbage = [b"\xff\xfe rubbish", b'{"Records": [{"eventName": "s3:ObjectCreated:Put"}]}', b"[" * 5000]
    async with stage.running(hint=False, max_body_bytes=4096) as running:
        for body in (*garbage, garbage[0]):
            assert await post(running, body) == 200
        assert await post(running, b"") == 200
        assert await post(running, b"x" * 10_000) == 200
        await stage.put("in/behind")
        await stage.told("in/behind")  # nothing is stuck behind it
    letters = {letter.id: letter for letter in await dead_of(stage.log)}
    assert {letter.original for letter in letters.values()} == {
        garbage[0],
        garbage[1],
        garbage[2][:4096],
        b"x" * 4096,
    }
    assert all(letter.topic == "webhook" and letter.message for letter in letters.values())
    assert stage.metric("quarantined_total") == 5


async def test_only_who_has_the_token_may_send(stage: Stage, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    async with stage.running(hint=False, connect=False, token_file=token) as running:
        assert await post(running, b"", Authorization="Bearer first") == 200
        assert await post(running, b"", Authorization="first") == 200
        for wrong in ("Bearer other", "", "Bearer ", "Bearer firstt"):
            assert await post(running, b"x", Authorization=wrong) == 401
        token.write_text("rotated\n")
        assert await post(running, b"", Authorization="Bearer rotated") == 200
        assert await post(running, b"", Authorization="Bearer first") == 401
    assert await dead_of(stage.log) == []


async def test_an_address_that_others_reach_needs_a_token(stage: Stage) -> None:
    with pytest.raises(InvalidInput, match=r"notify.token_file: is needed because"):
        async with stage.running(listen="0.0.0.0:0", connect=False):
            pass


# Rules


async def test_rules_are_set_beside_those_of_others_and_repaired(stage: Stage) -> None:
    foreign = Rule(id="somebody", arn=stage.minio.KAFKA_ARN, prefix="reports/", suffix=".csv")
    await stage.store.create_bucket(stage.bucket)
    await stage.notifications.put(stage.bucket, [foreign])
    async with stage.running(hint=False, rules_check_s=0.2) as running:
        rules = await stage.notifications.get(stage.bucket)
        assert foreign in rules
        (ours,) = [rule for rule in rules if rule != foreign]
        assert (ours.arn, ours.prefix) == (stage.minio.WEBHOOK_ARN, "in/")
        assert all("Tagging" not in event and "*" not in event for event in ours.events)
        gaps = stage.metric("gaps_total")
        await stage.notifications.put(stage.bucket, [foreign])
        await stage.put("in/untold")  # nobody is told of this one
        await stage.metric_is("rules_repaired_total", lambda count: count == 1)
        await stage.told("in/untold")
        assert set(await stage.notifications.get(stage.bucket)) == {foreign, ours}
        assert stage.metric("gaps_total") > gaps
        await stage.listed(running)
        await stage.put("in/told")
        events = await stage.told("in/told")
        assert events[-1].origin is Origin.PUSH
        # The function goes, and only what is ours with it.
        await stage.registry.delete("first")

        async def only_foreign() -> bool:
            return await stage.notifications.get(stage.bucket) == [foreign]

        await eventually("our rule is gone", only_foreign)


async def test_buckets_of_a_new_function_are_made_and_told_of(stage: Stage) -> None:
    async with stage.running(hint=False, rules_check_s=0.2):
        output = stage.bucket.replace("inbox", "outbox")
        made = function("second", f"{stage.bucket}-2", "", outputs=function("x", output).inputs)
        await stage.registry.create(made)

        async def there() -> bool:
            return {output, f"{stage.bucket}-2"} <= set(await stage.store.buckets())

        await eventually("both buckets are there", there)

        async def ruled() -> bool:
            return bool(await stage.notifications.get(f"{stage.bucket}-2"))

        await eventually("the input bucket has its rule", ruled)
        assert await stage.notifications.get(output) == []


async def test_a_target_that_the_store_lacks_is_a_sentence_and_costs_only_time(stage: Stage) -> None:
    await stage.store.create_bucket(stage.bucket)
    await stage.put("in/before")
    arn = "arn:minio:sqs::ABSENT:webhook"
    async with stage.running(hint=False, arn=arn) as running:
        assert any(arn in reason and "configure it" in reason for reason in running.waiting_for())
        assert stage.metric("targets_missing", arn=arn) == 1
        assert stage.metric("rules_failing") >= 1
        await stage.told("in/before")


# Canary


async def test_a_canary_proves_that_events_arrive_and_tells_when_they_do_not(stage: Stage) -> None:
    async with stage.running(hint=False, canary_s=0.5, canary_patience_s=2.0) as running:
        await stage.metric_is("canary_seconds", lambda seconds: seconds > 0, way="webhook")
        assert stage.metric("canary_silence_seconds", way="webhook") < 60
        lost = stage.metric("canary_lost_total", way="webhook")
        await stage.minio.webhook.cut()
        try:
            await stage.put("in/untold")
            await stage.metric_is("canary_lost_total", lambda count: count > lost, way="webhook")
            await stage.told("in/untold")  # listed at once
        finally:
            await stage.minio.webhook.mend()
        assert running.waiting_for() == []
    canaries = [info.key async for page in stage.store.list(SYSTEM_BUCKET, "canary/") for info in page]
    assert len([key for key in canaries if key]) >= 1
    assert all(event.bucket != SYSTEM_BUCKET for event in await stage.events())


# Several, and again


async def test_two_watchers_at_once_tell_each_object_at_most_twice(stage: Stage) -> None:
    """Each has a memory of its own, so both publish what both hear of; the ledger drops the second by its identity."""
    keys = [f"in/{number}" for number in range(20)]
    async with stage.running(hint=False), stage.running(data="second", hint=False) as second:
        await stage.put_many(keys)
        await stage.told(*keys)
        second.watcher.reconciler.request("", "test")
        await stage.metric_is("listed_total", lambda count: count >= 20)
    events = await stage.events()
    assert set(Counter(event.key for event in events)) == set(keys)
    assert max(Counter(event.identity for event in events).values()) <= 2
    assert len({event.identity for event in events}) == 20


async def test_a_storm_of_repeats_adds_nothing(stage: Stage, kafka: Kafka) -> None:
    """The store's topic is read from its beginning by each new installation: ten times the same."""
    stage.kafka_servers = str(kafka.address)
    keys = [f"in/{number}" for number in range(30)]
    owner = stage.owner
    for turn in range(5):
        stage.owner = f"{owner}-{turn}"  # another group, so the topic is read anew
        async with stage.running(kafka=True, webhook=False, hint=False):
            if not turn:
                await stage.put_many(keys)
            await stage.told(*keys)
            await stage.metric_is("repeats_total", lambda count, turn=turn: count >= 30 * bool(turn))  # type: ignore[misc]
    assert Counter(event.key for event in await stage.events()) == Counter(keys)


@pytest.mark.parametrize("kind", ["file", "kafka"])
async def test_latency_from_upload_to_log(stage: Stage, kafka: Kafka, kind: str) -> None:
    """Printed for the record; the limit is far above what a busy machine needs."""
    seconds: list[float] = []
    log: EventLog = stage.log
    if kind == "kafka":
        log = KafkaEventLog(KafkaSettings(servers=str(kafka.address), prefix=f"{stage.owner}-", partitions=1))
    async with contextlib.AsyncExitStack() as stack:
        if log is not stage.log:
            stack.push_async_callback(log.close)
        await stack.enter_async_context(stage.running(hint=False, log=log))
        for number in range(100):
            end = await log.end(TOPIC_EVENTS)
            reading = asyncio.create_task(log.read(TOPIC_EVENTS, end, wait_s=20.0))
            begin = time.perf_counter()
            await stage.store.put(stage.bucket, f"in/{number}", b"x")
            assert await reading
            seconds.append(time.perf_counter() - begin)
    seconds.sort()
    print(f"upload to {kind} log: p50 {1000 * seconds[50]:.1f} ms, p99 {1000 * seconds[98]:.1f} ms")  # noqa: T201
    assert seconds[50] < 2.0


async def test_the_counters_of_the_store_are_read_with_our_own_account(stage: Stage) -> None:
    async with stage.running(hint=False, store_metrics="/minio/v2/metrics/cluster"):

        async def read() -> bool:
            name = "penstock_watcher_store_lost_events"
            return stage.metrics.get_sample_value(name, {"counter": "notify_events_skipped"}) is not None

        await eventually("the counters are read", read)


async def test_a_second_target_without_a_queue_has_a_path_of_its_own(stage: Stage) -> None:
    async with stage.running(hint=False, quick_arn=stage.minio.QUICK_ARN) as running:
        assert {rule.arn for rule in await stage.notifications.get(stage.bucket)} == {
            stage.minio.WEBHOOK_ARN,
            stage.minio.QUICK_ARN,
        }
        await stage.put("in/twice")
        await stage.told("in/twice")
        # Both targets told of it, and it stands in the log once.
        await stage.metric_is("repeats_total", lambda count: count >= 1)
        assert [event.key for event in await stage.events()] == ["in/twice"]
        url = f"http://{running.address}/quick"
        async with aiohttp.ClientSession() as session, session.post(url, data=b"rubbish") as answer:
            assert answer.status == 200
    (letter,) = await dead_of(stage.log)
    assert letter.original == b"rubbish"


@pytest.mark.slow
async def test_a_store_that_holds_back_what_a_listener_should_hear_is_noticed(stage: Stage) -> None:
    """If this fails, MinIO flushes again: then listening is the quick way, and the documentation may say so."""
    async with stage.running(hint=True) as running:
        hint = running._source._sources["hint"]
        assert isinstance(hint, ListenSource)

        async def refused() -> bool:
            return "does not tell at once" in hint._refused

        await eventually("it is noticed", refused)
        assert stage.metric("listening") == 0
        await stage.put("in/told")
        await stage.told("in/told")
