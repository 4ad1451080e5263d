"""The window against a model of the ledger: whatever the interleaving, nothing is lost, doubled or out of order."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.lifecycle import queued
from dispatcher.window import Cursor, Window
from penstock.model import Record
from tests.factories import NOW, make_event, make_function

FUNCTION = make_function()
SIZE = 4


def _record(identity: str, not_before_ms: int = NOW, size: int = 10) -> Record:
    record = queued(identity, FUNCTION, make_event(size=size), now=NOW, epoch=1)
    return msgspec.structs.replace(record, not_before_ms=not_before_ms)


class Model:
    """What the ledger does: all queued records in order of (not before, arrival)."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[Cursor, Record]] = {}
        self._arrivals = 0

    def put(self, record: Record) -> None:
        self._arrivals += 1
        self.rows[record.id] = ((record.not_before_ms, self._arrivals), record)

    def queue(self, after: Cursor, limit: int) -> list[tuple[Cursor, Record]]:
        return sorted((row for row in self.rows.values() if row[0] > after), key=lambda row: row[0])[:limit]


def test_a_short_queue_never_needs_the_ledger() -> None:
    window = Window(SIZE)
    for number in range(SIZE):
        window.push(_record(f"r{number}"))
    assert window.complete
    assert [record.id for record in window.take(NOW, 10)] == ["r0", "r1", "r2", "r3"]


def test_records_not_yet_due_stay() -> None:
    window = Window(SIZE)
    window.push(_record("later", NOW + 1000))
    assert window.due(NOW) is None
    assert window.next_due() == NOW + 1000
    assert window.take(NOW, 1) == []
    assert [record.id for record in window.take(NOW + 1000, 1)] == ["later"]


def test_a_list_is_bounded_by_bytes_but_never_empty() -> None:
    window = Window(10)
    for number in range(4):
        window.push(_record(f"r{number}", size=60))
    assert len(window.take(NOW, 10, max_bytes=50)) == 1
    assert len(window.take(NOW, 10, max_bytes=120)) == 2


def test_a_removed_record_is_never_taken() -> None:
    window = Window(SIZE)
    window.push(_record("a"))
    window.push(_record("b"))
    assert window.remove("a")
    assert not window.remove("a")
    assert [record.id for record in window.take(NOW, 5)] == ["b"]
    assert len(window) == 0


def test_a_refill_that_began_before_a_push_does_not_declare_the_queue_complete() -> None:
    window, model = Window(SIZE), Model()
    for number in range(SIZE + 2):
        record = _record(f"r{number}", NOW + number)
        model.put(record)
        window.push(record)
    window.take(NOW + 100, SIZE)
    skipped, rows = window.skipped, model.queue(window.horizon, 100)
    late = _record("late", NOW + 500)
    model.put(late)
    window.push(late)
    window.refill(rows, asked=100, skipped=skipped)
    assert not window.complete
    window.refill(model.queue(window.horizon, 100), asked=100, skipped=window.skipped)
    assert "late" in {record.id for record in window.take(NOW + 1000, 100)}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 3)),
        st.tuples(st.just("take"), st.integers(1, 5)),
        st.tuples(st.just("retry"), st.integers(0, 5)),
        st.tuples(st.just("refill"), st.just(0)),
    ),
    max_size=80,
)


@settings(max_examples=300)
@given(STEPS)
def test_every_queued_record_is_taken_exactly_once_per_turn(  # noqa: C901  the walk reads best in one piece
    steps: list[tuple[str, int]],
) -> None:
    window, model = Window(SIZE), Model()
    clock = NOW
    running: list[Record] = []
    made = 0

    def refill() -> None:
        while window.wants_refill:
            rows = model.queue(window.horizon, SIZE)
            window.refill(rows, asked=SIZE, skipped=window.skipped)

    def take(count: int) -> None:
        refill()
        for record in window.take(clock, count):
            # `planned` reaches the ledger: it is queued no more.
            assert record.id in model.rows, "taken twice"
            del model.rows[record.id]
            running.append(record)

    for step, number in steps:
        clock += number
        if step == "push":
            made += 1
            record = _record(f"r{made}", clock)
            model.put(record)
            window.push(record)
        elif step == "take":
            take(number)
        elif step == "retry" and running:
            record = msgspec.structs.replace(running.pop(0), not_before_ms=clock + number)
            model.put(record)
            window.push(record)
        elif step == "refill":
            refill()
    clock += 1000
    for _ in range(made + 5):
        take(3)
    assert not model.rows, "left behind"
    assert len(window) == 0
