"""Takes one Job from its first item to its last: stage, run, wait for the end, hand over to publication, go on.

The next items are staged while one runs, and an item is published while the next one runs: the script is what
everything waits for. The launcher is told of the next one, or of several short ones (`lookahead`), so it goes on by
itself and never waits for us either.
Ending an item early (deadline, cancel, memory) leaves the launcher alone, so the rest of the list goes on.
"""
# Plain os calls, no Path objects: on the path of every item; a Path object costs more than the system call
# ruff: noqa: PTH108

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections import deque
from collections.abc import Callable

import msgspec

from dispatcher.process_runner import ending, lookahead, output_log, processes, reuse
from dispatcher.process_runner.finish import finish
from dispatcher.process_runner.group import Group
from dispatcher.process_runner.janitor import Janitor
from dispatcher.process_runner.job import Item, Job, State
from dispatcher.process_runner.lanes import Lane, Lanes
from dispatcher.process_runner.layout import Note, write
from dispatcher.sidecar import environment
from dispatcher.sidecar.events import ItemInput
from dispatcher.sidecar.stage import StageError, stage
from dispatcher.sidecar.staging import check_script
from dispatcher.sidecar.verdict import refused
from penstock.clock import now_ms
from penstock.errors import PenstockError
from penstock.model import ErrorClass, ItemResult, JobPhase
from penstock.model.job import EXIT_STAGE_IN
from penstock.ports import ObjectStore

