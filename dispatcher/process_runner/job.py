"""One Job in memory: its items, their states, and what is reported of it. No system calls: the runner's parts act on
it.
"""

from __future__ import annotations

import asyncio
import enum

import msgspec

from dispatcher.process_runner import lookahead
from dispatcher.process_runner.lanes import Lane
from dispatcher.process_runner.layout import ItemFolder, JobFolder
from dispatcher.process_runner.processes import Family
from dispatcher.process_runner.reuse import Mark
from dispatcher.sidecar import verdict as verdicts
from dispatcher.sidecar.staging import Staged
from penstock.model import ErrorClass, ItemResult, JobItem, JobPhase, JobPlan, JobStatus


class State(enum.IntEnum):
    WAITING = 0
    RUNNING = 1
    ENDED = 2  # the script and whoever held its output are gone
    DONE = 3  # has a result


class Item:
    """One item's turn. `why` is set before the platform ends it and decides its error class."""

    __slots__ = (
        "code",
        "deadline",
        "ended",
        "finished_ms",
        "folder",
        "index",
        "intent",
        "job_item",
        "log_size",
        "log_truncated",
        "mark",
        "max_rss",
        "noted",
        "orphaned",
        "ready",
        "recovered",
        "result",
        "staged",
        "started_ms",
        "state",
        "told",
        "why",
        "why_text",
    )

    def __init__(self, index: int, job_item: JobItem, folder: ItemFolder) -> None:
        self.index = index
        self.job_item = job_item
        self.folder = folder
        self.state = State.WAITING
        self.staged: Staged | None = None
        #: Its folder is complete: it may be running already and must not be staged again.
        self.ready = False
        #: It was running in an earlier life and its launcher is gone: nobody will tell how it ended.
        self.orphaned = False
        #: The launcher that was told of it: it may begin at any moment, once the item before it has ended.
        self.told: Lane | None = None
        self.result: ItemResult | None = None
        #: Its result is on disk, so nothing more is needed of its folder.
        self.noted = False
        #: What an earlier life was about to publish.
        self.intent: ItemResult | None = None
        self.code: int | None = None
        self.why: ErrorClass | None = None
        self.why_text = ""
        self.started_ms = 0
        self.finished_ms = 0
        self.max_rss = 0
        #: Bytes of output at its end; -1 = there is no file.
        self.log_size = -1
        self.log_truncated = False
        #: How its folder looked before its script started, None = it cannot be told cheaply whether it is the same.
        self.mark: Mark | None = None
        #: An earlier life may have published some of its outputs.
        self.recovered = False
        #: Set when the launcher said so, or when it is gone.
        self.ended: asyncio.Future[None] | None = None
        self.deadline: asyncio.TimerHandle | None = None

    @property
    def prepared(self) -> bool:
        """Nothing is left to be staged."""
        return self.ready or self.state is not State.WAITING


class Job:
    """`lane` is the launcher it runs on, None = none (yet, or any more)."""

    __slots__ = (
        "alone",
        "current",
        "driver",
        "family",
        "folder",
        "freed_ms",
        "heard",
        "items",
        "lane",
        "node",
        "pace_ms",
        "phase",
        "plan",
        "reason",
        "scripts_done",
        "started",
        "strays",
        "told",
        "watched",
    )

    def __init__(self, plan: JobPlan, folder: JobFolder, node: str) -> None:
        self.plan = plan
        self.folder = folder
        self.node = node
        self.items = [Item(index, item, folder.item(index)) for index, item in enumerate(plan.items)]
        self.phase = JobPhase.PENDING
        #: Only publication is left.
        self.scripts_done = False
        self.reason = ""
        #: The item whose script runs now.
        self.current: Item | None = None
        self.lane: Lane | None = None
        #: When its launcher was last done with a script (ms).
        self.freed_ms = 0
        #: The last item that its launcher was told of, and the last that it said the end of; -1 = none.
        self.told = self.heard = -1
        #: What an item takes (ms), 0 = not known yet.
        self.pace_ms = 0.0
        #: A process may have left the launcher's session, of those up to the number that was `watched` last. It is
        #: found by its working folder, so no item's folder is moved until it has been ended.
        self.strays = False
        self.watched = 0
        #: Scripts leave something behind that goes on with their output: the next one must not start meanwhile.
        self.alone = False
        self.family: Family | None = None
        #: Monotonic time of its start; -inf = in an earlier life.
        self.started = 0.0
        self.driver: asyncio.Task[None] | None = None

    def attach(self, lane: Lane) -> None:
        self.lane = lane
        self.family = self.family_of(lane.pid, lane.start, lane.above)

    def family_of(self, leader: int, start: int, above: int) -> Family:
        return Family(
            leader=leader,
            leader_start=start,
            marker=f"JOB_UUID={self.plan.name}\0".encode(),
            folder=f"{self.folder.root}/",
            above=above,
        )

    @property
    def over(self) -> bool:
        return self.phase in {JobPhase.FINISHED, JobPhase.LOST}

    @property
    def calm(self) -> bool:
        """Its launcher has enough to go on with, so nobody need hurry to hear what it says."""
        if self.current is None or self.alone:
            return False
        return lookahead.calm(self.told - max(self.heard, self.current.index), self.pace_ms)

    def find(self, invocation: str) -> Item | None:
        return next((item for item in self.items if item.job_item.invocation == invocation), None)

    def results(self) -> tuple[ItemResult, ...]:
        return tuple(item.result for item in self.items if item.result is not None)

    def status(self, now_ms: int, results: tuple[ItemResult, ...] | None = None) -> JobStatus:
        return JobStatus(
            name=self.plan.name,
            phase=self.phase,
            results=self.results() if results is None else results,
            current=None if self.current is None else self.current.index,
            scripts_done=self.scripts_done,
            reason=self.reason,
            node=self.node,
            time_ms=now_ms,
        )


def verdict(item: Item, deadline_s: float) -> tuple[ErrorClass | None, int | None, str]:
    """Error class, exit code and sentence of an item whose script was started."""
    return verdicts.verdict(item.code, item.why, item.why_text, deadline_s)


def same_plan(one: JobPlan, other: JobPlan) -> bool:
    """Compared as they are stored, so that a plan read back equals the one submitted."""
    return one == other or msgspec.json.encode(one) == msgspec.json.encode(other)
