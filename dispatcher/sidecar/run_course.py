"""What becomes of one synchronous run in a resident pod, before and after its script: staging, outputs, answer, log.

All of it follows the rules of Jobs, by the code of Jobs: events are read as `input` reads them, outputs go up as
`output` sends them, and the answer is made by the same words. What differs is that the answer goes back over the
connection it was asked on, and that the store is spoken to only when there is something for it.
"""

# Plain os calls, no Path objects: on the path of every run, where an object costs more than the system call.
# ruff: noqa: PTH101, PTH108, PTH123

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, NamedTuple

import msgspec

from dispatcher.sidecar import environment, events, pod
from dispatcher.sidecar.answer import write_answer
from dispatcher.sidecar.calls import QUOTED_BYTES, Call
from dispatcher.sidecar.elsewhere import OtherStores
from dispatcher.sidecar.events import ItemInput, ObjectRef, Shape
from dispatcher.sidecar.files import Lineage, Prepared, Published
from dispatcher.sidecar.logs import LOG_LIMIT
from dispatcher.sidecar.publishing import Publisher
from dispatcher.sidecar.s3 import S3, Settings
from dispatcher.sidecar.staging import decode_file
from dispatcher.sidecar.turns import Outcome
from dispatcher.sidecar.verdict import NAMED, judge, verdict
from penstock.clock import now_ms
from penstock.errors import NotFound, PenstockError
from penstock.model import ErrorClass, ItemResult, JobItem, JobPlan, ObjectInfo, OtherStore
from penstock.model.job import EXIT_PUBLISH
from penstock.tracing import traceparent

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
#: Answers up to this size are held in memory, longer ones in a file.
_SPOOL_BYTES = 1024 * 1024


class Lent(NamedTuple):
    own: S3
    others: OtherStores


class Stores:
    """Connections to the object store and to others, lent to one thread at a time. `settings` None = there is no store
    account. `told` = the other stores.
    """

    def __init__(self, settings: Settings | None, told: Mapping[str, OtherStore] | None = None) -> None:
        self._settings = settings
        self._told = told or {}
        self._idle: list[Lent] = []
        self._lock = threading.Lock()

    @property
    def there(self) -> bool:
        return self._settings is not None

    @property
    def elsewhere(self) -> Collection[str]:
        """The other stores that outputs can be sent to."""
        return self._told.keys()

    @contextmanager
    def lent(self) -> Iterator[Lent]:
        """Raises InvalidInput: there is no account."""
        with self._lock:
            lent = self._idle.pop() if self._idle else None
        if lent is None:
            if self._settings is None:
                raise PenstockError("this pod has no account of the object store")
            lent = Lent(S3(self._settings), OtherStores(self._told, self._settings.patience_s))
        try:
            yield lent
        finally:
            with self._lock:
                self._idle.append(lent)


class Staged(msgspec.Struct, frozen=True):
    """What the run gets to see. `path` = where its input file is to be, as the sidecar sees it."""

    given: ItemInput
    path: str


def item_of(call: Call) -> JobItem:
    return JobItem(
        invocation=call.invocation, attempt=1, trigger=call.submission, publish_on_failure=call.publish_on_failure
    )


def classify(call: Call, body: bytes, folder: str) -> Staged:
    """Of a body in memory. Raises InvalidInput: nothing to run, with the reason."""
    given = events.of_item(item_of(call), body)
    return Staged(given, f"{folder}/in/{given.file_name}")


def large_path(call: Call, folder: str) -> str:
    """Where a body goes that is too large for memory."""
    return f"{folder}/in/event-file-{call.invocation}"


def classify_large(call: Call, path: str) -> Staged:
    """Of a body that lies at `large_path` already: decoded in place where it is base64. Blocks. Raises InvalidInput,
    OSError.
    """
    with open(path, "rb") as stream:
        head = stream.read(4096)
    if events.is_plain_file(head, call.submission.content_type) is False:
        decode_file(path)
    os.chmod(path, 0o666)  # noqa: S103 - scripts run as any user
    # Too large for a variable, and the file is the event: EVENT is left out.
    given = ItemInput(shape=Shape.RAW, payload=None, object=None, file_name=os.path.basename(path))  # noqa: PTH119
    return Staged(given, path)


class Folder(msgspec.Struct, frozen=True):
    """A run's folder as the sidecar has it, and as the script sees it."""

    path: str
    seen: str


def furnish(plan: JobPlan, call: Call, staged: Staged, place: Folder, inputs: Stores) -> None:
    """Put the input and the variables there. Blocks only for an object. Raises OSError, PenstockError."""
    given, path = staged.given, staged.path
    folder, seen = place.path, place.seen
    if plan.file_stage_in:  # OSCAR's spelling: the script reads the object itself
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        path = ""
    elif given.object is not None:
        with inputs.lent() as (store, _):
            _download(store, given.object, path)
    elif given.payload is not None:
        write(path, given.payload)
    needs_file = environment.needs_event_file(given.event)
    if needs_file:
        write(f"{folder}/event", given.event)
    input_path = f"{seen}/in/{given.file_name}"
    variables = environment.item_variables(
        msgspec.structs.replace(given, variables={**call.variables, **given.variables}),
        input_dir=f"{seen}/in",
        output_dir=f"{seen}/out",
        input_path=input_path if path else "",
        event_path=f"{seen}/event" if given.event else input_path,
        trace=traceparent(call.submission.trace, call.submission.identity, call.invocation),
    )
    write(f"{folder}/env", environment.render(variables))


