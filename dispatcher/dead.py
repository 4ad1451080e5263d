"""Reading the dead letters back: a fold over their topic, in which an empty value is a tombstone."""

from __future__ import annotations

from penstock.codec import decode_dead
from penstock.model import TOPIC_DEAD, DeadLetter
from penstock.ports import EventLog


async def letters(event_log: EventLog) -> dict[str, DeadLetter]:
    """Every dead letter that was neither retried nor dropped, by id, oldest first."""
    found: dict[str, DeadLetter] = {}
    positions: dict[int, int] = {}
    while entries := await event_log.read(TOPIC_DEAD, positions, limit=1000):
        for entry in entries:
            positions[entry.partition] = entry.offset + 1
            if entry.value:
                found[entry.key] = decode_dead(entry.value)
            else:
                found.pop(entry.key, None)
    return found
