"""The source port of the watcher: where news of objects comes from. Contract: `tests/contracts/source.py`.

A source may lose events, repeat them and reorder them; it must say when it knows that it lost some (`Gap`), so that the
reconciler lists at once. It yields nothing for objects that are still being written.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from typing import Protocol

import msgspec

from penstock.model import BucketEvent


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Events may be missing. Empty bucket = anywhere."""

    bucket: str = ""
    why: str = ""


class Delivery(list[BucketEvent]):
    """A batch whose source waits to hear that it is safe (it still owes somebody an answer, or a position). Whoever
    follows the source calls `settle` once each event is durable in the log, was published before, or is not wanted;
    until then the source counts the batch as not delivered and may yield its events again.
    """

    def __init__(self, events: Iterable[BucketEvent], settle: Callable[[], None]) -> None:
        super().__init__(events)
        self.settle = settle


class Source(Protocol):
    def events(self) -> AsyncIterator[list[BucketEvent] | Gap]:
        """Batches of events as they come, some of them a `Delivery`. Ends when the source is closed."""
        ...

    async def watch_buckets(
        self, buckets: Collection[str], prefixes: Mapping[str, Collection[str]] | None = None
    ) -> None:
        """From now on news of exactly these buckets is wanted. Returns when they are watched: an object that appears
        after that is yielded (or covered by a Gap). A bucket newly watched should be listed by the caller once.

        `prefixes` by bucket: only keys that begin with one of them are wanted, others need not be yielded; a bucket
        without an entry is wanted whole. What a prefix adds should be listed by the caller once, as a new bucket is.
        """
        ...

    async def close(self) -> None: ...
