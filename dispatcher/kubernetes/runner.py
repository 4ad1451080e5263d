"""The runner for Kubernetes: the `Runner` port over Jobs.

The cluster holds the truth; what is here is a view of it, kept by two watches (Jobs, pods) and rebuilt at every start.
Closing the runner leaves the Jobs running: they belong to the cluster, and the next dispatcher takes them up. A Job is
ended (cancel, watchdog) by a note on it and its suspension, not by deleting it, so that its end and the reason survive
a restart until `forget`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import msgspec
import structlog

from dispatcher.kubernetes.board import Board
from dispatcher.kubernetes.client import JobApi
from dispatcher.kubernetes.entry import NOTE_ENDED, Ended, Entry
from dispatcher.kubernetes.files import items_map
from dispatcher.kubernetes.logs import LogReader
from dispatcher.kubernetes.manifest import NOTE_CANCEL, decode_items
from dispatcher.kubernetes.preparing import FunctionObjects
from dispatcher.kubernetes.results import ResultSource
from dispatcher.kubernetes.settings import KubernetesSettings
from dispatcher.kubernetes.status import End
from dispatcher.kubernetes.sweep import sweep
from dispatcher.kubernetes.template import Rendered
from dispatcher.kubernetes.volumes import VolumeSettings
from penstock.adapters.kubernetes.client import KubernetesClient
from penstock.adapters.kubernetes.trouble import NamespaceMissing
from penstock.adapters.kubernetes.watching import Snapshot
from penstock.clock import now_ms
from penstock.errors import Closed, Corrupt, Fenced, Forbidden, NotFound, Unavailable
from penstock.model import ErrorClass, ItemResult, JobPhase, JobPlan, JobStatus
from penstock.ports import ObjectStore, Room

log = structlog.get_logger("dispatcher.kubernetes")

#: The watchdog's turn, and looking for the first results of a list that still runs.
TICK_S = 2.0
_CONCLUDE_AT_ONCE = 32
#: How many Jobs without a pod are asked about in one turn.
_QUESTIONS = 10
_RETRY_S = (0.2, 1.0, 5.0)


class KubernetesRunner:
    """Implements `Runner` and `KeepsResults`. Construct, then `start`; the client is the caller's to close, after the
    runner. `archive` is where `output` puts logs; `may_act` tells at any moment whether this process is the active one:
    from the moment it says no nothing is changed in the cluster, and Fenced is raised.
    """

    def __init__(
        self,
        *,
        client: KubernetesClient,
        settings: KubernetesSettings,
        results: ResultSource,
        volumes: VolumeSettings | None = None,
        archive: ObjectStore | None = None,
        may_act: Callable[[], bool] = lambda: True,
    ) -> None:
        self._api = JobApi(client, settings.namespace)
        self._settings = settings
        self._source = results
        self._board = Board()
        self._logs = LogReader(self._api, self._board, archive)
        self._objects = FunctionObjects(self._api, settings, volumes or VolumeSettings())
        self._may_act = may_act
        #: The newest of each Job that was not yet told: a slow listener costs no more than there are Jobs.
        self._news: dict[str, JobStatus] = {}
        self._told: dict[str, JobStatus] = {}
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._concluders = asyncio.Semaphore(_CONCLUDE_AT_ONCE)
        self._synced = (asyncio.Event(), asyncio.Event())
        self._failure: BaseException | None = None
        self._closed = False
        self._watched = False

    async def start(self) -> None:
        """Begin to follow the cluster; returns when everything there is known, however long the API server is away.
        Raises Forbidden (rights), Corrupt. The caller closes it in any case.
        """
        self._spawn(self._follow_jobs(), "kubernetes: jobs")
        self._spawn(self._follow_pods(), "kubernetes: pods")
        self._spawn(self._tick_for_ever(), "kubernetes: watchdog")
        for synced in self._synced:
            await self._until(synced)
        await sweep(self._api, self._board, now_ms() / 1000)

    async def _until(self, synced: asyncio.Event) -> None:
        while not synced.is_set():
            self._check()
            self._wake.clear()
            waits = [asyncio.create_task(event.wait()) for event in (synced, self._wake)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self._closed:
            self._failure = error
            self._wake.set()

    def _check(self) -> None:
        if self._closed:
            raise Closed("the Kubernetes runner was closed")
        if self._failure is not None:
            raise self._failure

    # Submitting

    async def submit(self, plan: JobPlan) -> None:
        self._check()
        template = self._objects.template(plan)
        rendered = template.render(plan)
        entry = self._board.expect(plan, now_ms())
        try:
            await self._objects.prepare(template, plan)
            if rendered.items is not None:
                entry.listed = True
                await self._put_items(plan, rendered)
            self._check_active()
            entry.uid = await self._api.create_job(plan.name, rendered.body, rendered.digest)
        except BaseException as error:
            # Whether it was made may be unknown; then the watch will tell.
            self._board.withdraw(entry)
            if isinstance(error, NamespaceMissing):
                self._objects.doubt()
                raise NamespaceMissing(
                    f"the namespace {self._settings.namespace} is not there or is being deleted: nothing can run "
                    "until it is made again"
                ) from error
            raise
        self._board.submitted(entry, time.monotonic())

    def _check_active(self) -> None:
        """As late as can be before a change, so that one who was asleep changes nothing when he wakes up."""
        if not self._may_act():
            raise Fenced("this process is not the active dispatcher any more")

    async def _put_items(self, plan: JobPlan, rendered: Rendered) -> None:
        """Before the Job, whose pod would else wait for the list if we died between the two."""
        assert rendered.items is not None
        document = items_map(plan, self._settings, rendered.items)
        known = self._board.entries.get(plan.name)
        if known is not None and known.uid:
            return  # the same Job again, or another that will be refused: its list must stay
        await self._api.put(document)

    # Following the cluster

    async def _follow_jobs(self) -> None:
        async for news in self._api.jobs.follow():
            now = now_ms()
            if isinstance(news, Snapshot):
                touched = self._board.jobs_are(news.items, now, asked=news.asked)
                self._synced[0].set()
            else:
                touched = self._board.job_is(news.item, now, gone=news.deleted)
            for entry in touched:
                self._consider(entry, now)

    async def _follow_pods(self) -> None:
        await self._synced[0].wait()
        async for news in self._api.pods.follow():
            now = now_ms()
            if isinstance(news, Snapshot):
                touched = self._board.pods_are(news.items, now)
                self._synced[1].set()
            else:
                touched = self._board.pod_is(news.item, now, gone=news.deleted)
            for entry in touched:
                self._consider(entry, now)

    def _consider(self, entry: Entry, now: int) -> None:
        """Something of the Job changed."""
        if entry.standing.reason == "Deleted":
            self._objects.doubt(entry.function_uid)  # whoever deleted the Job may have deleted more
        if entry.turns is None and not entry.concluding:
            self._begin(entry, self._learn_items(entry))
            return
        if entry.standing.end is not End.NOT and entry.over is None and not entry.concluding:
            self._begin(entry, self._conclude(entry))
            return
        self._tell(entry, now)

    def _begin(self, entry: Entry, work: Coroutine[Any, Any, None]) -> None:
        entry.concluding = True
        self._spawn(work, f"kubernetes: {entry.name}")

    async def _learn_items(self, entry: Entry) -> None:
        """A Job of an earlier life whose list is in a ConfigMap."""
        try:
            items = decode_items(await self._patiently(self._api.read_items, entry.name))
            entry.turns = tuple((item.invocation, item.attempt) for item in items)
        except (NotFound, Corrupt, msgspec.DecodeError) as error:
            log.error("a Job's list is gone", action="items_missing", job=entry.name, error=str(error))
            entry.turns = ()
        entry.concluding = False
        self._consider(entry, now_ms())

    async def _conclude(self, entry: Entry) -> None:
        """The script's container has ended, or the pod: look for results, and settle it when all are there or none can
        come any more.
        """
        async with self._concluders:
            while entry.over is None:
                end = entry.standing.end
                # Of a Job that we ended ourselves the exit tells nothing; a result object still does.
                if entry.ended is None or self._source.objects:
                    entry.learn(await self._patiently(self._source.results, entry.ref()))
                if end is End.OVER and not entry.complete and entry.pod is None and await self._has_pod(entry):
                    continue
                if end is End.OVER or entry.complete:
                    entry.conclude()
                elif entry.standing.end is end:
                    break  # until more is heard of it
        entry.concluding = False
        self._tell(entry, now_ms())

    async def _has_pod(self, entry: Entry) -> bool:
        """Whether a pod of the Job is there that the watch has not yet told of: the two watches run apart, and of a Job
        that is over its pod knows how its items ended.
        """
        for pod in await self._patiently(self._api.pods_of, entry.name):
            self._board.pod_is(pod, now_ms())
        return entry.pod is not None

    async def _patiently(self, ask: Any, about: Any) -> Any:
        """Infrastructure that is away for a while must not turn results into losses."""
        attempt = 0
        while True:
            try:
                return await ask(about)
            except Unavailable as error:
                log.warning("cannot be read now", action="read_delayed", error=error.message)
                await asyncio.sleep(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
                attempt += 1

    # The watchdog

    async def _tick_for_ever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            await self.tick(now_ms())

    async def tick(self, now: int) -> None:
        """One turn: name what is stuck, end what cannot get on, look for early results of lists."""
        questions = _QUESTIONS
        for entry in list(self._board.entries.values()):
            if entry.submitting or entry.over is not None:
                continue
            verdict = entry.look(now, self._settings)
            try:
                if verdict is not None and verdict.error is not None:
                    log.warning("a Job is ended", action="job_stuck", job=entry.name, reason=verdict.reason)
                    await self._end(entry, Ended(verdict.error, verdict.message))
                elif entry.verdict is not None and entry.verdict.reason == "NoPod" and questions:
                    questions -= 1
                    await self._ask_why(entry)
                elif self._source.objects and entry.standing.phase is JobPhase.RUNNING and len(entry.turns or ()) > 1:
                    entry.learn(await self._source.results(entry.ref()))
            except Fenced:
                return  # whoever is the active one now sees to it
            except Unavailable as error:
                log.warning("the watchdog was hindered", action="tick_delayed", job=entry.name, error=error.message)
            # An end that was heard of while results were missing is looked at again: they may be there now.
            self._consider(entry, now)

    async def _ask_why(self, entry: Entry) -> None:
        assert entry.verdict is not None
        try:
            said = await self._api.why_no_pod(entry.name)
        except Forbidden:
            return
        if said:
            entry.verdict = msgspec.structs.replace(entry.verdict, message=f"Kubernetes makes no pod for it: {said}")

    async def _end(self, entry: Entry, ended: Ended) -> None:
        self._check_active()
        note = msgspec.json.encode(ended).decode()
        there = await self._api.mark(entry.name, {NOTE_ENDED: note}, suspend=True)
        entry.ended = entry.ended or ended
        if not there:
            entry.vanished(now_ms())

    # Telling

    def _tell(self, entry: Entry, now: int) -> None:
        if not self._watched or self._board.entries.get(entry.name) is not entry:
            return
        status = entry.status(now)
        known = self._told.get(entry.name)
        if known is not None and msgspec.structs.replace(known, time_ms=status.time_ms) == status:
            return
        self._told[entry.name] = status
        self._news[entry.name] = status
        self._wake.set()

    def watch(self) -> AsyncIterator[JobStatus]:
        self._watched = True  # from this call on, not from the first step of the iteration
        return self._stream()

    async def _stream(self) -> AsyncIterator[JobStatus]:
        """Raises what stopped the following of the cluster (rights withdrawn, namespace deleted)."""
        try:
            while True:
                while self._news:
                    yield self._news.pop(next(iter(self._news)))
                if self._closed:
                    return
                self._check()
                self._wake.clear()
                await self._wake.wait()
        finally:
            self._watched = False
            self._news.clear()

    async def jobs(self) -> list[JobStatus]:
        self._check()
        now = now_ms()
        return [entry.status(now) for entry in self._board.entries.values() if not entry.submitting]

    # Ending

    async def cancel(self, name: str, *, invocation: str = "", reason: str = "") -> None:
        entry = self._board.entries.get(name)
        if entry is None or entry.over is not None or entry.ended is not None:
            return
        words = reason or "cancelled"
        turns = entry.turns or ()
        if invocation and len(turns) > 1:
            if any(turn[0] == invocation for turn in turns):
                await self._cancel_item(entry, invocation, words)
            return
        if invocation and turns and turns[0][0] != invocation:
            return
        await self._end(entry, Ended(ErrorClass.CANCELLED, words))
        self._consider(entry, now_ms())

    async def _cancel_item(self, entry: Entry, invocation: str, words: str) -> None:
        """The sidecars see the pod's note as the file `cancel`; the Job's note is for a next life of ours."""
        self._check_active()
        entry.cancelled[invocation] = words
        await self._api.mark(entry.name, {NOTE_CANCEL: msgspec.json.encode(entry.cancelled).decode()}, suspend=False)
        if entry.pod is not None:
            lines = "".join(f"{one} {' '.join(why.split())}\n" for one, why in entry.cancelled.items())
            await self._api.mark_pod(entry.pod.metadata.name, {NOTE_CANCEL: lines})

    async def log(self, name: str, invocation: str, *, offset: int = 0, follow: bool = False) -> AsyncIterator[bytes]:
        """Live of the whole container: a list's items are told apart only in the archive, read once the Job is over."""
        async for chunk in self._logs.read(name, invocation, offset=offset, follow=follow):
            yield chunk

    async def left_behind(self, plan: JobPlan) -> list[ItemResult]:
        return await self._source.outlasting(plan)

    async def forget(self, name: str) -> None:
        self._check_active()
        entry = self._board.entries.get(name)
        await self._api.delete_job(name, entry.uid if entry is not None else "")
        if entry is None or entry.listed:
            await self._api.delete_items(name)
        uid, turns = ("", None) if entry is None else (entry.function_uid, entry.turns)
        await self._source.forget(uid, name, turns)
        self._told.pop(name, None)
        self._news.pop(name, None)
        self._board.forget(name)

    async def room(self) -> Room:
        return Room(pending_jobs=self._settings.pending_jobs, default_cpu_millis=self._settings.default_cpu_millis)

    @property
    def pending(self) -> int:
        """Jobs accepted and not running."""
        return sum(entry.pending for entry in self._board.entries.values())

    async def close(self, *, drain_s: float = 0.0) -> None:  # noqa: ARG002 - nothing of ours runs the items
        """Stop following. The Jobs go on, whatever `drain_s`: they are the cluster's, and the next runner's."""
        if self._closed:
            return
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._logs.close()
        self._wake.set()
