"""The record of an invocation: its whole history in one value, appended to the log at every change."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from penstock.model.job import ErrorClass, OutputObject
from penstock.model.objects import Trigger


class Phase(enum.StrEnum):
    QUEUED = "queued"
    PLANNED = "planned"
    SUBMITTED = "submitted"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # final; the script's own failure, code kept
    DEAD = "dead"  # final; platform retries used up, or undeliverable
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    SKIPPED = "skipped"  # object gone, folder marker, hop limit

    @property
    def final(self) -> bool:
        return self in FINAL_PHASES

    @property
    def rank(self) -> int:
        """Order of phases within one attempt; readers reject a lower (epoch, attempt, rank)."""
        return _RANK[self]


FINAL_PHASES = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.DEAD, Phase.CANCELLED, Phase.SUPERSEDED, Phase.SKIPPED})
_RANK = {Phase.QUEUED: 0, Phase.PLANNED: 1, Phase.SUBMITTED: 2, Phase.RUNNING: 3} | dict.fromkeys(FINAL_PHASES, 4)


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """One line of the timeline."""

    phase: Phase
    time_ms: int
    attempt: int
    note: str = ""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    function: str
    function_uid: str
    generation: int
    trigger: Trigger
    phase: Phase
    #: Current or next attempt, from 1. A retry is a further attempt of the same invocation.
    attempt: int = 1
    #: Writer's epoch (grows with every dispatcher that becomes active).
    epoch: int = 0
    #: Earliest start, for retries with backoff; 0 = at once.
    not_before_ms: int = 0
    #: Failures so far by whom they were caused; bounded separately.
    script_failures: int = 0
    platform_failures: int = 0
    #: Attempts are numbered on, but a forced or replayed run starts its failure counts anew and publishes again.
    force: bool = False
    job: str = ""
    #: Position in the Job's ordered list.
    index: int = 0
    error: ErrorClass | None = None
    exit_code: int | None = None
    reason: str = ""
    outputs: tuple[OutputObject, ...] = ()
    queued_ms: int = 0
    started_ms: int = 0
    finished_ms: int = 0
    log_bytes: int = 0
    log_truncated: bool = False
    timeline: tuple[Mark, ...] = ()

    @property
    def order(self) -> tuple[int, int, int]:
        """What decides between two records of one invocation: the higher wins, an equal one is a repeat."""
        return (self.epoch, self.attempt, self.phase.rank)


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that could not be turned into work, kept exactly as they came. Topic `penstock.dead`."""

    id: str
    original: bytes
    error: str
    message: str
    time_ms: int
    topic: str = ""
    partition: int = 0
    offset: int = 0
    function: str = ""
    attempts: int = 1


class CommandKind(enum.StrEnum):
    CANCEL = "cancel"  # one invocation
    REPLAY = "replay"  # dead or failed ones again; force = any
    BACKFILL = "backfill"  # objects of a function's inputs that never ran
    RETRY_DEAD = "retry_dead"  # dead letter back into the events topic
    DROP_DEAD = "drop_dead"


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What a user orders; goes through the log so that every dispatcher sees it. Topic `penstock.commands`."""

    id: str
    kind: CommandKind
    time_ms: int
    function: str = ""
    function_uid: str = ""
    #: An invocation, or with RETRY_DEAD and DROP_DEAD a dead letter.
    invocation: str = ""
    #: REPLAY and BACKFILL: only objects whose "bucket/key" starts with this.
    key_prefix: str = ""
    since_ms: int = 0
    force: bool = False
    user: str = ""


class FunctionDemand(msgspec.Struct, frozen=True, kw_only=True):
    """What one function has waiting, looked at each second and published when it changed or every few seconds. Topic
    `penstock.demand`, compacted by function uid; an empty value = the function is gone.
    """

    function: str
    function_uid: str
    time_ms: int
    queued: int
    running: int
    items_per_job: int = 1
    work_seconds: float = 0.0
    #: What one pod of it asks the scheduler for, the platform's own containers included.
    cpu_millis: int = 0
    memory_bytes: int = 0
    #: Most pods at once, 0 = no limit.
    concurrency: int = 0
    #: Devices of `gpu_resource` that one pod asks for.
    gpu: int = 0
    gpu_resource: str = ""
    #: Where its pods may go, as in a pod's spec.
    node_selector: dict[str, str] = {}
    tolerations: tuple[dict[str, Any], ...] = ()


TOPIC_EVENTS = "penstock.events"
TOPIC_RECORDS = "penstock.records"
TOPIC_DEAD = "penstock.dead"
TOPIC_COMMANDS = "penstock.commands"
TOPIC_DEMAND = "penstock.demand"
