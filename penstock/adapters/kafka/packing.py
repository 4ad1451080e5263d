"""How entries become batches: the unit that the broker takes whole or not at all, and that costs one answer.

aiokafka's `send` makes a future per entry, which is most of what an entry costs; a batch of our own needs one for all.
What one call appends to a partition stays in one batch wherever it fits, so that no crash leaves half of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from penstock.adapters.kafka.partitioner import partition_of
from penstock.errors import InvalidInput
from penstock.ports import LogEntry

#: Bytes of a batch before its first record, and at most of a record beside key and value (format 2).
BATCH_OVERHEAD = 61
RECORD_OVERHEAD = 32

#: Index in the call, key, value.
Row = tuple[int, bytes, bytes]


class Call:
    """One call of `append`: done when all its parts are."""

    __slots__ = ("done", "given_up", "left", "parts", "places")

    def __init__(self, topic: str, entries: Sequence[LogEntry], partitions: int, batch_bytes: int) -> None:
        """Check, encode and sort into partitions. Raises InvalidInput before anything is sent."""
        self.places: list[tuple[int, int]] = [(0, 0)] * len(entries)
        #: Its caller waits no longer: what has not been sent need not be.
        self.given_up = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        parts: dict[int, Part] = {}
        for index, entry in enumerate(entries):
            key = entry.key.encode("utf-8", "surrogatepass")
            size = len(key) + len(entry.value) + RECORD_OVERHEAD
            if size + BATCH_OVERHEAD > batch_bytes:
                raise InvalidInput(
                    f"an entry of {len(entry.value)} bytes with a key of {len(key)} is too large for the log: together "
                    f"at most {batch_bytes - BATCH_OVERHEAD - RECORD_OVERHEAD}",
                    where=topic,
                )
            partition = partition_of(key, partitions)
            part = parts.get(partition)
            if part is None:
                part = parts[partition] = Part(self, partition)
            part.rows.append((index, key, entry.value))
            part.size += size
        self.parts = list(parts.values())
        self.left = len(self.parts)


class Part:
    """What one call appends to one partition."""

    __slots__ = ("call", "partition", "rows", "size")

    def __init__(self, call: Call, partition: int) -> None:
        self.call = call
        self.partition = partition
        self.rows: list[Row] = []
        self.size = BATCH_OVERHEAD

    def placed(self, rows: Sequence[Row], base: int) -> None:
        """The rows are stored from offset `base` on."""
        for offset, (index, _, _) in enumerate(rows, base):
            self.call.places[index] = (self.partition, offset)

    def finished(self) -> None:
        self.call.left -= 1
        if self.call.left == 0 and not self.call.done.done():
            self.call.done.set_result(None)

    def failed(self, error: Exception) -> None:
        if not self.call.done.done():
            self.call.done.set_exception(error)


def slices(rows: Sequence[Row], batch_bytes: int) -> Iterator[Sequence[Row]]:
    """Cut what is too large for one batch; each slice fits."""
    start, size = 0, BATCH_OVERHEAD
    for number, (_, key, value) in enumerate(rows):
        row = len(key) + len(value) + RECORD_OVERHEAD
        if number > start and size + row > batch_bytes:
            yield rows[start:number]
            start, size = number, BATCH_OVERHEAD
        size += row
    yield rows[start:]


def batches(parts: Sequence[Part], batch_bytes: int) -> Iterator[list[tuple[Part, Sequence[Row]]]]:
    """Batches for parts of one partition, in order; only a part larger than a batch is divided."""
    batch: list[tuple[Part, Sequence[Row]]] = []
    size = BATCH_OVERHEAD
    for part in parts:
        for rows in [part.rows] if part.size <= batch_bytes else slices(part.rows, batch_bytes):
            add = part.size - BATCH_OVERHEAD if rows is part.rows else _size(rows)
            if batch and size + add > batch_bytes:
                yield batch
                batch, size = [], BATCH_OVERHEAD
            batch.append((part, rows))
            size += add
    if batch:
        yield batch


def _size(rows: Sequence[Row]) -> int:
    return sum(len(key) + len(value) + RECORD_OVERHEAD for _, key, value in rows)
