"""Where the results of items are read: from objects that `output` wrote, or, for pods without sidecars, from the exit.

A result object outlives its pod and is the truth about its item; before an item is called lost it is looked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import msgspec

from dispatcher.kubernetes.status import End, Exit, Standing
from penstock.errors import Corrupt, NotFound
from penstock.model import SYSTEM_BUCKET, ErrorClass, ItemResult, JobPhase, JobPlan
from penstock.model.job import EXIT_AGENT_LOST, EXIT_DEADLINE, EXIT_INVALID, EXIT_PUBLISH, EXIT_STAGE_IN
from penstock.model.objects import job_results, result_key
from penstock.ports import ObjectStore

__all__ = ["JobRef", "PodResults", "ResultSource", "StoreResults", "Turn", "exit_error", "result_key"]

_READS_AT_ONCE = 16
#: A result is a few hundred bytes and its list of outputs; what is longer was not written by us.
_LONGEST_BYTES = 4 * 2**20
_RESERVED = {
    EXIT_STAGE_IN: ErrorClass.STAGE_IN,
    EXIT_PUBLISH: ErrorClass.PUBLISH,
    EXIT_AGENT_LOST: ErrorClass.LOST,
    EXIT_INVALID: ErrorClass.INVALID,
    EXIT_DEADLINE: ErrorClass.DEADLINE,
    137: ErrorClass.KILLED,
}

#: (invocation, attempt)
Turn = tuple[str, int]


class JobRef(msgspec.Struct, frozen=True):
    """Which results are wanted, and how the Job stands."""

    name: str
    function_uid: str
    turns: tuple[Turn, ...]
    standing: Standing

    def key(self, turn: Turn) -> str:
        """Where the result of a turn is kept."""
        return result_key(self.function_uid, self.name, *turn)


class ResultSource(Protocol):
    #: Whether results are objects of their own: one by one while a list runs, and true whatever became of the pod.
    @property
    def objects(self) -> bool: ...

    async def results(self, job: JobRef) -> Sequence[ItemResult]:
        """The results that are there, in any order. Raises Unavailable: not known now, ask again."""
        ...

    async def outlasting(self, plan: JobPlan) -> list[ItemResult]:
        """The durable results of a Job that is gone. Raises Unavailable."""
        ...

    async def forget(self, function_uid: str, name: str, turns: Sequence[Turn] | None) -> None:
        """The final records of a Job are durable: remove its results. "", None = its function and turns are not known
        here, which is so for a Job that is gone. Idempotent. Raises Unavailable.
        """
        ...


class StoreResults:
    """Result objects in the platform's bucket."""

    objects = True

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._decode = msgspec.json.Decoder(ItemResult).decode
        self._gate = asyncio.Semaphore(_READS_AT_ONCE)
        #: Functions' uids by the names of Jobs that are gone and left results.
        self._left: dict[str, str] = {}

    async def results(self, job: JobRef) -> Sequence[ItemResult]:
        """Raises Unavailable. A result that cannot be read counts as missing, with its words in an error result."""
        turns = job.turns
        if len(turns) > 1:
            pages = self._store.list(SYSTEM_BUCKET, job_results(job.function_uid, job.name))
            there = {info.key async for page in pages for info in page}
            turns = tuple(turn for turn in turns if job.key(turn) in there)
        found = await asyncio.gather(*(self._read(job, turn) for turn in turns))
        return [told for result in found if result is not None and (told := _why_killed(result, job.standing))]

    async def outlasting(self, plan: JobPlan) -> list[ItemResult]:
        turns = tuple((item.invocation, item.attempt) for item in plan.items)
        gone = Standing(phase=JobPhase.LOST, end=End.OVER)
        found = list(await self.results(JobRef(plan.name, plan.function_uid, turns, gone)))
        if found:
            self._left[plan.name] = plan.function_uid
        return found

    async def _read(self, job: JobRef, turn: Turn) -> ItemResult | None:
        invocation, attempt = turn
        key = job.key(turn)
        async with self._gate:
            try:
                parts = [chunk async for chunk in self._store.read(SYSTEM_BUCKET, key, length=_LONGEST_BYTES)]
            except NotFound:
                return None
        try:
            result = self._decode(b"".join(parts))
        except msgspec.DecodeError as error:
            return _unreadable(invocation, attempt, Corrupt(f"the result {key} cannot be read: {error}"))
        if (result.invocation, result.attempt) != turn:
            return _unreadable(invocation, attempt, Corrupt(f"the result {key} is that of another item"))
        return result

    async def forget(self, function_uid: str, name: str, turns: Sequence[Turn] | None) -> None:
        function_uid = function_uid or self._left.get(name, "")
        if not function_uid:
            return  # a Job that left nothing
        if turns is None:
            pages = self._store.list(SYSTEM_BUCKET, job_results(function_uid, name))
            keys = [info.key async for page in pages for info in page]
        else:
            keys = [result_key(function_uid, name, *turn) for turn in turns]
        for key in keys:
            await self._store.delete(SYSTEM_BUCKET, key)
        self._left.pop(name, None)


def _why_killed(result: ItemResult, standing: Standing) -> ItemResult | None:
    """`output` sees that the container was killed, the kubelet knows what for. None = not told yet: ask again."""
    if result.error is not ErrorClass.KILLED:
        return result
    if standing.exit is None and standing.end is not End.OVER:
        return None
    if standing.exit is not None and standing.exit.reason == "OOMKilled":
        return msgspec.structs.replace(result, error=ErrorClass.OUT_OF_MEMORY, message=standing.message)
    return result


def _unreadable(invocation: str, attempt: int, error: Corrupt) -> ItemResult:
    return ItemResult(invocation=invocation, attempt=attempt, error=ErrorClass.LOST, message=error.message)


class PodResults:
    """For pods without sidecars: every item ended as the user's container ended."""

    objects = False

    async def outlasting(self, plan: JobPlan) -> list[ItemResult]:  # noqa: ARG002 - a pod leaves nothing
        return []

    async def forget(self, function_uid: str, name: str, turns: Sequence[Turn] | None) -> None:
        """There is nothing but the pod."""

    async def results(self, job: JobRef) -> Sequence[ItemResult]:
        done = job.standing.exit
        if done is None:
            if job.standing.reason != "DeadlineExceeded":
                return []
            done = Exit(code=EXIT_DEADLINE, message=job.standing.message)
        error = exit_error(done)
        return [
            ItemResult(
                invocation=invocation,
                attempt=attempt,
                error=error,
                exit_code=done.code,
                message=job.standing.message if error is not None else "",
                started_ms=done.started_ms,
                finished_ms=done.finished_ms,
            )
            for invocation, attempt in job.turns
        ]


def exit_error(done: Exit) -> ErrorClass | None:
    """What an exit of the user's container means; None = success."""
    if done.never_started:
        return ErrorClass.UNSTARTABLE
    if done.reason == "OOMKilled":
        return ErrorClass.OUT_OF_MEMORY
    if done.code == 0:
        return None
    return _RESERVED.get(done.code, ErrorClass.SCRIPT)
