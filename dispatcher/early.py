"""Cancels that arrive before intake has recorded what they are about: kept until there is something to cancel.

A submission is listed as soon as it is accepted, so it can be cancelled before it has a record. Commands and events are
read from two topics, and neither waits for the other. Such a cancel is held here, its position in the log uncommitted,
until the record is there, or until intake has passed everything that was in the log when the cancel was read: then
there is no such invocation.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from penstock.model import Command
from penstock.ports import Positions

#: What is held this long has nothing to wait for any more: its event was trimmed away unread.
LONGEST_MS = 24 * 3600 * 1000
#: A bound for memory alone; beyond it the oldest is given up, which is said.
MOST = 10_000


class Held(msgspec.Struct, frozen=True, kw_only=True):
    command: Command
    #: Where the command stands.
    partition: int
    offset: int
    #: The ends of the event log when it was read, and when that was (ms).
    until: dict[int, int]
    since_ms: int


class EarlyCancels:
    def __init__(self) -> None:
        self._held: dict[str, Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, held: Held) -> Held | None:
        """Returns the one that was given up for it."""
        self._held[held.command.id] = held
        return self._held.pop(next(iter(self._held))) if len(self._held) > MOST else None

    def release(self, commands: Collection[str]) -> None:
        for command in commands:
            self._held.pop(command, None)

    def all(self) -> list[Held]:
        """Oldest first."""
        return list(self._held.values())

    def vain(self, done: Positions, now: int) -> list[Held]:
        """Those for which intake, having come to `done`, will bring no record any more."""
        return [
            held
            for held in self._held.values()
            if held.since_ms + LONGEST_MS < now
            or all(done.get(partition, 0) >= end for partition, end in held.until.items())
        ]

    def committable(self, positions: Positions) -> dict[int, int]:
        """How far the commands are really done."""
        result = dict(positions)
        for held in self._held.values():
            result[held.partition] = min(result.get(held.partition, held.offset), held.offset)
        return result
