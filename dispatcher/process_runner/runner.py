"""The runner for local processes: the `Runner` port over launchers, one per Job.

What can be lost is only what is in memory; everything needed to go on is in the Jobs' folders (`layout`), and `open`
takes it up again (`recovery`). One event loop serves all Jobs; nothing here blocks longer than a few system calls.
"""
# Plain os calls, no Path objects: on the path of every Job; a Path object costs more than the system call
# ruff: noqa: PTH103

from __future__ import annotations

import asyncio
import collections
import os
import re
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import structlog

from dispatcher.process_runner import ending, output_log, processes, recovery
from dispatcher.process_runner.drive import Driver, Settings
from dispatcher.process_runner.janitor import Janitor
from dispatcher.process_runner.job import Job, State, same_plan
from dispatcher.process_runner.lanes import Lane, Lanes, base_environment
from dispatcher.process_runner.layout import JobFolder, trouble
from dispatcher.sidecar.answer import read_log
from dispatcher.sidecar.environment import job_variables
from penstock.clock import now_ms
from penstock.errors import AlreadyExists, Closed, InvalidInput, NotFound
from penstock.model import SYSTEM_BUCKET, ErrorClass, ItemResult, JobPhase, JobPlan, JobStatus
from penstock.ports import ObjectStore, Room

log = structlog.get_logger("dispatcher.process_runner")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_TICK_S = 0.2
_TICKS_PER_LOOK = 5


