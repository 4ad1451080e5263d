"""What the HTTP interface `/v1` answers, as types: the same field names as its JSON, in both directions.

They live apart from `penstock.client` so that a program which only stores or shows answers needs no HTTP client, and
they are tolerant on purpose: a field that a newer server adds is ignored, one that an older server lacks has a default.
Times are integer milliseconds since the epoch, 0 = not yet; sizes are bytes.
"""

from __future__ import annotations

from typing import Any

import msgspec

#: Phases that nothing leads out of, but a forced replay.
FINAL = frozenset({"succeeded", "failed", "dead", "cancelled", "superseded", "skipped"})


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """One object that an invocation published."""

    bucket: str
    key: str
    size: int = 0
    sha256: str = ""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One line of an invocation's timeline."""

    phase: str
    time_ms: int
    attempt: int = 1
    note: str = ""


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """One function's work on one input. `timeline` is only filled when a single invocation was asked for."""

    id: str
    function: str
    phase: str
    attempt: int = 1
    #: The input object; None when the input was a posted body (then `submission` names it).
    bucket: str | None = None
    key: str | None = None
    size: int | None = None
    submission: str | None = None
    queued_ms: int = 0
    started_ms: int = 0
    finished_ms: int = 0
    exit_code: int | None = None
    #: Class of the error (`script`, `deadline`, ...), None on success and before the end.
    error: str | None = None
    reason: str = ""
    job: str = ""
    outputs: tuple[Output, ...] = ()
    log_bytes: int = 0
    log_truncated: bool = False
    not_before_ms: int = 0
    force: bool = False
    timeline: tuple[Step, ...] = ()

    @property
    def final(self) -> bool:
        return self.phase in FINAL

    @property
    def input(self) -> str:
        """The input as people name it: BUCKET/KEY, or the posted body."""
        return f"{self.bucket}/{self.key}" if self.bucket else "(posted body)"


class InvocationPage(msgspec.Struct, frozen=True, kw_only=True):
    invocations: tuple[Invocation, ...] = ()
    #: Token of the next page, "" = this was the last.
    next: str = ""


class StoredObject(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    size: int = 0
    modified_ms: int = 0
    etag: str = ""


class ObjectPage(msgspec.Struct, frozen=True, kw_only=True):
    objects: tuple[StoredObject, ...] = ()
    next: str = ""


class Bucket(msgspec.Struct, frozen=True, kw_only=True):
    name: str


class FunctionCounts(msgspec.Struct, frozen=True, kw_only=True):
    """One function in the status: how many invocations are in which state, and why its next one waits."""

    name: str
    paused: bool = False
    queued: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    dead: int = 0
    cancelled: int = 0
    superseded: int = 0
    skipped: int = 0
    concurrency: int = 0
    waiting_for: str | None = None
    #: What running several items per start would gain, in measured numbers; None = nothing worth saying.
    batch: Any = None


class Slots(msgspec.Struct, frozen=True, kw_only=True):
    cpu_millis_total: int = 0
    cpu_millis_used: int = 0


class Status(msgspec.Struct, frozen=True, kw_only=True):
    version: str = ""
    uptime_s: float = 0.0
    data: str = ""
    functions: tuple[FunctionCounts, ...] = ()
    slots: Slots = Slots()
    backlog: int = 0
    events_pending: int = 0


class AppliedFunction(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    action: str  # created, updated, unchanged
    uid: str = ""
    generation: int = 1


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    functions: tuple[AppliedFunction, ...] = ()
    warnings: tuple[str, ...] = ()


class Matched(msgspec.Struct, frozen=True, kw_only=True):
    """How much a backfill or a replay takes. A dry run names some of it and orders nothing (`command` is None)."""

    matched: int
    command: str | None = None
    examples: tuple[Any, ...] = ()


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a synchronous run answered: base64 of its one file, base64 of a ZIP of several, or the script's output."""

    invocation: str
    text: bytes


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One message of the feed of changes. `invocation` None = a gap: messages were dropped, so list again."""

    invocation: Invocation | None = None


class FunctionList(msgspec.Struct, frozen=True, kw_only=True):
    #: Definition and counts of each.
    functions: list[dict[str, Any]] = []


class DeadList(msgspec.Struct, frozen=True, kw_only=True):
    #: Dead letters (`kind` "event") and dead invocations (`kind` "invocation").
    dead: list[dict[str, Any]] = []
