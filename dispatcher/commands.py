"""Commands: what users order, in the order of the log, each done completely before its position is committed.

Every command may be carried out twice (a crash between doing and committing): each is idempotent by the identity of
what it touches.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import msgspec
import structlog

from dispatcher.dead import letters
from dispatcher.early import EarlyCancels, Held
from dispatcher.functions import Functions
from dispatcher.lifecycle import Step, advance, queued, refused
from dispatcher.matching import existing, never_run, replayable
from dispatcher.patience import patiently
from dispatcher.recorder import Recorder
from dispatcher.routing import verdict
from dispatcher.running import Running
from dispatcher.scheduler import Scheduler
from penstock.clock import now_ms
from penstock.codec import decode_command
from penstock.errors import Unavailable
from penstock.model import (
    TOPIC_COMMANDS,
    TOPIC_DEAD,
    TOPIC_EVENTS,
    BucketEvent,
    Command,
    CommandKind,
    ErrorClass,
    Function,
    Phase,
    Record,
)
from penstock.ports import EventLog, Ledger, LogEntry, ObjectStore, Runner, StoredEntry

log = structlog.get_logger("dispatcher.commands")

GROUP = "penstock.dispatcher"
PAGE = 500
RETRY_S = 1.0
#: Between two looks for the record that an early cancel waits for.
EARLY_S = 0.2


class Commands:
    def __init__(
        self,
        *,
        event_log: EventLog,
        ledger: Ledger,
        store: ObjectStore,
        runner: Runner,
        functions: Functions,
        scheduler: Scheduler,
        recorder: Recorder,
        epoch: Callable[[], int],
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        self._log = event_log
        self._ledger = ledger
        self._store = store
        self._runner = runner
        self._functions = functions
        self._scheduler = scheduler
        self._recorder = recorder
        self._epoch = epoch
        self._refresh = refresh
        self._positions: dict[int, int] | None = None
        self._early = EarlyCancels()

    async def run(self) -> None:
        while True:
            try:
                await self.turn(wait_s=5.0)
            except Unavailable as error:
                log.error("a command has to wait", action="command_retry", error=error.message)
                await asyncio.sleep(RETRY_S)

    async def turn(self, *, wait_s: float = 0.0) -> int:
        """Carry out what waits; returns how many commands."""
        if self._positions is None:
            self._positions = dict(await self._log.committed(GROUP, TOPIC_COMMANDS))
        if self._early:
            await self._settle_early()
            wait_s = min(wait_s, EARLY_S)
        entries = await self._log.read(TOPIC_COMMANDS, self._positions, limit=100, wait_s=wait_s)
        for entry in entries:
            try:
                command = decode_command(entry.value)
            except msgspec.DecodeError as error:
                log.error("a command cannot be read and is left out", action="bad_command", error=str(error))
            else:
                if await self._too_early(command):
                    await self._hold(command, entry)
                else:
                    await self.carry_out(command)
            self._positions[entry.partition] = entry.offset + 1
            await self._commit()
        return len(entries)

    async def _commit(self) -> None:
        if self._positions is not None:
            await self._log.commit(GROUP, TOPIC_COMMANDS, self._early.committable(self._positions))

    async def carry_out(self, command: Command) -> int:
        """Do one command; returns how many invocations or letters it touched."""
        # A command about a function that was made just before it must find the function.
        await self._refresh()
        match command.kind:
            case CommandKind.CANCEL:
                touched = await self._cancel(command)
            case CommandKind.REPLAY:
                touched = await self._replay(command)
            case CommandKind.BACKFILL:
                function = self._functions.table.by_uid.get(command.function_uid)
                touched = (
                    0 if function is None else await self.backfill(function, command.key_prefix, force=command.force)
                )
            case CommandKind.RETRY_DEAD | CommandKind.DROP_DEAD:
                touched = await self._unbury(command, again=command.kind is CommandKind.RETRY_DEAD)
        log.info("command done", action="command", kind=command.kind.value, function=command.function, touched=touched)
        return touched

    # ---- cancel

    async def _cancel(self, command: Command) -> int:
        reason = f"cancelled by {command.user or 'a user'}"
        job = self._scheduler.job_of(command.invocation)
        if job is not None:
            await self._stop_item(job, command.invocation, reason)
            return 1
        record = await self._ledger.get(command.invocation)
        if record is None or record.phase is not Phase.QUEUED or not self._scheduler.withdraw(record):
            return 0
        await self._end([record], reason)
        return 1

    async def _too_early(self, command: Command) -> bool:
        """Whether it cancels what has no record, and perhaps will have one soon."""
        return (
            command.kind is CommandKind.CANCEL
            and self._scheduler.job_of(command.invocation) is None
            and await self._ledger.get(command.invocation) is None
        )

    async def _hold(self, command: Command, entry: StoredEntry) -> None:
        until = await self._log.end(TOPIC_EVENTS)
        held = Held(command=command, partition=entry.partition, offset=entry.offset, until=until, since_ms=now_ms())
        if (lost := self._early.hold(held)) is not None:
            log.error("too many cancels wait for a record", action="cancel_lost", invocation=lost.command.invocation)

    async def _settle_early(self) -> None:
        """Carry out the cancels whose invocation is recorded by now, and give up those that wait in vain."""
        # Read before the ledger: what intake committed is recorded, so a missing record is missing for good.
        vain = self._early.vain(await self._log.committed(GROUP, TOPIC_EVENTS), now_ms())
        held = self._early.all()
        known = await self._ledger.known([one.command.invocation for one in held])
        settled = [one for one in held if one.command.invocation in known]
        for one in settled:
            await self.carry_out(one.command)
        for one in vain:
            if one not in settled:
                log.info("a cancel found nothing to cancel", action="cancel", invocation=one.command.invocation)
        self._early.release([one.command.id for one in (*settled, *vain)])
        await self._commit()

    async def _stop_item(self, job: Running, invocation: str, reason: str) -> None:
        job.cancel[invocation] = reason
        await self._runner.cancel(job.plan.name, invocation=invocation, reason=reason)

    async def _end(self, records: list[Record], reason: str) -> None:
        now = now_ms()
        ended = [
            advance(
                record,
                Step.CANCEL,
                now=now,
                epoch=self._epoch(),
                note=reason,
                error=ErrorClass.CANCELLED,
                reason=reason,
                finished_ms=now,
            )
            for record in records
        ]
        await self._recorder.write(ended)
        for record in ended:
            self._scheduler.settled(record)

    async def cancel_function(self, uid: str, name: str) -> None:
        """The function was deleted: nothing of it starts any more, what runs is stopped, what waits is recorded."""
        reason = f"the function {name} was deleted"
        for job in self._scheduler.drop(uid):
            if job.in_runner:
                job.cancel |= dict.fromkeys(job.records, reason)
                order = partial(self._runner.cancel, job.plan.name, reason=reason)
                self._scheduler.spawn(patiently("cancel", order), f"cancel {job.plan.name}")
            else:
                self._scheduler.jobs.pop(job.plan.name, None)
                await self._end([record for record in job.records.values() if not record.phase.final], reason)
        while rows := await self._ledger.queue(uid, limit=PAGE):
            await self._end([record for _, record in rows], reason)

    # ---- replay and backfill

    async def _replay(self, command: Command) -> int:
        touched = 0
        async for records in self.replayable(command):
            again = [self._again(record, command.force) for record in records]
            changed = await self._recorder.write(again)
            self._scheduler.queued(changed)
            touched += len(changed)
        return touched

    async def replayable(self, command: Command) -> AsyncIterator[list[Record]]:
        """Pages of the records that a replay would run again."""
        async for records in replayable(self._ledger, command):
            yield records

    def _again(self, record: Record, force: bool) -> Record:
        now = now_ms()
        return advance(
            record,
            Step.REPLAY,
            now=now,
            epoch=self._epoch(),
            note="run again by a user" + (" (forced)" if force else ""),
            force=force,
            not_before_ms=now,
            queued_ms=record.queued_ms,
            script_failures=0,
            platform_failures=0,
            job="",
            index=0,
        )

    async def backfill(self, function: Function, path_prefix: str = "", *, force: bool = False) -> int:
        """Queue every object under the function's inputs that has never run; `force` = also what ended."""
        touched = 0
        async for events in self.existing(function, path_prefix):
            fresh = await self.never_run(function, events)
            records = []
            for event, identity in fresh:
                routed = verdict(function, event)
                record = queued(identity, function, event, now=now_ms(), epoch=self._epoch())
                if routed.phase is not None:
                    error = routed.error or ErrorClass.INVALID
                    record = refused(record, routed.phase, routed.reason, error, now=now_ms())
                records.append(record)
            changed = await self._recorder.write(records)
            self._scheduler.queued(changed)
            touched += len(changed)
        if force:
            command = Command(
                id="",
                kind=CommandKind.REPLAY,
                time_ms=now_ms(),
                function=function.name,
                function_uid=function.uid,
                key_prefix=path_prefix,
                force=True,
            )
            touched += await self._replay(command)
        return touched

    async def existing(self, function: Function, path_prefix: str = "") -> AsyncIterator[list[BucketEvent]]:
        """Pages of the objects under a function's inputs, as events."""
        async for events in existing(self._store, function, path_prefix):
            yield events

    async def never_run(self, function: Function, events: list[BucketEvent]) -> list[tuple[BucketEvent, str]]:
        """Those events whose invocation has no record, with its id."""
        return await never_run(self._ledger, function, events)

    # ---- dead letters

    async def _unbury(self, command: Command, *, again: bool) -> int:
        letter = (await letters(self._log)).get(command.invocation)
        if letter is None:
            return 0
        if again:
            await self._log.append(letter.topic or TOPIC_EVENTS, [LogEntry(letter.id, letter.original)])
        await self._log.append(TOPIC_DEAD, [LogEntry(letter.id, b"")])
        return 1
