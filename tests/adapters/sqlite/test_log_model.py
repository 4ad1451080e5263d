"""Any interleaving of appends, commits, seeks, trims and compactions leaves the log as a plain list would be."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from penstock.adapters.sqlite import SqliteEventLog, event_log
from penstock.ports import LogEntry

TOPIC = "topic"
KEYS = st.sampled_from(["", "a", "b/ü", "\udcff"])
BATCHES = st.lists(st.tuples(KEYS, st.binary(max_size=3)), max_size=7)
PLACES = st.integers(0, 40)
ALL_OLD = 1 << 50


class LogMachine(RuleBasedStateMachine):
    """The model: (offset, key, value) in order, the next offset, and the committed position."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._runner = asyncio.Runner()
        self._open()
        self.entries: list[tuple[int, str, bytes]] = []
        self.next = 0
        self.position: int | None = None

    def _open(self) -> None:
        self.log = self._runner.run(SqliteEventLog.open(Path(self._folder.name) / "log.db"))

    def teardown(self) -> None:
        self._runner.run(self.log.close())
        self._runner.close()
        self._folder.cleanup()

    def _expect(self, batch: list[tuple[str, bytes]]) -> list[tuple[int, int]]:
        places = []
        for key, value in batch:
            self.entries.append((self.next, key, value))
            places.append((0, self.next))
            self.next += 1
        return places

    @rule(batches=st.lists(BATCHES, min_size=1, max_size=4))
    def append(self, batches: list[list[tuple[str, bytes]]]) -> None:
        """Several appends at once, which share a transaction."""

        async def concurrently() -> list[list[tuple[int, int]]]:
            calls = (self.log.append(TOPIC, [LogEntry(*pair) for pair in batch]) for batch in batches)
            return await asyncio.gather(*calls)

        assert self._runner.run(concurrently()) == [self._expect(batch) for batch in batches]

    @rule(position=PLACES, seek=st.booleans())
    def commit(self, position: int, seek: bool) -> None:
        self._runner.run(self.log.commit("group", TOPIC, {0: position}, seek=seek))
        self.position = position if seek else max(position, self.position or 0)

    @rule(below=PLACES)
    def trim(self, below: int) -> None:
        left = [entry for entry in self.entries if entry[0] >= below]
        assert self._runner.run(self.log.trim(TOPIC, before_ms=0, below={0: below})) == 0
        deleted = self._runner.run(self.log.trim(TOPIC, before_ms=ALL_OLD, below={0: below}))
        assert deleted == len(self.entries) - len(left)
        self.entries = left

    @rule()
    def compact(self) -> None:
        newest = {key: offset for offset, key, _ in self.entries}
        left = [entry for entry in self.entries if newest[entry[1]] == entry[0]]
        assert self._runner.run(self.log.compact(TOPIC)) == len(self.entries) - len(left)
        self.entries = left

    @rule()
    def reopen(self) -> None:
        self._runner.run(self.log.close())
        self._open()

    @rule(start=PLACES, limit=st.integers(1, 10))
    def read_a_part(self, start: int, limit: int) -> None:
        found = self._runner.run(self.log.read(TOPIC, {0: start}, limit=limit))
        expected = [entry for entry in self.entries if entry[0] >= start][:limit]
        assert [(entry.offset, entry.key, entry.value) for entry in found] == expected

    @invariant()
    def everything_is_as_in_the_model(self) -> None:
        found = self._runner.run(self.log.read(TOPIC, {}, limit=10_000))
        assert [(entry.offset, entry.key, entry.value) for entry in found] == self.entries
        assert self._runner.run(self.log.end(TOPIC)) == {0: self.next}
        committed = self._runner.run(self.log.committed("group", TOPIC))
        assert committed == ({} if self.position is None else {0: self.position})


def test_the_log_is_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    # Slices and passes so small that every trim and compaction takes several.
    monkeypatch.setattr(event_log, "_SLICE", 3)
    monkeypatch.setattr(event_log, "_PASS", 5)
    run_state_machine_as_test(LogMachine, settings=settings(max_examples=25, stateful_step_count=25, deadline=None))