_FIRST_LOOK_S = 0.002
_LONGEST_LOOK_S = 0.1
_KILL_AGAIN_S = 0.1
_WORTH_CLEARING = 1024 * 1024
#: Turns of the loop that the next Job takes from a free slot to its script's start. Publication lets it go first.
_TURNS = 4
#: How many launchers one item may be given before it counts as killed.
_LAUNCHERS = 3


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How the runner treats its Jobs."""

    #: Seconds between SIGTERM and SIGKILL.
    grace_s: float = 5.0
    #: Bytes of output kept per item.
    log_limit: int = output_log.LOG_LIMIT
    #: Idle launchers kept for the next Job of the same function; None = one per processor.
    warm: int | None = None


class Driver:
    """`report` is called whenever there is news of a Job (with results, when some are new); `attach` gives a Job a
    launcher and raises PenstockError.
    """

    def __init__(
        self,
        *,
        store: ObjectStore,
        lanes: Lanes,
        janitor: Janitor,
        settings: Settings,
        attach: Callable[[Job], Lane],
        report: Callable[[Job, tuple[ItemResult, ...]], None],
    ) -> None:
        self._store = store
        self._lanes = lanes
        self._janitor = janitor
        self._settings = settings
        self._attach = attach
        self._report = report
        self._opened_ms = now_ms()

    async def drive(self, job: Job) -> None:
        """Run what is left of a Job until every item has a result."""
        group = Group(lambda items: self._publish(job, items), f"publish {job.plan.name}")
        try:
            await self._drive(job, group)
        finally:
            await group.abandon()
        job.phase, job.reason = JobPhase.FINISHED, ""
        self._report(job, job.results())

    async def _drive(self, job: Job, group: Group) -> None:
        ahead: deque[asyncio.Task[None]] = deque()
        begun = 1
        try:
            for item in job.items:
                while ahead and (ahead[0].done() or not item.prepared):
                    await ahead.popleft()
                await self._stage(job, item)
                coming = self._to_stage(job, item, begun)
                if coming:
                    staging = self._stage_all(job, coming)
                    ahead.append(asyncio.create_task(staging, name=f"stage {job.plan.name}"))
                    begun += len(coming)
                if item.state is State.DONE:
                    continue
                await self._turn(job, item)
                if item.state is State.ENDED:
                    group.add(item)
        finally:
            for task in ahead:
                task.cancel()
            if ahead:
                await asyncio.wait(ahead)
        self.sweep(job)
        job.scripts_done = True
        if group.busy:
            self._report(job, ())
            for _ in range(_TURNS):
                await asyncio.sleep(0)
        await group.flush()

    def sweep(self, job: Job) -> None:
        """Nothing survives the Job: kill what its scripts left running. The launcher is free for the next one."""
        family, lane = job.family, job.lane
        if family is None:
            return
        job.family = job.lane = None
        left, newest = processes.survivors(family, started=job.started, others=self._lanes.sessions)
        clean = not left or processes.kill_all(family)
        if lane is not None:
            if clean:
                self._lanes.give_back(lane, newest)
            else:
                self._lanes.kill(lane)

    # Staging

    def _to_stage(self, job: Job, item: Item, begun: int) -> list[Item]:
        """What is to be staged while this item runs, of those from `begun` on: what the launcher is to be told of, and
        one to be said when the next one begins. Many at a time where there are many, since each time costs.
        """
        near, far = job.items[begun : item.index + 3], lookahead.told(job.pace_ms) + 2
        if near or begun - item.index <= far // 2:
            more = job.items[begun + len(near) : item.index + far]
            near += itertools.takewhile(lambda one: one.job_item.trigger.size <= lookahead.SMALL_BYTES, more)
        return near

    async def _stage_all(self, job: Job, items: list[Item]) -> None:
        for item in items:
            await self._stage(job, item)
            if job.current is not None and job.told <= job.current.index:
                self._tell_ahead(job)
        self._tell_ahead(job)

    async def _stage(self, job: Job, item: Item) -> None:
        """Bring the input and write the item's variables; a refusal is the item's result."""
        if item.state is not State.WAITING or item.ready:
            return
        try:
            check_script(job.plan)
        except StageError as error:
            self.settle(job, item, refused(item.job_item, error.error, error.message, error.exit_code, now_ms()))
            return
        try:
            used = item.folder.create(self._janitor.spare_item)
            staged = await stage(self._store, job.plan, item.job_item, item.folder.inputs, item.folder.blank)
            if item.state is not State.WAITING:  # cancelled meanwhile
                return
            _write_environment(job, item, staged.input_path, staged.given)
            if used:
                if staged.given.object is None or not staged.input_path:
                    with contextlib.suppress(FileNotFoundError):  # no input came of it, and a script would see it
                        os.unlink(item.folder.blank)
                item.mark = reuse.mark(item.folder.root)
            item.staged = staged
            item.ready = True
        except StageError as error:
            self._refuse(job, item, error.error, error.message, error.exit_code)
        except OSError as error:
            message = f"the input could not be staged: {error.strerror or error}"
            self._refuse(job, item, ErrorClass.STAGE_IN, message, EXIT_STAGE_IN)

    def _refuse(self, job: Job, item: Item, error: ErrorClass, message: str, exit_code: int | None) -> None:
        if item.state is State.WAITING:
            self.settle(job, item, refused(item.job_item, error, message, exit_code, now_ms()))

    # Running

    async def _turn(self, job: Job, item: Item) -> None:
        """Run the item; returns when the script and whoever holds its output are gone."""
        if item.orphaned:
            self._orphan(job, item)
            return
        if item.state is State.WAITING:
            item.started_ms = now_ms()
            if item.told is not None and item.staged is not None:  # it began when the one before it was over
                item.started_ms = min(item.started_ms, max(job.freed_ms, item.staged.staged_ms))
            item.state = State.RUNNING
        loop = asyncio.get_running_loop()
        left = job.plan.deadline_s - (now_ms() - item.started_ms) / 1000
        item.deadline = loop.call_later(max(0.0, left), self.end, job, item, ErrorClass.DEADLINE)
        job.phase, job.current = JobPhase.RUNNING, item
        self._report(job, ())
        try:
            if item.why is not None:  # an earlier life was ending it
                self._kill(job, item)
            for _ in range(_LAUNCHERS):
                await self._ended(job, item)
                # A launcher that went before it began (an idle one goes with the life that made it) has run nothing.
                if item.code is not None or item.why is not None or item.folder.started():
                    break
                item.told = None
            held = await self._released(job, item)
        except PenstockError as error:  # no launcher can be started
            item.state = State.WAITING
            self.settle(job, item, refused(item.job_item, ErrorClass.LOST, error.message, None, now_ms()))
            return
        finally:
            item.deadline.cancel()
            job.current = None
        if held or not item.finished_ms:
            item.finished_ms = now_ms()
        job.pace_ms = lookahead.pace(job.pace_ms, item.finished_ms - item.started_ms)
        job.alone = job.alone or held
        item.state = State.ENDED

    async def _ended(self, job: Job, item: Item) -> None:
        """Tell a launcher and wait until it has ended the item, or is gone. Raises PenstockError: there is none."""
        item.ended = asyncio.get_running_loop().create_future()
        if item.recovered and item.folder.code() is not None:
            self.look(job, item)
            return
        lane = job.lane
        if lane is not None and item.told is lane:
            self.look(job, item)  # it may be over already, or its launcher gone
        else:
            if lane is None or lane.gone:
                lane = self._attach(job)
            item.told = lane
            job.told = item.index
            if not lane.say(f"run {job.plan.name} {item.index}\n"):
                # It has just gone, or user code filled its FIFO: nothing sensible can be said to it any more.
                lane.kill()
        self._tell_ahead(job)
        await item.ended
        if item.code is None and job.family is not None:
            processes.kill_all(job.family)  # without a launcher nobody will ever say how these end

    def _tell_ahead(self, job: Job) -> None:
        """Tell the launcher that knows of the one that runs of the next ones that are staged."""
        current, lane = job.current, job.lane
        if job.alone or current is None or lane is None or lane.gone or current.told is not lane:
            return
        left, news = lookahead.told(job.pace_ms), []
        for item in job.items[current.index + 1 :]:
            if item.state is State.DONE:
                continue
            if not left or item.state is not State.WAITING or not item.ready:
                break
            left -= 1
            if item.told is not lane:
                news.append(item)
        if news and lane.say("".join(f"run {job.plan.name} {item.index}\n" for item in news)):
            job.told = news[-1].index
            for item in news:
                item.told = lane

    def _orphan(self, job: Job, item: Item) -> None:
        if job.family is not None:
            processes.kill_all(job.family)
        text = "Penstock and the launcher of this item were killed while it was running"
        self.settle(job, item, refused(item.job_item, ErrorClass.LOST, text, None, now_ms()))

    def look(self, job: Job, item: Item) -> None:
        """The doorbell rang, or might have been lost, or the launcher is gone: the code file is what counts."""
        if item.ended is None or item.ended.done():
            return
        item.code, ended_ms = item.folder.end()
        if item.code is not None:
            # By the file's clock, which may be some milliseconds behind.
            item.finished_ms = job.freed_ms = max(item.started_ms, ended_ms)
        if item.code is not None or job.lane is None or job.lane.gone:
            item.ended.set_result(None)

    async def _released(self, job: Job, item: Item) -> bool:
        """Wait until nobody holds the output: `sleep 4 & echo done` takes four seconds, as it does in OSCAR. True = it
        was held.
        """
        pause = _FIRST_LOOK_S
        while True:
            held, item.log_size = output_log.held(item.folder.log, job.family)
            if not held:
                break
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_LOOK_S)
        return pause > _FIRST_LOOK_S

    def end(self, job: Job, item: Item, why: ErrorClass, text: str = "", *, at_once: bool = False) -> None:
        """Make the platform end a running item: SIGTERM now (unless `at_once`), SIGKILL after the grace, until nothing
        of it is left.
        """
        if item.state is not State.RUNNING or item.why is not None:
            return
        if ending.over(job, item):  # it was faster
            self.look(job, item)
            return
        self._note_why(item, why, text)
        if item.deadline is not None:
            item.deadline.cancel()
        if at_once:
            self._kill(job, item)
            return
        ending.send(job, item, signal.SIGTERM)
        asyncio.get_running_loop().call_later(self._settings.grace_s, self._kill, job, item)

    def _note_why(self, item: Item, why: ErrorClass, text: str) -> None:
        item.why, item.why_text = why, text
        item.folder.note_why(why)

    def cancel(self, job: Job, item: Item, reason: str) -> None:
        """Keep an item from running, or end it."""
        if item.state is State.RUNNING:
            self.end(job, item, ErrorClass.CANCELLED, reason)
        elif item.state is State.WAITING and item.why is None:
            text = reason or "cancelled before its turn"
            if item.told is None:
                self.settle(job, item, refused(item.job_item, ErrorClass.CANCELLED, text, None, now_ms()))
            else:  # its launcher may begin with it at any moment: it is ended then
                self._note_why(item, ErrorClass.CANCELLED, text)

    def _kill(self, job: Job, item: Item) -> None:
        if item.state is not State.RUNNING:
            return
        ending.kill(job, item)
        asyncio.get_running_loop().call_later(_KILL_AGAIN_S, self._kill, job, item)

    # The end

    async def _publish(self, job: Job, items: list[Item]) -> None:
        limit = self._settings.log_limit
        results = await finish(self._store, job, items, log_limit=limit, opened_ms=self._opened_ms)
        if len(job.items) > 1 and not job.strays and job.family is not None:
            above = max(job.watched, job.family.above)
            job.strays, job.watched = processes.strays(job.family, above, self._lanes.sessions)
        for item, result in zip(items, results, strict=True):
            self._done(job, item, result)
        if len(job.items) > 1:  # else the Job's end says it
            self._report(job, tuple(results))

    def settle(self, job: Job, item: Item, result: ItemResult) -> None:
        """Give an item its result without running it."""
        with contextlib.suppress(OSError):  # without it a later life finds out again
            job.folder.note([Note(item=item.index, result=result)])
        self._done(job, item, result)
        if len(job.items) > 1:
            self._report(job, (result,))

    def _done(self, job: Job, item: Item, result: ItemResult) -> None:
        item.result = result
        item.state = State.DONE
        if len(job.items) > 1:
            self._clear(job, item)

    def _clear(self, job: Job, item: Item) -> None:
        """An item of a list is through: its folder may serve the next one. Else free the disk of its data where that
        may be worth it; the rest goes with the Job. The log stays while somebody may follow it.
        """
        may = item.ready and item.noted and item.log_size <= 0 and not job.strays
        if may and self._janitor.keep_item(item.folder.root, item.mark):
            item.ready = False
            return
        trigger = item.job_item.trigger
        published = 0 if item.result is None else sum(output.size for output in item.result.outputs)
        if trigger.size + published > _WORTH_CLEARING:
            for path in (item.folder.inputs, item.folder.outputs, item.folder.work):
                self._janitor.throw(path)


def _write_environment(job: Job, item: Item, input_path: str, given: ItemInput) -> None:
    """The last step of staging: its last line tells that everything before is there. Raises OSError."""
    folder = item.folder
    event_path = f"{folder.root}/event"
    variables = environment.item_variables(
        given,
        input_dir=folder.inputs,
        output_dir=folder.outputs,
        input_path=input_path,
        event_path=event_path if given.event else input_path,
        trace=item.job_item.traceparent,
    )
    # Not in the launcher's own environment: that one may serve several Jobs.
    variables["JOB_UUID"] = job.plan.name.encode()
    if environment.needs_event_file(given.event):
        write(event_path, given.event)
    write(folder.env, environment.render(variables, directory=folder.work))