def write(path: str, data: bytes) -> None:
    """Raises OSError."""
    with open(os.open(path, _CREATE, 0o666), "wb", buffering=0) as sink:
        view = memoryview(data)
        while view:
            view = view[sink.write(view) :]


def _download(store: S3, wanted: ObjectRef, path: str) -> None:
    info = wanted.info or _found(store, wanted)
    with open(os.open(path, _CREATE, 0o666), "wb", buffering=0) as sink:

        def keep(piece: bytes) -> None:
            view = memoryview(piece)
            while view:
                view = view[sink.write(view) :]

        store.fetch(info, keep)


def _found(store: S3, wanted: ObjectRef) -> ObjectInfo:
    try:
        return store.head(wanted.bucket, wanted.key)
    except NotFound:
        if not wanted.raw_key:
            raise
        return store.head(wanted.bucket, wanted.raw_key)


class Finished(msgspec.Struct, frozen=True):
    """`answer` is read from its beginning and closed by whoever got it."""

    result: ItemResult
    answer: IO[bytes]


class Times(msgspec.Struct, frozen=True):
    staged_ms: int
    started_ms: int
    finished_ms: int


class Finisher(Publisher):
    """After the script: publishes as `output` does, one run at a time and thread."""

    def __init__(self, place: pod.Places, plan: JobPlan, stores: Stores) -> None:
        self._stores = stores
        self._elsewhere = stores.elsewhere
        self._place = place
        self._plan = plan

    def conclude(
        self, number: int, call: Call, staged: Staged, outcome: Outcome, times: Times, *, dropped: bool
    ) -> Finished:
        """Publish, and make the answer. Blocks. `dropped` = the beginning of its log is gone."""
        error, code, message = verdict(outcome.code, outcome.why, outcome.why_text, call.deadline_s)
        item = item_of(call)
        wanted = error is None or (item.publish_on_failure and error is not ErrorClass.CANCELLED)
        folder = self._place.item(number)
        prepared = self._prepare(f"{folder}/out") if wanted else Prepared()
        notes = "; ".join(prepared.notes[:NAMED])
        log_bytes = _size(f"{folder}/log")
        draft = ItemResult(
            invocation=item.invocation,
            attempt=item.attempt,
            error=error,
            exit_code=code,
            message="; ".join(filter(None, (message, notes))),
            staged_ms=times.staged_ms,
            started_ms=times.started_ms,
            finished_ms=times.finished_ms,
            log_bytes=min(log_bytes, LOG_LIMIT) if self._stores.there else 0,
            log_truncated=dropped or log_bytes > LOG_LIMIT,
        )
        answer: IO[bytes] | None = None
        if error is None and staged.given.shape is Shape.RAW:
            try:
                answer = self._made(prepared, f"{folder}/out")
            except OSError as failure:
                text = f"the answer could not be made: {failure.strerror or failure}"
                draft = msgspec.structs.replace(draft, error=ErrorClass.PUBLISH, exit_code=EXIT_PUBLISH, message=text)
        published = self._published(f"{folder}/out", prepared, item)
        result = judge(draft, published)
        if published.outputs:
            result = msgspec.structs.replace(result, published_ms=now_ms())
        if result.error is not None:
            answer = _tail(folder, QUOTED_BYTES)
        return Finished(result, answer or _tail(folder, LOG_LIMIT))

    def _made(self, prepared: Prepared, folder: str) -> IO[bytes] | None:
        """None = there are no files: the script's output is the answer."""
        if not prepared.files:
            return None
        sink = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES, dir=self._place.own)  # noqa: SIM115
        write_answer(prepared.files, sink, lambda file: os.fdopen(pod.open_inside(file.path, folder), "rb"))
        sink.seek(0)
        return sink

    def _published(self, folder: str, prepared: Prepared, item: JobItem) -> Published:
        if not prepared.targets:
            return Published((), prepared.missing)
        lineage = Lineage(invocation=item.invocation, input=item.trigger.identity, hops=0, trace=item.traceparent)
        try:
            with self._stores.lent() as (self._store, self._others):
                return self._publish(folder, prepared, item, lineage)
        except PenstockError as error:
            named = tuple(f"{target.name} was not uploaded: {error}" for target in prepared.targets)
            return Published((), prepared.missing + named)

    def keep_log(self, number: int, call: Call, *, dropped: bool) -> None:
        """Archive the output beyond the pod. Blocks. What cannot be kept is lost, which fails nothing."""
        if self._stores.there and _size(f"{self._place.item(number)}/log"):
            with self._stores.lent() as (self._store, _):
                self._archive(number, item_of(call), dropped=dropped)


def _size(path: str) -> int:
    try:
        return os.stat(path, follow_symlinks=False).st_size  # noqa: PTH116
    except OSError:
        return 0


def _tail(folder: str, limit: int) -> IO[bytes]:
    """The end of the log, whole lines of it where it is cut; empty when there is none."""
    try:
        stream = os.fdopen(pod.open_inside(f"{folder}/log", folder), "rb")
    except OSError:
        return io.BytesIO()
    start = os.fstat(stream.fileno()).st_size - limit
    if start > 0:
        stream.seek(start)
        stream.readline(limit)  # a line cut in the middle says less than none
    return stream
