"""The hub of changes: bounded, honest about gaps, and never late for a synchronous caller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.changes import ChangeHub, PendingSubmissions, Subscription
from penstock.errors import Closed, Unavailable
from penstock.model import Phase, Record, Submission
from penstock.observability import Metrics
from tests.factories import make_event, make_function


def record(number: int, phase: Phase = Phase.QUEUED) -> Record:
    return Record(id=f"{number:040x}", function="f", function_uid="u", generation=1, trigger=make_event(), phase=phase)


def hub(buffer: int = 3) -> ChangeHub:
    return ChangeHub(Metrics(), buffer=buffer)


async def feed(*items: Record | None) -> AsyncIterator[Record | None]:
    for item in items:
        yield item


async def test_every_listener_gets_every_change_in_order() -> None:
    changes = hub()
    with changes.subscribe() as one, changes.subscribe() as other:
        await changes.run(feed(record(1), record(2)))
        assert [await one.next(), await one.next()] == [record(1), record(2)]
        assert await other.next() == record(1)


async def test_a_slow_listener_gets_a_gap_and_then_what_is_new() -> None:
    metrics = Metrics()
    changes = ChangeHub(metrics, buffer=3)
    with changes.subscribe() as slow:
        for number in range(9):
            changes.publish(record(number))
        assert await slow.next() is None
        changes.publish(record(10))
        assert await slow.next() == record(10)
    assert b"penstock_changes_gaps_total 1.0" in metrics.text()


async def test_a_gap_in_the_feed_is_a_gap_for_all() -> None:
    changes = hub()
    with changes.subscribe() as one:
        await changes.run(feed(record(1), None))
        assert await one.next() is None


@given(st.integers(1, 5), st.lists(st.sampled_from(["put", "next"]), max_size=60))
def test_a_listener_sees_a_prefix_or_is_told_of_the_gap(limit: int, steps: list[str]) -> None:
    """Nothing is skipped in silence, nothing is kept beyond the limit."""

    async def play() -> None:
        subscription = Subscription(limit, Metrics())
        put, expected = 0, 0
        for step in steps:
            if step == "put":
                put += 1
                subscription.put(record(put))
                continue
            if expected == put:
                continue  # it would wait
            got = await subscription.next()
            if got is None:
                expected = put
            else:
                expected += 1
                assert got == record(expected)
            assert put - expected <= limit

    asyncio.run(play())


async def test_a_caller_waits_for_the_final_record_only() -> None:
    changes = hub()
    with changes.expect(record(1).id) as future:
        changes.publish(record(1, Phase.RUNNING))
        changes.publish(record(2, Phase.SUCCEEDED))
        assert not future.done()
        changes.publish(record(1, Phase.FAILED))
        assert (await future).phase is Phase.FAILED
    changes.publish(record(1, Phase.FAILED))  # nobody waits any more


async def test_closing_ends_streams_and_tells_callers() -> None:
    changes = hub()
    with changes.subscribe() as one, changes.expect("a") as future:
        changes.publish(record(1))
        changes.close()
        assert await one.next() == record(1), "what was there is still read"
        with pytest.raises(Closed):
            await one.next()
        with pytest.raises(Unavailable, match="the server is stopping; invocation a goes on"):
            await future


def submission(number: int) -> Submission:
    return Submission(function="f", function_uid="u", id=str(number), time_ms=number)


def test_pending_submissions_are_bounded_and_go_when_known() -> None:
    pending = PendingSubmissions(limit=2)
    pending.add("aa1", make_function(), submission(1))
    pending.add("ab2", make_function(), submission(2))
    with pytest.raises(Unavailable, match="2 submissions wait to be queued already"):
        pending.add("ac3", make_function(), submission(3))
    assert [one.id for one in pending.all()] == ["ab2", "aa1"]
    assert [one.id for one in pending.find("aa")] == ["aa1"]
    pending.known("aa1")
    pending.known("aa1")
    assert [one.id for one in pending.all()] == ["ab2"]


async def test_a_published_record_ends_its_pending_time() -> None:
    changes = hub()
    changes.pending.add(record(1).id, make_function(), submission(1))
    changes.publish(record(1))
    assert changes.pending.all() == []
