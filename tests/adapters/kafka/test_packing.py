"""Packing, checked against aiokafka's own idea of how much a batch holds."""

from __future__ import annotations

from itertools import groupby

import pytest
from aiokafka.producer.message_accumulator import BatchBuilder  # type: ignore[import-untyped,unused-ignore]
from hypothesis import given
from hypothesis import strategies as st

from penstock.adapters.kafka.packing import BATCH_OVERHEAD, RECORD_OVERHEAD, Call, batches
from penstock.errors import InvalidInput
from penstock.ports import LogEntry

BATCH = 1000
ENTRIES = st.lists(st.builds(LogEntry, st.text(max_size=20), st.integers(0, 600).map(bytes)), min_size=1, max_size=40)


@given(calls=st.lists(ENTRIES, min_size=1, max_size=8))
async def test_batches_fit_keep_the_order_and_divide_no_call_that_fits(calls: list[list[LogEntry]]) -> None:
    parts = [part for entries in calls for part in Call("topic", entries, 1, BATCH).parts]
    packed = list(batches(parts, BATCH))
    for batch in packed:
        builder = BatchBuilder(BATCH, 0, is_transactional=1)
        for _, rows in batch:
            for _, key, value in rows:
                assert builder.append(timestamp=1 << 40, key=key, value=value) is not None
        assert len(builder._build()) <= BATCH
    flat = [(part, row) for batch in packed for part, rows in batch for row in rows]
    assert flat == [(part, row) for part in parts for row in part.rows]
    for part in parts:
        homes = [number for number, batch in enumerate(packed) for found, _ in batch if found is part]
        assert len(homes) == 1 or part.size > BATCH


@given(entries=ENTRIES, partitions=st.integers(1, 9))
async def test_a_call_is_sorted_into_partitions_in_order(entries: list[LogEntry], partitions: int) -> None:
    call = Call("topic", entries, partitions, BATCH)
    rows = sorted((row, part.partition) for part in call.parts for row in part.rows)
    assert [(key.decode(), value) for (_, key, value), _ in rows] == [(entry.key, entry.value) for entry in entries]
    homes = sorted((key, home) for (_, key, _), home in rows)
    assert all(len({home for _, home in group}) == 1 for _, group in groupby(homes, key=lambda pair: pair[0]))
    assert len(call.parts) == len({part.partition for part in call.parts}) == call.left
    for part in call.parts:
        part.placed(part.rows, 100)
        assert not call.done.done()
        part.finished()
    assert call.done.done()
    for part in call.parts:
        assert [call.places[index] for index, _, _ in part.rows] == [
            (part.partition, 100 + number) for number in range(len(part.rows))
        ]


async def test_the_largest_entry_is_taken_and_the_next_larger_is_refused_with_its_size() -> None:
    room = BATCH - BATCH_OVERHEAD - RECORD_OVERHEAD
    Call("topic", [LogEntry("key", bytes(room - 3))], 1, BATCH)
    with pytest.raises(InvalidInput) as refused:
        Call("topic", [LogEntry("key", b""), LogEntry("key", bytes(room - 2))], 1, BATCH)
    assert f"an entry of {room - 2} bytes with a key of 3 is too large" in str(refused.value)
    assert str(room) in str(refused.value)
    assert refused.value.where == "topic"
