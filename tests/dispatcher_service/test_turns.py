"""Several processes take turns: one acts, however the one before it ended, and nothing runs twice."""

from __future__ import annotations

import shutil
import signal
from functools import partial

import pytest

from penstock.model import Phase
from tests.dispatcher_service.support import Program, Stage

pytestmark = [pytest.mark.components, pytest.mark.slow]


async def acts(program: Program) -> bool:
    return "penstock_dispatcher_active 1.0" in (await program.probe("/metrics"))[1]


async def test_events_become_jobs_and_records_and_nothing_is_left(stage: Stage) -> None:
    function = await stage.deploy()
    program = await stage.start()
    await stage.active(program)
    await stage.send(stage.events(function, range(30)))
    await stage.until_phase(Phase.SUCCEEDED, 30)
    await stage.until_no_jobs()
    await stage.check_one_job_each()
    await stage.until(program.ready)
    assert "penstock_dispatcher_active 1.0" in (await program.probe("/metrics"))[1]
    assert await program.end() == 0
    assert program.said("stopped")


async def test_a_standby_is_ready_and_takes_over_when_the_active_one_is_killed(stage: Stage) -> None:
    function = await stage.deploy()
    first = await stage.start()
    await stage.active(first)
    second = await stage.start()

    await stage.until(second.ready)
    assert not second.times_active
    await stage.send(stage.events(function, range(300)))
    await stage.until_phase(Phase.PLANNED, 1)
    await first.kill()
    await stage.active(second)  # how long it takes is measured by `python -m benchmarks dispatch`
    await stage.until_phase(Phase.SUCCEEDED, 300, seconds=240)
    await stage.until_no_jobs()
    await stage.check_one_job_each()


async def test_one_that_was_paused_and_wakes_up_changes_nothing(stage: Stage) -> None:
    function = await stage.deploy()
    first = await stage.start()
    await stage.active(first)
    second = await stage.start()
    await stage.send(stage.events(function, range(100)))
    await stage.until_phase(Phase.PLANNED, 1)
    first.send(signal.SIGSTOP)
    await stage.active(second)
    await stage.until_phase(Phase.SUCCEEDED, 100, seconds=240)
    first.send(signal.SIGCONT)

    async def stepped_back() -> bool:
        return bool(first.said("lease_lost") or first.said("fenced"))

    await stage.until(stepped_back)
    await stage.send(stage.events(function, range(100, 120)))
    await stage.until_phase(Phase.SUCCEEDED, 120)
    await stage.until_no_jobs()
    await stage.check_one_job_each()
    records = await stage.records()
    assert {record.phase for record in records} == {Phase.SUCCEEDED}
    again = [record.timeline for record in records if record.attempt > 1]
    assert not again, again[:3]
    # It stands by again, in the same process.
    await second.kill()
    await stage.until(partial(acts, first))


async def test_an_orderly_stop_hands_over_at_once(stage: Stage) -> None:
    function = await stage.deploy()
    first = await stage.start()
    await stage.active(first)
    second = await stage.start()
    await stage.send(stage.events(function, range(40)))
    await stage.until_phase(Phase.PLANNED, 1)
    assert await first.end() == 0
    await stage.active(second)
    await stage.until_phase(Phase.SUCCEEDED, 40)
    await stage.until_no_jobs()
    await stage.check_one_job_each()


async def test_a_deleted_ledger_is_rebuilt_and_a_restart_runs_nothing_again(stage: Stage) -> None:
    function = await stage.deploy()
    program = await stage.start("state")
    await stage.active(program)
    await stage.send(stage.events(function, range(50)))
    await stage.until_phase(Phase.SUCCEEDED, 50)
    await program.kill()
    shutil.rmtree(stage.folder / "state")
    await stage.send(stage.events(function, range(55)))
    program = await stage.start("state")
    await stage.until_phase(Phase.SUCCEEDED, 55)
    await stage.until_no_jobs()
    await stage.check_one_job_each()
    assert await stage.count(*Phase) == 55
