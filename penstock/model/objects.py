"""What the object store and the watcher speak of: objects, and the triggers that enter the log.

All times are integer milliseconds since the epoch. Keys are text exactly as the store has them, never URL-escaped.
"""

from __future__ import annotations

import enum

import msgspec

from penstock import tracing
from penstock.identity import function_folder, object_identity, payload_identity


class ObjectInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One version of one object, as HEAD and listings tell it."""

    bucket: str
    key: str
    etag: str
    size: int
    #: Modification time at the precision of the store's listing; part of the identity of unversioned objects.
    modified_ms: int
    #: When the object appeared under this name, by the store's clock. Differs from `modified_ms` where a move or copy
    #: keeps old modification times (a directory); never part of the identity.
    arrived_ms: int
    version_id: str | None = None
    #: User metadata. Empty in listings where the store does not return it; HEAD always has it.
    metadata: dict[str, str] = {}

    @property
    def identity(self) -> str:
        return object_identity(
            self.bucket, self.key, version_id=self.version_id, etag=self.etag, modified_ms=self.modified_ms
        )


class Origin(enum.StrEnum):
    """How a trigger came to be known."""

    PUSH = "push"
    LISTING = "listing"
    API = "api"
    REPLAY = "replay"


class BucketEvent(msgspec.Struct, frozen=True, kw_only=True, tag="object"):
    """One object version appeared in a bucket: what the watcher appends, once per version."""

    bucket: str
    key: str
    etag: str
    size: int
    time_ms: int
    arrived_ms: int
    version_id: str | None = None
    origin: Origin = Origin.PUSH
    #: How many functions the data has passed through. None = unknown (found by a listing): read it from metadata.
    hops: int | None = None
    #: The trace that the object came with (W3C traceparent), "" = none, or not known.
    trace: str = ""

    @property
    def identity(self) -> str:
        return object_identity(
            self.bucket, self.key, version_id=self.version_id, etag=self.etag, modified_ms=self.time_ms
        )

    @classmethod
    def of(cls, info: ObjectInfo, origin: Origin, hops: int | None = None) -> BucketEvent:
        return cls(
            bucket=info.bucket,
            key=info.key,
            etag=info.etag,
            size=info.size,
            time_ms=info.modified_ms,
            arrived_ms=info.arrived_ms,
            version_id=info.version_id,
            origin=origin,
            hops=hops,
            trace=tracing.parsed(info.metadata.get(META_TRACE, "")) if info.metadata else "",
        )


class Submission(msgspec.Struct, frozen=True, kw_only=True, tag="payload"):
    """A body posted to one function by a user. Bodies above the inline limit are a reference to the store."""

    function: str
    function_uid: str
    #: Unique per accepted request; the whole identity of the submission.
    id: str
    time_ms: int
    body: bytes = b""
    #: Object key in the platform's own bucket that holds the body instead, or None.
    body_key: str | None = None
    content_type: str = ""
    size: int = 0
    #: Who posted it, so that users see their own work; "" = unknown. Comes from authentication, never from the body.
    user: str = ""
    #: Somebody waits for the answer: the runner leaves it in the platform's bucket at `answer_key`.
    answer: bool = False
    #: The trace that the request came with (W3C traceparent), "" = none.
    trace: str = ""

    @property
    def identity(self) -> str:
        return payload_identity(self.function_uid, self.id)


#: What the events topic carries.
Trigger = BucketEvent | Submission

#: Metadata keys written on every published output (lineage), read back by the watcher and the input stage.
META_INVOCATION = "penstock-invocation"
META_INPUT = "penstock-input"
META_HOPS = "penstock-hops"
META_CHECKSUM = "penstock-sha256"
META_TRACE = tracing.TRACEPARENT


#: The platform's own bucket: payloads, logs, results. Never routed, never a function's input or output.
SYSTEM_BUCKET = "penstock-system"


class Kept(enum.StrEnum):
    """What is kept of functions in the platform's bucket, each kind in a folder, and in it a folder per function."""

    PAYLOADS = "payloads"
    LOGS = "logs"
    ANSWERS = "answers"
    RESULTS = "results"


def kept_prefix(kind: Kept, function_uid: str) -> str:
    """The beginning of all keys of one function, and of no other: what the store accounts of its sidecars may touch."""
    return f"{kind.value}/{function_folder(function_uid)}/"


def payload_key(function_uid: str, submission: str) -> str:
    """Where in the platform's bucket the body of a submission lies that is too large for the log."""
    return f"{kept_prefix(Kept.PAYLOADS, function_uid)}{submission}"


def answer_key(function_uid: str, invocation: str, attempt: int) -> str:
    """Where in the platform's bucket the answer of a synchronous submission lies once its item has ended."""
    return f"{kept_prefix(Kept.ANSWERS, function_uid)}{invocation}/{attempt}"


def log_key(function_uid: str, invocation: str, attempt: int) -> str:
    """Where in the platform's bucket the output of one attempt is archived."""
    return f"{kept_prefix(Kept.LOGS, function_uid)}{invocation}/{attempt}.log"


def job_results(function_uid: str, job: str) -> str:
    """The beginning of the keys of all results of one Job."""
    return f"{kept_prefix(Kept.RESULTS, function_uid)}{job}/"


def result_key(function_uid: str, job: str, invocation: str, attempt: int) -> str:
    """Where in the platform's bucket the result of one turn in a Job lies, as JSON of `ItemResult`."""
    return f"{job_results(function_uid, job)}{invocation}/{attempt}.json"
