"""Any interleaving of new, late and repeated records leaves the ledger as a plain dict would be, and so does applying
the whole history again to an empty one.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from pathlib import Path

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from penstock.adapters.sqlite import SqliteLedger
from penstock.model import BucketEvent, Phase, Record
from penstock.ports import QueueStats, RecordQuery

FUNCTIONS = ("u1", "u2")


@st.composite
def records(draw: st.DrawFn) -> Record:
    number = draw(st.integers(0, 11))
    phase = draw(st.sampled_from(Phase))
    key = draw(st.sampled_from(["a/x", "a/y", "ab", "ÿ"]))
    return Record(
        id=f"{number:x}" * 40,
        function=f"function-{FUNCTIONS[number % 2]}",
        function_uid=FUNCTIONS[number % 2],
        generation=1,
        trigger=BucketEvent(bucket="in", key=key, etag="e", size=1, time_ms=1, arrived_ms=1),
        phase=phase,
        attempt=draw(st.integers(1, 3)),
        epoch=draw(st.integers(0, 2)),
        not_before_ms=draw(st.sampled_from([0, 0, 7, 9])),
        queued_ms=draw(st.integers(1, 4)),
        finished_ms=draw(st.integers(1, 50)) if phase.final else 0,
    )


QUERIES = st.builds(
    RecordQuery,
    phases=st.frozensets(st.sampled_from(Phase), max_size=3),
    function_uid=st.sampled_from(["", *FUNCTIONS]),
    since_ms=st.integers(0, 4),
    until_ms=st.sampled_from([0, 2, 3]),
    path_prefix=st.sampled_from(["", "in/a", "in/a/", "x"]),
    limit=st.integers(1, 5),
    oldest_first=st.booleans(),
)
BATCHES = st.lists(records(), max_size=8)


class LedgerMachine(RuleBasedStateMachine):
    """The model: the current record per id, in order of arrival, beside the whole history."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._runner = asyncio.Runner()
        self._lives = 0
        self.history: list[Record] = []
        self.model: dict[str, Record] = {}
        self._open()

    def _open(self) -> None:
        self.ledger = self._runner.run(SqliteLedger.open(Path(self._folder.name) / f"ledger-{self._lives}.db"))

    def teardown(self) -> None:
        self._runner.run(self.ledger.close())
        self._runner.close()
        self._folder.cleanup()

    @rule(batch=BATCHES)
    def apply(self, batch: list[Record]) -> None:
        changed = []
        for record in batch:
            old = self.model.get(record.id)
            if old is None or record.order > old.order:
                self.model[record.id] = record
                changed.append(record)
        self.history += batch
        position = {0: len(self.history)}
        assert self._runner.run(self.ledger.apply(batch, position)) == changed
        assert self._runner.run(self.ledger.positions()) == position

    @rule(data=st.data())
    def repeat_history(self, data: st.DataObject) -> None:
        if self.history:
            start = data.draw(st.integers(0, len(self.history) - 1))
            known = [record for record in self.history[start:] if record.id in self.model]
            assert self._runner.run(self.ledger.apply(known)) == []

    @rule(ids=st.sets(st.integers(0, 11), max_size=3))
    def forget(self, ids: set[int]) -> None:
        keys = {f"{number:x}" * 40 for number in ids}
        self._runner.run(self.ledger.forget(keys))
        self.model = {key: record for key, record in self.model.items() if key not in keys}
        self.history = [record for record in self.history if record.id not in keys]

    @rule()
    def reopen(self) -> None:
        self._runner.run(self.ledger.close())
        self._open()

    @rule()
    def rebuild_from_nothing(self) -> None:
        self._runner.run(self.ledger.close())
        self._lives += 1
        self._open()
        self._runner.run(self.ledger.apply(self.history, {0: len(self.history)}))

    @rule(query=QUERIES)
    def list_in_pages(self, query: RecordQuery) -> None:
        asked = query
        found = []
        while True:
            page = self._runner.run(self.ledger.query(query))
            found += page.records
            if not page.next:
                break
            query = msgspec.structs.replace(query, page=page.next)
        expected = [
            record
            for record in self.model.values()
            if (not asked.phases or record.phase in asked.phases)
            and asked.function_uid in {"", record.function_uid}
            and asked.since_ms <= record.queued_ms < (asked.until_ms or 99)
            and isinstance(record.trigger, BucketEvent)
            and f"in/{record.trigger.key}".startswith(asked.path_prefix)
        ]
        expected.sort(key=lambda record: record.queued_ms, reverse=not asked.oldest_first)
        assert [record.queued_ms for record in found] == [record.queued_ms for record in expected]
        assert {record.id: record for record in found} == {record.id: record for record in expected}
        assert len(found) == len(expected)

    @invariant()
    def records_are_as_in_the_model(self) -> None:
        ids = [f"{number:x}" * 40 for number in range(12)]
        assert self._runner.run(self.ledger.get_many(ids)) == self.model
        assert self._runner.run(self.ledger.known(ids)) == self.model.keys()
        at_work = {Phase.PLANNED, Phase.SUBMITTED, Phase.RUNNING}
        unfinished = {record.id for record in self._runner.run(self.ledger.unfinished())}
        assert unfinished == {key for key, record in self.model.items() if record.phase in at_work}
        outlived = self._runner.run(self.ledger.outlived(25))
        assert set(outlived) == {
            k for k, record in self.model.items() if record.phase.final and record.finished_ms < 25
        }

    @invariant()
    def counts_and_queues_are_as_in_the_model(self) -> None:
        counts = self._runner.run(self.ledger.counts())
        stats = []
        for uid in FUNCTIONS:
            mine = [record for record in self.model.values() if record.function_uid == uid]
            assert counts.get(uid, {}) == dict(Counter(record.phase for record in mine))
            waiting = [record for record in mine if record.phase is Phase.QUEUED]
            queue = self._runner.run(self.ledger.queue(uid))
            assert [place for place, _ in queue] == sorted({place for place, _ in queue})
            assert [record.not_before_ms for _, record in queue] == sorted(r.not_before_ms for r in waiting)
            assert {record.id for _, record in queue} == {record.id for record in waiting}
            for index in range(len(queue)):
                assert (
                    self._runner.run(self.ledger.queue(uid, after=queue[index][0], limit=1)) == queue[index + 1 :][:1]
                )
            if waiting:
                oldest = min(record.queued_ms for record in waiting)
                stats.append(QueueStats(function_uid=uid, queued=len(waiting), oldest_ms=oldest))
        assert sorted(self._runner.run(self.ledger.queue_stats()), key=lambda stat: stat.function_uid) == stats


def test_the_ledger_is_a_dict() -> None:
    run_state_machine_as_test(LedgerMachine, settings=settings(max_examples=25, stateful_step_count=20, deadline=None))
