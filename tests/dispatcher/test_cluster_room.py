"""Room in a cluster: few Jobs wait for a place, each function has one, and a refusal parks its function alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher import outcomes
from dispatcher.plan import make_plan
from dispatcher.service import Dispatcher
from dispatcher.slots import Slots
from penstock.clock import now_ms
from penstock.errors import Fenced, Forbidden, Unavailable
from penstock.model import CommandKind, Function, JobPhase, JobPlan, JobStatus, Phase
from penstock.ports import Room
from tests.dispatcher.bench import DispatcherBench
from tests.dispatcher.scripted_runner import ScriptedRunner, succeed
from tests.factories import make_event, make_function


def plan_of(function: Function, number: int) -> JobPlan:
    return msgspec.structs.replace(make_plan(function, []), name=f"job-{number}")


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60), st.integers(1, 5))
def test_no_more_wait_than_may_but_one_of_each_function(steps: list[tuple[int, bool]], limit: int) -> None:
    slots = Slots(Room(pending_jobs=limit))
    functions = [make_function(f"f{number}") for number in range(4)]
    waiting: list[tuple[str, str]] = []
    for number, (which, begins) in enumerate(steps):
        if begins and waiting:
            job, _ = waiting.pop(0)
            assert slots.began(job)
            assert not slots.began(job)
            continue
        function = functions[which]
        of_function = [uid for _, uid in waiting if uid == function.uid]
        assert slots.may_pend(function.uid) is (len(waiting) < limit or not of_function)
        if slots.may_pend(function.uid):
            slots.take(plan_of(function, number))
            waiting.append((f"job-{number}", function.uid))
        assert slots.pending == len(waiting)
    for job, _ in waiting:
        slots.give_back(job)
    assert slots.pending == 0


def test_one_machine_counts_no_waiting_jobs() -> None:
    slots = Slots(Room(cpu_millis=1000))
    for number in range(10):
        slots.take(plan_of(make_function(), number))
    assert slots.may_pend("uid-thumbs")


class ClusterRunner(ScriptedRunner):
    """Takes Jobs that wait until they are told to run, as a cluster does."""

    def __init__(self, pending: int) -> None:
        super().__init__(outcome=None)
        self.limit = pending
        self.quota: int | None = None
        self.refused = 0
        self.lost_rights = 0

    async def room(self) -> Room:
        return Room(pending_jobs=self.limit)

    async def submit(self, plan: JobPlan) -> None:
        if self.quota is not None and len(self.plans) >= self.quota:
            self.refused += 1
            raise Forbidden("exceeded quota: few")
        if self.refusals:
            raise self.refusals.pop(0)
        self.plans[plan.name] = plan
        self.submitted.append(plan)
        self._report(JobStatus(name=plan.name, phase=JobPhase.PENDING, time_ms=now_ms()))

    def begin(self, name: str) -> None:
        self._report(JobStatus(name=name, phase=JobPhase.RUNNING, current=0, time_ms=now_ms()))

    def waits(self, name: str, why: str) -> None:
        status = JobStatus(name=name, phase=JobPhase.PENDING, reason="Unschedulable", message=why, time_ms=now_ms())
        self._report(status)

    async def forget(self, name: str) -> None:
        if self.lost_rights:
            self.lost_rights -= 1
            raise Unavailable("the API server does not answer")
        await super().forget(name)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[DispatcherBench]:
    parts = DispatcherBench(tmp_path)
    await parts.open()
    yield parts
    await parts.close()


def runner_of(bench: DispatcherBench, pending: int) -> ClusterRunner:
    made = ClusterRunner(pending)
    bench.runner = made
    return made


async def test_the_rest_waits_in_the_queue_and_follows_as_jobs_begin(bench: DispatcherBench) -> None:
    runner = runner_of(bench, 3)
    await bench.deploy("thumbs")
    async with bench.life() as dispatcher:
        await bench.event(*(make_event(f"in/{number}.png") for number in range(20)))
        await bench.until_submitted(3)
        await bench.until_phase(Phase.PLANNED, 7)  # and four ahead
        assert len(runner.submitted) == 3
        [status] = await dispatcher.function_statuses()
        assert (status.pending, status.waiting_for) == (
            3,
            "3 Jobs wait for a place in the cluster, as many as are let in at once",
        )
        runner.begin(runner.submitted[0].name)
        await bench.until_submitted(4)
        assert len(runner.submitted) == 4


async def test_a_function_with_work_has_a_job_whatever_others_have(bench: DispatcherBench) -> None:
    runner = runner_of(bench, 2)
    first = await bench.deploy("thumbs")
    second = await bench.deploy("other")
    async with bench.life():
        for number in range(5):
            await bench.submit(first, b"%d" % number)
        await bench.until_submitted(2)
        await bench.submit(second, b"x")
        await bench.submit(second, b"y")
        await bench.until_submitted(3)
        assert [plan.function for plan in runner.submitted] == ["thumbs", "thumbs", "other"]


async def test_a_quota_is_tried_with_one_job_at_a_time_and_at_once_when_one_ends(bench: DispatcherBench) -> None:
    runner = runner_of(bench, 50)
    runner.quota = 2
    await bench.deploy()
    async with bench.life() as dispatcher:
        await bench.event(*(make_event(f"in/{number}.png") for number in range(12)))
        await bench.until_submitted(2)

        async def parked() -> bool:
            return (await dispatcher.function_statuses())[0].waiting_for == "exceeded quota: few"

        await bench.until(parked)
        refused = runner.refused
        for done in range(2, 8):
            runner.finish(runner.submitted[done - 2].name, succeed)
            await bench.until_submitted(done + 1)
        # Each end let one in, and at most one more was tried.
        assert runner.refused - refused <= 8
        runner.quota = None
        runner.finish(runner.submitted[6].name, succeed)
        await bench.until_submitted(12)


async def test_what_a_job_waits_for_is_in_the_history_and_in_the_functions_words(
    bench: DispatcherBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "NAMED_AFTER_MS", 0)
    runner = runner_of(bench, 5)
    await bench.deploy()
    async with bench.life() as dispatcher:
        await bench.event(make_event())
        await bench.until_submitted(1)
        why = "no node can take it: 0/3 nodes are available: 3 Insufficient cpu."
        runner.waits(runner.submitted[0].name, why)
        [record] = await bench.until_phase(Phase.SUBMITTED)
        assert record.reason == why
        assert [mark.note for mark in record.timeline if mark.phase is Phase.SUBMITTED] == [why]
        assert (await dispatcher.function_statuses())[0].waiting_for == why
        runner.begin(runner.submitted[0].name)
        runner.finish(runner.submitted[0].name)
        [record] = await bench.until_phase(Phase.SUCCEEDED)
        assert record.reason == ""
        assert (await dispatcher.function_statuses())[0].waiting_for == ""


async def test_a_job_is_forgotten_as_soon_as_the_api_server_answers_again(
    bench: DispatcherBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.patience._FIRST_S", 0.001)
    runner = runner_of(bench, 5)
    runner.lost_rights = 2
    await bench.deploy()
    async with bench.life():
        await bench.event(make_event())
        await bench.until_submitted(1)
        runner.finish(runner.submitted[0].name)

        async def forgotten() -> bool:
            return bool(runner.forgotten)

        await bench.until(forgotten)


async def test_a_job_that_nobody_waits_for_is_removed(bench: DispatcherBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatcher.service.RECONCILE_S", 0.01)
    runner = runner_of(bench, 5)
    function = await bench.deploy()
    async with bench.life():
        stray = plan_of(function, 7)
        await runner.submit(stray)

        async def gone() -> bool:
            return runner.forgotten == ["job-7"]

        await bench.until(gone)


async def test_one_that_may_not_act_any_more_stops(bench: DispatcherBench) -> None:
    runner = runner_of(bench, 5)
    runner.refusals = [Fenced("this process is not the active dispatcher any more")]
    await bench.deploy()
    dispatcher = Dispatcher(
        log=bench.log, ledger=bench.ledger, registry=bench.registry, runner=runner, store=bench.store
    )
    await bench.event(make_event())
    with pytest.raises(Fenced):
        async with asyncio.timeout(10):
            await dispatcher.run()


async def test_the_epoch_is_above_every_record_and_not_below_what_is_asked_for(bench: DispatcherBench) -> None:
    await bench.deploy()
    async with bench.life():
        await bench.event(make_event())
        [record] = await bench.until_phase(Phase.SUCCEEDED)
    async with bench.life() as dispatcher:
        assert dispatcher._epoch > record.epoch
        await bench.command(CommandKind.REPLAY, await bench.registry.get("thumbs"), force=True)
        await bench.until_submitted(2)


async def test_quiesce_finishes_what_was_begun_and_begins_nothing(bench: DispatcherBench) -> None:
    runner = runner_of(bench, 5)
    await bench.deploy()
    async with bench.life() as dispatcher:
        await bench.event(make_event())
        await bench.until_submitted(1)
        assert await dispatcher.quiesce(5)
        await bench.event(make_event("in/b.png"))
        await bench.until_phase(Phase.QUEUED)
        assert len(runner.submitted) == 1