class ProcessRunner:
    """`workdir` holds the Jobs' folders, `volumes` what outlives them. Construct with `open`, which takes up the Jobs
    of an earlier life; two runners must not share a `workdir`.
    """

    def __init__(
        self,
        *,
        store: ObjectStore,
        workdir: Path,
        volumes: Path,
        node: str,
        settings: Settings | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """`environ` is what user code's base environment is taken from. Raises Unavailable."""
        self._store = store
        self._settings = settings or Settings()
        self._node = node
        self._environment = base_environment(os.environ if environ is None else environ)
        self._jobs: dict[str, Job] = {}
        self._news: collections.deque[JobStatus] = collections.deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._closed = False
        self._hurry = asyncio.Event()
        self._ended = asyncio.Event()
        self._ticker: asyncio.TimerHandle | None = None
        self._ticks = 0
        self._boot = processes.boot_id()
        self._watched = False
        try:
            workdir.mkdir(parents=True, exist_ok=True, mode=0o700)
            volumes.mkdir(parents=True, exist_ok=True)
            self._volumes = str(volumes.resolve())
            self._workdir = str(workdir.resolve())
            warm = self._settings.warm
            self._janitor = Janitor(self._workdir)
            warm = (os.cpu_count() or 1) if warm is None else warm
            self._lanes = Lanes(self._workdir, self._heard, warm=warm, calm=self._calm)
        except OSError as error:
            raise trouble(error, str(workdir)) from error
        self._driver = Driver(
            store=store,
            lanes=self._lanes,
            janitor=self._janitor,
            settings=self._settings,
            attach=self._attach,
            report=self._report,
        )

    @classmethod
    async def open(
        cls,
        *,
        store: ObjectStore,
        workdir: Path,
        volumes: Path,
        node: str,
        settings: Settings | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> ProcessRunner:
        """Start, adopt what an earlier life left running and complete what it left finished. Raises Unavailable."""
        runner = cls(store=store, workdir=workdir, volumes=volumes, node=node, settings=settings, environ=environ)
        await store.create_bucket(SYSTEM_BUCKET)
        for job, launcher in recovery.find(runner._workdir, runner._boot, node):
            runner._take_up(job, launcher)
        runner._lanes.sweep_files()
        return runner

    def _take_up(self, job: Job, launcher: tuple[int, int, str] | None) -> None:
        self._jobs[job.plan.name] = job
        if job.over:
            return
        lane = None if launcher is None else self._lanes.adopt(*launcher)
        if lane is not None:
            self._serve(job, lane)
        else:  # also when it ended since it was looked at
            for item in job.items:
                item.orphaned = item.state is State.RUNNING and item.folder.code() is None
        self._drive(job)

    # Submitting

    async def submit(self, plan: JobPlan) -> None:
        self._check_open()
        known = self._jobs.get(plan.name)
        if known is not None:
            if same_plan(known.plan, plan):
                return
            raise AlreadyExists(f"the Job name {plan.name} is taken by another plan; forget that one first")
        self._check(plan)
        folder = JobFolder(self._workdir, plan.name)
        folder.create(plan, self._boot, self._janitor.spare_job)
        job = Job(plan, folder, self._node)
        job.started = time.monotonic()
        try:
            if plan.script.strip():
                self._attach(job)
        except BaseException:
            self._janitor.throw(folder.root)
            raise
        self._jobs[plan.name] = job
        self._drive(job)

    def _check(self, plan: JobPlan) -> None:
        """What can be refused is refused before anything is on disk. Raises InvalidInput."""
        if not _NAME.fullmatch(plan.name):
            raise InvalidInput(
                f"{plan.name!r} is no Job name: letters, digits, '-', '.' and '_' make one", where="name"
            )
        if not plan.items:
            raise InvalidInput(f"the Job {plan.name} has no items", where="items")
        if plan.volume is not None and not _NAME.fullmatch(plan.volume.name):
            raise InvalidInput(f"{plan.volume.name!r} is no name of a volume", where="volume.name")

    def _variables(self, plan: JobPlan) -> dict[str, str]:
        """The launcher's whole environment. Raises InvalidInput, Unavailable."""
        volume_path = ""
        if plan.volume is not None:
            volume_path = f"{self._volumes}/{plan.volume.name}"
            try:
                os.makedirs(volume_path, exist_ok=True)
            except OSError as error:
                raise trouble(error, volume_path) from error
        return {**self._environment, **job_variables(plan, node=self._node, volume_path=volume_path)}

    def _attach(self, job: Job) -> Lane:
        """Give the Job a launcher, which may be told of it only once that is on disk. Raises InvalidInput,
        Unavailable.
        """
        lane = self._lanes.take(self._variables(job.plan))
        try:
            job.folder.note_launcher(lane.pid, lane.start, lane.fifo)
        except OSError as error:
            self._lanes.give_back(lane, lane.above)
            raise trouble(error, job.folder.root) from error
        self._serve(job, lane)
        return lane

    def _serve(self, job: Job, lane: Lane) -> None:
        job.attach(lane)
        lane.lost = lambda: self._launcher_lost(job)

    def _launcher_lost(self, job: Job) -> None:
        """The launcher ended while it served the Job. What its scripts left in its session is dealt with by the
        driver.
        """
        if job.current is not None:
            self._driver.look(job, job.current)

    def _drive(self, job: Job) -> None:
        job.driver = asyncio.create_task(self._driver.drive(job), name=f"job {job.plan.name}")
        job.driver.add_done_callback(lambda task: self._driven(job, task))
        if self._ticker is None:
            self._ticker = asyncio.get_running_loop().call_later(_TICK_S, self._tick)

    def _driven(self, job: Job, task: asyncio.Task[None]) -> None:
        """A driver that raises must not leave its Job without an end."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.error("a Job failed inside the runner", action="job_broken", job=job.plan.name, error=repr(error))
        self._driver.sweep(job)
        job.phase, job.reason = JobPhase.LOST, f"internal error: {error!r}"
        self._report(job, job.results())

    # Watching

    def _heard(self, name: str, index: int) -> None:
        job = self._jobs.get(name)
        if job is not None and index < len(job.items):
            job.heard = max(job.heard, index)
            self._driver.look(job, job.items[index])

    def _calm(self) -> bool:
        """Every launcher that serves a Job has enough to go on with."""
        running = [job.calm for job in self._jobs.values() if not (job.over or job.scripts_done)]
        return bool(running) and all(running)

    def _tick(self) -> None:
        """One turn of the slow watch: memory each time; size of logs and lost words now and then."""
        self._ticker = None
        running = [(job, item) for job in self._jobs.values() if not job.over and (item := job.current) is not None]
        self._ticks += 1
        for job, item in running:
            limit = job.plan.resources.memory_bytes
            if limit and job.family is not None:
                used = processes.resident_bytes(ending.of_item(job, item))
                item.max_rss = max(item.max_rss, used)
                if used > limit:
                    text = (
                        f"the script used {used // 2**20} MiB, more than the function's memory of {limit // 2**20} MiB"
                    )
                    self._driver.end(job, item, ErrorClass.OUT_OF_MEMORY, text, at_once=True)
            if self._ticks % _TICKS_PER_LOOK == 0:
                self._driver.look(job, item)
                if output_log.trim(item.folder.log, self._settings.log_limit):
                    item.log_truncated = True
        if any(not job.over for job in self._jobs.values()):
            self._ticker = asyncio.get_running_loop().call_later(_TICK_S, self._tick)

    def _report(self, job: Job, results: tuple[ItemResult, ...]) -> None:
        if self._watched:
            self._news.append(job.status(now_ms(), results))
            self._wake.set()

    def watch(self) -> AsyncIterator[JobStatus]:
        self._watched = True  # from this call on, not from the first step of the iteration
        return self._stream()

    async def _stream(self) -> AsyncIterator[JobStatus]:
        try:
            while True:
                while self._news:
                    yield self._news.popleft()
                if self._closed:
                    return
                self._wake.clear()
                await self._wake.wait()
        finally:
            self._watched = False
            self._news.clear()

    async def jobs(self) -> list[JobStatus]:
        now = now_ms()
        return [job.status(now) for job in self._jobs.values()]

    # Ending

    async def cancel(self, name: str, *, invocation: str = "", reason: str = "") -> None:
        job = self._jobs.get(name)
        if job is None or job.over:
            return
        for item in job.items:
            if invocation and item.job_item.invocation != invocation:
                continue
            self._driver.cancel(job, item, reason)

    async def log(self, name: str, invocation: str, *, offset: int = 0, follow: bool = False) -> AsyncIterator[bytes]:
        job = self._jobs.get(name)
        item = None if job is None else job.find(invocation)
        if job is None or item is None:
            raise NotFound(f"there is no item {invocation} in a Job {name} here")
        if item.folder.has_log() or not (job.over or item.state is State.DONE):
            live = output_log.follow(
                item.folder.log, offset, lambda: job.over or item.state >= State.ENDED, wait=follow
            )
            async for chunk in live:
                yield chunk
        else:
            async for chunk in read_log(self._store, job.plan.function_uid, invocation, item.job_item.attempt, offset):
                yield chunk

    async def forget(self, name: str) -> None:
        job = self._jobs.pop(name, None)
        if job is None:
            if _NAME.fullmatch(name):
                self._janitor.throw(f"{self._workdir}/{name}")
            return
        if not job.over:
            await self._abandon(job)
        if self._news:
            self._news = collections.deque(status for status in self._news if status.name != name)
        marks = {str(item.index): item.mark for item in job.items if item.ready}
        await self._janitor.discard(job.folder.root, marks)

    async def room(self) -> Room:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Room(cpu_millis=1000 * (os.cpu_count() or 1), memory_bytes=memory)

    async def close(self, *, drain_s: float = 0.0) -> None:
        """As the port says; a second call while the first one drains makes it hurry, and returns with it."""
        if self._closing:
            self._hurry.set()
            await self._ended.wait()
            return
        self._closing = True
        await self._drain(drain_s)
        for job in list(self._jobs.values()):
            if not job.over:
                await self._abandon(job)
                job.phase, job.reason = JobPhase.LOST, "Penstock was stopped while it was running"
                self._report(job, job.results())
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        self._lanes.close()
        await self._janitor.close()
        self._closed = True
        self._wake.set()
        self._ended.set()

    async def _drain(self, drain_s: float) -> None:
        """Give what runs some time, unless somebody is in a hurry."""
        working = [job.driver for job in self._jobs.values() if job.driver is not None and not job.driver.done()]
        if not working or drain_s <= 0:
            return
        tasks = {asyncio.create_task(_all_done(working), name="drain"), asyncio.create_task(self._hurry.wait())}
        await asyncio.wait(tasks, timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def _abandon(self, job: Job) -> None:
        """Kill everything of a Job and stop driving it."""
        if job.lane is not None:
            job.lane.lost = None
            self._lanes.kill(job.lane)
        if job.family is not None:
            processes.kill_all(job.family)
            job.family = job.lane = None
        if job.driver is not None and not job.driver.done():
            job.driver.cancel()
            await asyncio.wait({job.driver})
        for item in job.items:
            if item.deadline is not None:
                item.deadline.cancel()

    def _check_open(self) -> None:
        if self._closing:
            raise Closed("the process runner was closed")


async def _all_done(tasks: list[asyncio.Task[None]]) -> None:
    """Wait without taking the tasks along when this is cancelled."""
    await asyncio.wait(tasks)
