"""What `output` does with an item that has ended: outputs, answer and log go up, and the result object last.

The result is the acknowledgement: what it names is in the store. It is written by the account of the function, below
a prefix that no function routes.
"""

# Plain os calls, no Path objects: pathlib is not even imported, which is a part of the start-up time.
# ruff: noqa: PTH123

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

import msgspec

from dispatcher.sidecar import pair, pod
from dispatcher.sidecar.course import Ended, Settle
from dispatcher.sidecar.elsewhere import OtherStores
from dispatcher.sidecar.files import (
    OWN,
    Lineage,
    OutputFile,
    Prepared,
    Published,
    Target,
    is_same,
    metadata,
    output_of,
    sort_out,
    targets_of,
    walk,
)
from dispatcher.sidecar.logs import LOG_LIMIT, dropped_note
from dispatcher.sidecar.s3 import S3
from dispatcher.sidecar.s3_writes import Content, Write
from dispatcher.sidecar.verdict import NAMED, judge, refused, verdict
from penstock.clock import now_ms
from penstock.errors import Forbidden, NotFound, PenstockError
from penstock.model import SYSTEM_BUCKET, ErrorClass, ItemResult, JobItem, JobPlan, OutputObject, Submission
from penstock.model.job import EXIT_PUBLISH
from penstock.model.objects import answer_key, job_results, log_key, result_key

_encode = msgspec.json.Encoder().encode
_COPY_BYTES = 1024 * 1024


