"""Which objects some function wants: a cheap test that keeps the rest of a bucket out of the log. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from penstock.model import BucketEvent, Function, StorageIO


class Interest:
    """The inputs of all functions that lie in the product's own store, by bucket."""

    def __init__(self, functions: Iterable[Function]) -> None:
        self._inputs: dict[str, list[tuple[StorageIO, int]]] = {}
        for function in functions:
            for entry in function.inputs:
                if entry.own_store:
                    self._inputs.setdefault(entry.bucket, []).append((entry, function.start_ms))

    @property
    def buckets(self) -> set[str]:
        return set(self._inputs)

    @property
    def prefixes(self) -> dict[str, set[str]]:
        """Per bucket the key prefixes below which somebody takes input."""
        return {bucket: {entry.key_prefix for entry, _ in inputs} for bucket, inputs in self._inputs.items()}

    def wants(self, event: BucketEvent) -> bool:
        """Tell whether some function takes it. Objects from before a function's start are not for it; should it take
        them later, its own backfill lists them.
        """
        for entry, start_ms in self._inputs.get(event.bucket, ()):
            prefix = entry.key_prefix
            if (
                event.arrived_ms >= start_ms
                and event.key.startswith(prefix)
                and entry.accepts(event.key[len(prefix) :])
            ):
                return True
        return False

    def widened(self, old: Interest) -> set[str]:
        """Buckets where something is wanted now that was not before: news of it may have been passed over."""
        return {
            bucket
            for bucket, inputs in self._inputs.items()
            if any(item not in old._inputs.get(bucket, ()) for item in inputs)
        }
