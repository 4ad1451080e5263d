"""Jobs: plain data that two runners (local processes, Kubernetes) turn into running containers, and what they report.

A Job carries an ordered list of items. Results, retries and history are per item; the Job itself only has a place where
it runs and an end.
"""

from __future__ import annotations

import enum

import msgspec

from penstock import tracing
from penstock.model.function import Resources, StorageIO, Volume
from penstock.model.objects import Trigger


class JobItem(msgspec.Struct, frozen=True, kw_only=True):
    """One invocation's turn in a Job."""

    invocation: str
    attempt: int
    trigger: Trigger
    #: Publish what a failed script left behind (its last attempt, unless the function says never).
    publish_on_failure: bool = True
    #: A forced re-run publishes again even if the outputs of this invocation are already there.
    force: bool = False

    @property
    def traceparent(self) -> str:
        """The item's place in the trace of its input: what its script sees and its outputs carry."""
        return tracing.traceparent(self.trigger.trace, self.trigger.identity, self.invocation)


class OtherStore(msgspec.Struct, frozen=True, kw_only=True):
    """An S3 store beside the product's own that outputs go to, with the keys that the user supplied."""

    endpoint: str
    region: str
    access_key: str
    secret_key: str
    #: The bucket stands in the host name (AWS), not in the path.
    virtual: bool = False
    #: Whether certificates are verified, or the authorities to trust (PEM text, or a file where the outputs are sent).
    verify: bool | str = True


class JobPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything needed to run; recovery re-submits the identical plan."""

    name: str
    id: str
    function: str
    function_uid: str
    generation: int
    image: str
    script: str
    items: tuple[JobItem, ...]
    outputs: tuple[StorageIO, ...] = ()
    environment: dict[str, str] = {}
    secrets: dict[str, str] = {}
    token: str = ""
    #: What outputs to other stores need, {"s3.archive": ...}. As secret as `secrets`, and not for user code.
    stores: dict[str, OtherStore] = {}
    resources: Resources = Resources()
    volume: Volume | None = None
    deadline_s: float = 24 * 3600  # per item
    file_stage_in: bool = False
    log_level: str = "INFO"
    max_hops: int = 16
    labels: dict[str, str] = {}


class ErrorClass(enum.StrEnum):
    """Why an item did not succeed; decides who retries it and how it is worded."""

    SCRIPT = "script"  # the user's script ended with a code other than 0
    DEADLINE = "deadline"
    OUT_OF_MEMORY = "out_of_memory"
    KILLED = "killed"  # the user container was killed from outside
    STAGE_IN = "stage_in"
    PUBLISH = "publish"
    INVALID = "invalid"  # bad event or configuration, no script
    SUPERSEDED = "superseded"  # object replaced before its turn
    GONE = "gone"  # object deleted before its turn
    HOP_LIMIT = "hop_limit"
    CANCELLED = "cancelled"
    LOST = "lost"  # the runner has no trace and there is no result
    UNSTARTABLE = "unstartable"  # image pull, no shell, refused by the platform


#: Exit codes of `oscar-container` that the platform reserves (data plane contract, section 7.5).
EXIT_STAGE_IN = 120
EXIT_PUBLISH = 121
EXIT_AGENT_LOST = 122
EXIT_INVALID = 123
EXIT_DEADLINE = 124


class OutputObject(msgspec.Struct, frozen=True, kw_only=True):
    bucket: str
    key: str
    size: int
    sha256: str
    etag: str = ""
    #: False when the same output of the same invocation was already there, so no new event was caused.
    written: bool = True
    provider: str = "minio.default"


class ItemResult(msgspec.Struct, frozen=True, kw_only=True):
    """How one item's turn ended. `error` None = success."""

    invocation: str
    attempt: int
    error: ErrorClass | None = None
    exit_code: int | None = None
    message: str = ""
    outputs: tuple[OutputObject, ...] = ()
    staged_ms: int = 0
    started_ms: int = 0
    finished_ms: int = 0
    published_ms: int = 0
    log_bytes: int = 0
    log_truncated: bool = False
    max_rss_bytes: int = 0


class JobPhase(enum.StrEnum):
    PENDING = "pending"  # accepted, not running yet
    RUNNING = "running"
    FINISHED = "finished"  # every item has a result
    LOST = "lost"  # ended or vanished; items without a result in `results` are lost


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A report of a runner. Results arrive as they are known: the same result may be reported again."""

    name: str
    phase: JobPhase
    results: tuple[ItemResult, ...] = ()
    #: Index of the item running now, or None.
    current: int | None = None
    #: No script of the Job runs or will run any more; only publication is left, so its slot is free.
    scripts_done: bool = False
    reason: str = ""
    message: str = ""
    node: str = ""
    time_ms: int = 0