class Publisher:
    """Carries out items one after the other."""

    def __init__(
        self, store: S3, place: pod.Places, plan: JobPlan, job: str, items: Sequence[JobItem], *, others: OtherStores
    ) -> None:
        self._store = store
        self._others = others
        self._elsewhere = others.names
        self._place = place
        self._plan = plan
        self._job = job
        self._items = items

    def settled(self) -> dict[int, str]:
        """Items that have a durable result already, with its key: this pod replaces another one. Raises Unavailable."""
        keys = {self._result_key(item.invocation, item.attempt): index for index, item in enumerate(self._items)}
        found = self._store.keys(SYSTEM_BUCKET, job_results(self._plan.function_uid, self._job))
        return {keys[key]: key for key in found if key in keys}

    def settle(self, act: Settle, refusal: pair.Refused | None) -> ItemResult:
        """Record an item that did not run. Raises PenstockError: the result could not be written."""
        item = self._items[act.index]
        if refusal is None or act.cancelled is not None:
            text = act.cancelled or "cancelled before its turn"
            result = refused(item, ErrorClass.CANCELLED, text, None, now_ms())
        else:
            result = refused(item, refusal.error, refusal.message, refusal.exit_code, now_ms())
        return self._record(result)

    def finish(self, act: Ended, staged: pair.Staged, *, dropped: bool) -> ItemResult | None:
        """Publish and record an item whose script was started; None = it was interrupted, so whoever took the pod away
        decides what becomes of it. `dropped` = the beginning of its log is gone. Raises PenstockError: the result could
        not be written.
        """
        item = self._items[act.index]
        error, exit_code, message = verdict(act.code, act.why, act.why_text, self._plan.deadline_s)
        if act.interrupted and error is not None:
            self._archive(act.index, item, dropped=dropped)
            return None
        wanted = error is None or (item.publish_on_failure and error is not ErrorClass.CANCELLED)
        folder = f"{self._place.item(act.index)}/out"
        asked = isinstance(item.trigger, Submission) and item.trigger.answer and staged.raw
        prepared = self._prepare(folder) if wanted else Prepared()
        notes = "; ".join(prepared.notes[:NAMED])
        draft = ItemResult(
            invocation=item.invocation,
            attempt=item.attempt,
            error=error,
            exit_code=exit_code,
            message="; ".join(filter(None, (message, notes))),
            staged_ms=staged.staged_ms,
            started_ms=act.started_ms,
            finished_ms=act.finished_ms,
        )
        lost: tuple[str, ...] = ()
        if asked and wanted:
            lost = self._answer(item, folder, prepared.files)
        published = self._publish(folder, prepared, item, Lineage(
            invocation=item.invocation, input=item.trigger.identity, hops=staged.hops, trace=item.traceparent
        ))  # fmt: skip
        log_bytes, truncated = self._archive(act.index, item, dropped=dropped)
        result = msgspec.structs.replace(
            judge(draft, Published(published.outputs, published.missing + lost)),
            published_ms=now_ms() if published.outputs else 0,
            log_bytes=log_bytes,
            log_truncated=truncated,
        )
        return self._record(result)

    # Outputs

    def _prepare(self, folder: str) -> Prepared:
        found = walk(folder)
        routed, missing = sort_out(found, self._plan.outputs, keep=True, elsewhere=self._elsewhere)
        targets: list[Target] = []
        for one in routed:
            targets += targets_of(one, "")
        return Prepared(
            targets=tuple(targets), missing=tuple(missing), notes=tuple(found.notes), files=tuple(found.files)
        )

    def _publish(self, folder: str, prepared: Prepared, item: JobItem, lineage: Lineage) -> Published:
        """What fails is named and stops nothing else."""
        outputs: list[OutputObject] = []
        missing = list(prepared.missing)
        for target in prepared.targets:
            try:
                outputs.append(self._put(folder, target, item, lineage))
            except PenstockError as error:
                missing.append(f"{target.name} was not uploaded to {target.where}: {error}")
            except OSError as error:
                missing.append(f"{target.name} cannot be read: {error.strerror or error}")
        return Published(tuple(outputs), tuple(missing))

    def _put(self, folder: str, target: Target, item: JobItem, lineage: Lineage) -> OutputObject:
        descriptor = pod.open_inside(target.path, folder)
        try:
            content = Content.of_file(descriptor, os.fstat(descriptor).st_size)
            sure = msgspec.structs.replace(target, sha256=content.sha256, size=content.size)
            ours = target.provider == OWN
            store = self._store if ours else self._others.store(target.provider, target.bucket)
            if not item.force:
                # Keys of another store may be good for writing alone: then it cannot be known, and is written again.
                with contextlib.suppress(NotFound, *(() if ours else (Forbidden,))):
                    info = store.head(target.bucket, target.key)
                    if is_same(info.metadata, lineage, content.sha256):
                        return output_of(sure, info, written=False)
            write = Write(
                store,
                target.bucket,
                target.key,
                metadata=metadata(lineage, content.sha256),
                ours=lambda about: not item.force and is_same(about, lineage, content.sha256),
            )
            etag = self._write(store, write, target.bucket, content)
            return msgspec.structs.replace(output_of(sure, None, written=True), etag=etag)
        finally:
            os.close(descriptor)

    def _write(self, store: S3, write: Write, bucket: str, content: Content) -> str:
        try:
            return write.put(content)
        except NotFound:
            # Another store's bucket is made when it is needed. Our own was deleted since the function was applied, and
            # is made as it was then.
            store.create_bucket(bucket)
            return write.put(content)

    # The rest of it

    def _answer(self, item: JobItem, folder: str, files: Sequence[OutputFile]) -> tuple[str, ...]:
        """Keep the answer of a synchronous run. Returns what is missing, as sentences."""
        from dispatcher.sidecar import answer  # noqa: PLC0415 - only synchronous runs have one

        path = f"{self._place.own}/answer"
        try:
            with open(path, "w+b") as sink:
                if not answer.write_answer(
                    files, sink, lambda file: os.fdopen(pod.open_inside(file.path, folder), "rb")
                ):
                    return ()
                sink.flush()
                content = Content.of_file(sink.fileno(), sink.tell())
                key = answer_key(self._plan.function_uid, item.invocation, item.attempt)
                Write(self._store, SYSTEM_BUCKET, key).put(content)
        except PenstockError as error:
            return (f"the answer could not be kept: {error}",)
        except OSError as error:
            return (f"the answer could not be made: {error.strerror or error}",)
        return ()

    def _archive(self, index: int, item: JobItem, *, dropped: bool) -> tuple[int, bool]:
        """Keep the output beyond the pod. A log that cannot be kept does not fail the item: it counts as dropped."""
        folder = self._place.item(index)
        try:
            descriptor = pod.open_inside(f"{folder}/log", folder)
        except OSError:
            return 0, True
        try:
            size = os.fstat(descriptor).st_size
            if not size:
                return 0, dropped
            write = Write(self._store, SYSTEM_BUCKET, log_key(self._plan.function_uid, item.invocation, item.attempt))
            if size <= LOG_LIMIT and not dropped:
                write.put(Content.of_file(descriptor, size, part_bytes=LOG_LIMIT))
                return size, False
            first = max(0, size - LOG_LIMIT)
            with open(f"{self._place.own}/log", "w+b") as kept:
                kept.write(dropped_note(first))
                while piece := os.pread(descriptor, _COPY_BYTES, first):
                    first += len(piece)
                    kept.write(piece)
                kept.flush()
                write.put(Content.of_file(kept.fileno(), kept.tell(), part_bytes=2 * LOG_LIMIT))
                return kept.tell(), True
        except (PenstockError, OSError):
            return 0, True
        finally:
            os.close(descriptor)

    def _record(self, result: ItemResult) -> ItemResult:
        key = self._result_key(result.invocation, result.attempt)
        Write(self._store, SYSTEM_BUCKET, key).put(Content.of_bytes(_encode(result)))
        return result

    def _result_key(self, invocation: str, attempt: int) -> str:
        return result_key(self._plan.function_uid, self._job, invocation, attempt)


def exit_code_of(result: ItemResult) -> int:
    """How `oscar-container` ends for a Job of this one item: `kubectl get jobs` tells the truth."""
    if result.error is None or result.error in {ErrorClass.SUPERSEDED, ErrorClass.GONE, ErrorClass.HOP_LIMIT}:
        return 0
    if result.error is ErrorClass.CANCELLED:
        return 143
    return result.exit_code or EXIT_PUBLISH
