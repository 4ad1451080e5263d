"""The contract of `penstock.ports.Ledger`, run against every adapter in ADAPTERS."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
import pytest

from penstock.adapters.sqlite import SqliteLedger
from penstock.errors import Closed, InvalidInput
from penstock.model import FINAL_PHASES, BucketEvent, ErrorClass, Mark, OutputObject, Phase, Record, Submission
from penstock.ports import Ledger, QueueStats, RecordQuery

Factory = Callable[[Path], AbstractAsyncContextManager[Ledger]]


@contextlib.asynccontextmanager
async def sqlite(folder: Path) -> AsyncIterator[Ledger]:
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    ledger = await SqliteLedger.open(folder / "ledger.db")
    try:
        yield ledger
    finally:
        await ledger.close()


ADAPTERS: list[tuple[str, Factory]] = [("sqlite", sqlite)]


@pytest.fixture(params=[factory for _, factory in ADAPTERS], ids=[name for name, _ in ADAPTERS])
def factory(request: pytest.FixtureRequest) -> Factory:
    chosen: Factory = request.param
    return chosen


@pytest.fixture
async def ledger(factory: Factory, tmp_path: Path) -> AsyncIterator[Ledger]:
    async with factory(tmp_path / "ledger") as opened:
        yield opened


def record(
    number: int, phase: Phase = Phase.QUEUED, *, uid: str = "u1", key: str = "", attempt: int = 1, epoch: int = 1,
    queued_ms: int | None = None, not_before_ms: int = 0, finished_ms: int = 0,
) -> Record:  # fmt: skip
    return Record(
        id=f"{number:040x}",
        function=f"function-{uid}",
        function_uid=uid,
        generation=1,
        trigger=BucketEvent(
            bucket="in", key=key or f"pictures/{number}.png", etag="e", size=7, time_ms=5, arrived_ms=5
        ),
        phase=phase,
        attempt=attempt,
        epoch=epoch,
        not_before_ms=not_before_ms,
        queued_ms=number if queued_ms is None else queued_ms,
        finished_ms=finished_ms,
    )


def numbers(records: list[Record]) -> list[int]:
    return [int(record.id, 16) for record in records]


async def listed(ledger: Ledger, query: RecordQuery) -> list[int]:
    """All pages of a query."""
    found: list[int] = []
    while True:
        page = await ledger.query(query)
        assert len(page.records) <= query.limit
        found += numbers(page.records)
        if not page.next:
            return found
        query = msgspec.structs.replace(query, page=page.next)


async def queued(ledger: Ledger, uid: str = "u1", limit: int = 500) -> list[int]:
    """The whole queue of a function, window by window."""
    found: list[int] = []
    cursor = (-1, -1)
    while window := await ledger.queue(uid, after=cursor, limit=limit):
        assert len(window) <= limit
        assert [place for place, _ in window] == sorted(place for place, _ in window)
        assert window[0][0] > cursor
        cursor = window[-1][0]
        found += numbers([item for _, item in window])
    return found


# Apply


async def test_a_record_comes_back_as_it_went_in(ledger: Ledger) -> None:
    full = Record(
        id="f" * 40, function="f", function_uid="u", generation=3, phase=Phase.FAILED, attempt=2, epoch=9,
        trigger=Submission(function="f", function_uid="u", id="s", time_ms=1, body=b"\0\xff", content_type="x/y"),
        not_before_ms=4, script_failures=1, platform_failures=2, force=True, job="j", index=7,
        error=ErrorClass.SCRIPT, exit_code=3, reason="ünï", queued_ms=5, started_ms=6, finished_ms=7, log_bytes=8,
        outputs=(OutputObject(bucket="b", key="k", size=1, sha256="s", written=False),), log_truncated=True,
        timeline=(Mark(Phase.QUEUED, 1, 1), Mark(Phase.FAILED, 2, 1, "why")),
    )  # fmt: skip
    assert await ledger.apply([full]) == [full]
    assert await ledger.get(full.id) == full
    assert await ledger.get("0" * 40) is None


async def test_the_highest_epoch_attempt_and_phase_wins(ledger: Ledger) -> None:
    now = record(1, Phase.RUNNING, attempt=2, epoch=5)
    await ledger.apply([now])
    late = [
        record(1, Phase.SUCCEEDED, attempt=9, epoch=4),
        record(1, Phase.SUCCEEDED, attempt=1, epoch=5),
        record(1, Phase.SUBMITTED, attempt=2, epoch=5),
        now,
    ]
    assert await ledger.apply(late) == []
    assert await ledger.get(now.id) == now
    for higher in (
        record(1, Phase.FAILED, attempt=2, epoch=5),
        record(1, Phase.QUEUED, attempt=3, epoch=5),
        record(1, Phase.QUEUED, attempt=1, epoch=6),
    ):
        assert await ledger.apply([higher]) == [higher]
        assert await ledger.get(now.id) == higher


async def test_one_final_phase_does_not_replace_another_of_the_same_attempt(ledger: Ledger) -> None:
    await ledger.apply([record(1, Phase.SUCCEEDED)])
    assert await ledger.apply([record(1, phase) for phase in sorted(FINAL_PHASES)]) == []
    assert await ledger.counts() == {"u1": {Phase.SUCCEEDED: 1}}


async def test_a_batch_is_applied_in_order_and_tells_what_changed(ledger: Ledger) -> None:
    batch = [
        record(1, Phase.QUEUED),
        record(2, Phase.QUEUED),
        record(1, Phase.RUNNING),
        record(1, Phase.PLANNED),
        record(2, Phase.QUEUED),
        record(1, Phase.SUCCEEDED),
    ]
    assert await ledger.apply(batch) == [batch[0], batch[1], batch[2], batch[5]]
    assert await ledger.counts() == {"u1": {Phase.QUEUED: 1, Phase.SUCCEEDED: 1}}


async def test_positions_stand_with_what_was_applied(factory: Factory, tmp_path: Path) -> None:
    async with factory(tmp_path / "l") as ledger:
        assert await ledger.positions() == {}
        await ledger.apply([record(1)], {0: 1, 3: 40})
        await ledger.apply([record(2)], {0: 2})
        await ledger.apply([record(3)])
        await ledger.apply([], {1: 9})
        assert await ledger.positions() == {0: 2, 3: 40, 1: 9}
    async with factory(tmp_path / "l") as ledger:
        assert await ledger.positions() == {0: 2, 3: 40, 1: 9}
        assert await queued(ledger) == [1, 2, 3]
        assert await ledger.apply([record(3)]) == []


async def test_many_applies_at_once_add_up(ledger: Ledger) -> None:
    await asyncio.gather(*(ledger.apply([record(n * 7 + k, uid=f"u{n % 3}") for k in range(7)]) for n in range(60)))
    assert await ledger.counts() == {uid: {Phase.QUEUED: 140} for uid in ("u0", "u1", "u2")}


# Look-up


async def test_known_and_get_many_take_any_number_of_ids(ledger: Ledger) -> None:
    records = [record(n) for n in range(1200)]
    await ledger.apply(records)
    ids = [f"{n:040x}" for n in range(600, 1800)]
    assert await ledger.known(ids) == {f"{n:040x}" for n in range(600, 1200)}
    assert await ledger.get_many(ids) == {item.id: item for item in records[600:]}
    assert await ledger.known([]) == set()
    assert await ledger.get_many([]) == {}


async def test_find_takes_a_prefix_of_any_length(ledger: Ledger) -> None:
    ids = ["a" * 40, "ab" * 20, "abc" + "0" * 37, "abd" + "f" * 37, "b" * 40]
    await ledger.apply([msgspec.structs.replace(record(n), id=key) for n, key in enumerate(ids)])
    for prefix in ("a", "ab", "abc", "abc0000000000000", "abd" + "f" * 37, "b", "c", "a%", "A"):
        assert [item.id for item in await ledger.find(prefix)] == [key for key in ids if key.startswith(prefix)]
    await ledger.apply([record(n) for n in range(30)])
    assert len(await ledger.find("0")) == 10
    assert len(await ledger.find("")) == 10


# Queries


async def test_listings_are_newest_first_and_stable_over_pages(ledger: Ledger) -> None:
    # Several of the same millisecond, several functions and phases.
    phases = [Phase.QUEUED, Phase.RUNNING, Phase.SUCCEEDED, Phase.DEAD]
    await ledger.apply([record(n, phases[n % 4], uid=f"u{n % 3}", queued_ms=1000 + n // 5) for n in range(100)])
    for limit in (1, 7, 100, 1000):
        assert await listed(ledger, RecordQuery(limit=limit)) == list(reversed(range(100)))
        assert await listed(ledger, RecordQuery(limit=limit, oldest_first=True)) == list(range(100))


async def test_pages_hold_while_new_records_come(ledger: Ledger) -> None:
    await ledger.apply([record(n, queued_ms=50) for n in range(10)])
    first = await ledger.query(RecordQuery(limit=4))
    await ledger.apply([record(n, queued_ms=50) for n in range(10, 20)])
    second = await ledger.query(RecordQuery(limit=4, page=first.next))
    assert numbers(first.records) + numbers(second.records) == [9, 8, 7, 6, 5, 4, 3, 2]


async def test_filters(ledger: Ledger) -> None:
    everyone = [
        record(1, Phase.QUEUED, uid="u1", key="a/1"),
        record(2, Phase.RUNNING, uid="u1", key="a/2"),
        record(3, Phase.DEAD, uid="u2", key="ab/3"),
        record(4, Phase.SUCCEEDED, uid="u2", key="a_/4"),
        record(5, Phase.FAILED, uid="u1", key="ÿ/5"),
        msgspec.structs.replace(record(6), trigger=Submission(function="f", function_uid="u1", id="s", time_ms=1)),
    ]
    await ledger.apply(everyone)
    cases = [
        (RecordQuery(function="function-u2"), {3, 4}),
        (RecordQuery(function_uid="u1"), {1, 2, 5, 6}),
        (RecordQuery(function="function-u1", function_uid="u2"), set()),
        (RecordQuery(function="nobody"), set()),
        (RecordQuery(phases=frozenset({Phase.DEAD, Phase.FAILED})), {3, 5}),
        (RecordQuery(phases=frozenset({Phase.DEAD, Phase.FAILED}), function_uid="u2"), {3}),
        (RecordQuery(since_ms=3), {3, 4, 5, 6}),
        (RecordQuery(until_ms=3), {1, 2}),
        (RecordQuery(since_ms=2, until_ms=5), {2, 3, 4}),
        (RecordQuery(path_prefix="in/a/"), {1, 2}),
        (RecordQuery(path_prefix="in/a"), {1, 2, 3, 4}),
        (RecordQuery(path_prefix="in/a_"), {4}),
        (RecordQuery(path_prefix="in/ÿ"), {5}),
        (RecordQuery(path_prefix="in"), {1, 2, 3, 4, 5}),
        (RecordQuery(path_prefix="out/"), set()),
        (RecordQuery(path_prefix="in/a", phases=frozenset({Phase.RUNNING}), since_ms=1, function_uid="u1"), {2}),
    ]
    for query, expected in cases:
        for limit in (1, 100):
            for oldest_first in (False, True):
                asked = msgspec.structs.replace(query, limit=limit, oldest_first=oldest_first)
                assert await listed(ledger, asked) == sorted(expected, reverse=not oldest_first), asked


@pytest.mark.parametrize("page", ["x", "1", "1.2.3", "1.x", "."])
async def test_a_page_of_another_list_is_refused(ledger: Ledger, page: str) -> None:
    with pytest.raises(InvalidInput, match="page"):
        await ledger.query(RecordQuery(page=page))


# The queue


async def test_the_queue_is_ordered_by_earliest_start_and_arrival(ledger: Ledger) -> None:
    await ledger.apply([record(5), record(3), record(9, not_before_ms=50), record(1), record(2, not_before_ms=20)])
    await ledger.apply([record(7), record(4, Phase.RUNNING), record(8, uid="u2")])
    for limit in (1, 2, 500):
        assert await queued(ledger, limit=limit) == [5, 3, 1, 7, 2, 9]
    assert await queued(ledger, "u2") == [8]
    assert await queued(ledger, "nobody") == []


async def test_what_starts_leaves_the_queue_and_what_retries_comes_back_in_its_time(ledger: Ledger) -> None:
    await ledger.apply([record(n) for n in (1, 2, 3)])
    await ledger.apply([record(1, Phase.PLANNED), record(2, Phase.SUCCEEDED)])
    assert await queued(ledger) == [3]
    await ledger.apply([record(1, Phase.QUEUED, attempt=2, not_before_ms=99)])
    assert await queued(ledger) == [3, 1]
    await ledger.apply([record(1, Phase.QUEUED, attempt=3)])
    assert await queued(ledger) == [1, 3]


async def test_queue_statistics(ledger: Ledger) -> None:
    assert await ledger.queue_stats() == []
    await ledger.apply([record(4, queued_ms=90), record(5, queued_ms=70), record(6, Phase.RUNNING, queued_ms=1)])
    await ledger.apply([record(7, uid="u2", queued_ms=80), record(8, Phase.DEAD, uid="u3")])
    assert sorted(await ledger.queue_stats(), key=lambda stats: stats.function_uid) == [
        QueueStats(function_uid="u1", queued=2, oldest_ms=70),
        QueueStats(function_uid="u2", queued=1, oldest_ms=80),
    ]
    await ledger.apply([record(n, Phase.RUNNING) for n in (4, 5)])
    assert [stats.function_uid for stats in await ledger.queue_stats()] == ["u2"]


async def test_unfinished_is_what_is_at_work(ledger: Ledger) -> None:
    await ledger.apply([record(n, phase, uid=f"u{n % 2}") for n, phase in enumerate(Phase)])
    found = await ledger.unfinished()
    assert {item.phase for item in found} == {Phase.PLANNED, Phase.SUBMITTED, Phase.RUNNING}
    assert len(found) == 3


# Counts and history


async def test_counts_follow_every_change(ledger: Ledger) -> None:
    await ledger.apply([record(n) for n in range(5)] + [record(9, uid="u2")])
    await ledger.apply([record(0, Phase.RUNNING), record(1, Phase.SUCCEEDED), record(9, Phase.DEAD, uid="u2")])
    expected = {"u1": {Phase.QUEUED: 3, Phase.RUNNING: 1, Phase.SUCCEEDED: 1}, "u2": {Phase.DEAD: 1}}
    assert await ledger.counts() == expected
    assert await ledger.counts("u1") == {"u1": expected["u1"]}
    assert await ledger.counts("nobody") == {}


async def test_final_records_outlive_their_time_and_are_forgotten(ledger: Ledger) -> None:
    await ledger.apply(
        [record(n, Phase.SUCCEEDED, finished_ms=100 * n) for n in (1, 2, 3)]
        + [record(4, Phase.RUNNING), record(5), record(6, Phase.CANCELLED, queued_ms=250)]
    )
    assert await ledger.outlived(100) == []
    # 6 was given no end: it is as old as its queueing.
    assert set(await ledger.outlived(251)) == {record(n).id for n in (1, 2, 6)}
    assert len(await ledger.outlived(1000, limit=3)) == 3
    await ledger.forget([*await ledger.outlived(251), "not there", record(1).id])
    await ledger.forget([])
    assert await ledger.known([record(n).id for n in range(1, 7)]) == {record(n).id for n in (3, 4, 5)}
    assert await ledger.counts() == {"u1": {Phase.SUCCEEDED: 1, Phase.RUNNING: 1, Phase.QUEUED: 1}}
    assert await listed(ledger, RecordQuery()) == [5, 4, 3]
    await ledger.forget([record(5).id])
    assert await ledger.queue_stats() == []
    assert await ledger.apply([record(1)]) == [record(1)]


async def test_a_closed_ledger_says_so(factory: Factory, tmp_path: Path) -> None:
    async with factory(tmp_path / "l") as ledger:
        await ledger.close()
        for call in (ledger.get("x"), ledger.apply([record(1)]), ledger.queue("u1"), ledger.counts()):
            with pytest.raises(Closed):
                await call
