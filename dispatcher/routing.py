"""Routing: which functions a trigger concerns, and what must never start. Pure.

The table is made once per change of the registry; routing an event then costs one dictionary look-up and a prefix test
per input on that bucket.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from penstock.identity import invocation_id
from penstock.model import BucketEvent, ErrorClass, Function, Phase, StorageIO, Submission, Trigger


class Routed(msgspec.Struct, frozen=True):
    """One function that a trigger concerns. With `phase` the invocation ends before it begins."""

    function: Function
    invocation: str
    phase: Phase | None = None
    error: ErrorClass | None = None
    reason: str = ""


class RoutingTable:
    """All functions by bucket and by uid."""

    def __init__(self, functions: Iterable[Function]) -> None:
        self.by_uid: dict[str, Function] = {}
        self._by_bucket: dict[str, list[tuple[str, StorageIO, Function]]] = {}
        for function in functions:
            self.by_uid[function.uid] = function
            for entry in function.inputs:
                if entry.own_store:
                    self._by_bucket.setdefault(entry.bucket, []).append((entry.key_prefix, entry, function))

    def route(self, trigger: Trigger) -> list[Routed]:
        """Return what the trigger starts, one entry per function at most."""
        if isinstance(trigger, Submission):
            return self._route_submission(trigger)
        routed: dict[str, Routed] = {}
        for prefix, entry, function in self._by_bucket.get(trigger.bucket, ()):
            if not trigger.key.startswith(prefix) or function.uid in routed:
                continue
            if not entry.accepts(trigger.key[len(prefix) :]) or trigger.arrived_ms < function.start_ms:
                continue
            routed[function.uid] = verdict(function, trigger)
        return list(routed.values())

    def _route_submission(self, submission: Submission) -> list[Routed]:
        function = self.by_uid.get(submission.function_uid)
        if function is not None:
            return [Routed(function, invocation_id(function.uid, submission.identity))]
        gone = Function(name=submission.function, uid=submission.function_uid)
        reason = f"the function {submission.function} was deleted before this submission had its turn"
        identity = invocation_id(gone.uid, submission.identity)
        return [Routed(gone, identity, Phase.CANCELLED, ErrorClass.CANCELLED, reason)]


def verdict(function: Function, event: BucketEvent) -> Routed:
    """Decide whether an event that concerns a function may start it."""
    invocation = invocation_id(function.uid, event.identity)
    if event.key.endswith("/"):
        reason = f"{event.key} is a folder marker, not a file"
        return Routed(function, invocation, Phase.SKIPPED, ErrorClass.GONE, reason)
    if event.hops is not None and event.hops >= function.max_hops:
        return Routed(function, invocation, Phase.SKIPPED, ErrorClass.HOP_LIMIT, hop_limit_reason(function, event.hops))
    return Routed(function, invocation)


def hop_limit_reason(function: Function, hops: int) -> str:
    return (
        f"the object has passed through {hops} functions and {function.name} takes at most {function.max_hops} "
        "(max_hops): the functions feed each other in a loop"
    )


def takes(function: Function, bucket: str, key: str) -> bool:
    """Tell whether an object lies under one of the function's inputs, whatever its age."""
    return any(
        entry.own_store
        and entry.bucket == bucket
        and key.startswith(entry.key_prefix)
        and entry.accepts(key[len(entry.key_prefix) :])
        for entry in function.inputs
    )
