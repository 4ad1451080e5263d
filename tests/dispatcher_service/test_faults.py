"""What the dispatcher stands on is away, at its start and under way: it waits, says for what, and loses nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from penstock.model import Phase
from tests.dispatcher_service.support import Program, Stage, staged
from tests.testbed.bed import Bed
from tests.testbed.links import Cut

pytestmark = [pytest.mark.components, pytest.mark.slow]


@pytest.fixture
async def stage(stage_bed: Bed, tmp_path: Path) -> AsyncIterator[Stage]:
    """The folder's bed serves: every fault here is mended by the test that made it, or the rest would fail too."""
    async with staged(stage_bed, tmp_path) as made:
        yield made
        for component in (stage_bed.kafka, stage_bed.kubernetes, stage_bed.minio):
            await component.mend()


async def not_ready(stage: Stage, program: Program, *words: str) -> None:
    async def so() -> bool:
        if not program.said("start"):
            return False
        status, text = await program.probe("/ready")
        return status == 503 and any(word in text for word in words)

    await stage.until(so)
    assert (await program.probe("/health"))[0] == 200
    assert program.process.returncode is None


async def test_what_is_away_at_the_start_is_waited_for_with_a_reason(stage: Stage) -> None:
    bed = stage.bed
    function = await stage.deploy()
    await stage.send(stage.events(function, range(5)))
    await bed.kafka.cut(Cut.REFUSE)
    program = await stage.start()
    await not_ready(stage, program, "broker")
    await bed.kubernetes.cut(Cut.REFUSE)
    await bed.kafka.mend()
    await not_ready(stage, program, "the API server does not answer")
    await bed.minio.cut(Cut.REFUSE)
    await bed.kubernetes.mend()
    await not_ready(stage, program, "object store", "taking over")
    await bed.minio.mend()
    await stage.active(program)
    await stage.until_phase(Phase.SUCCEEDED, 5)
    await stage.until_no_jobs()
    await stage.check_one_job_each()


async def test_an_api_server_that_is_cut_off_and_mended_costs_time_and_nothing_else(stage: Stage) -> None:
    function = await stage.deploy()
    program = await stage.start()
    await stage.active(program)
    await stage.send(stage.events(function, range(40)))
    await stage.until_phase(Phase.SUCCEEDED, 3)
    await stage.bed.kubernetes.cut(Cut.DROP)

    async def stepped_back() -> bool:
        return bool(program.said("lease_lost"))

    await stage.until(stepped_back)
    await stage.send(stage.events(function, range(40, 50)))
    await stage.bed.kubernetes.mend()
    await stage.until_phase(Phase.SUCCEEDED, 50)
    await stage.until_no_jobs()
    await stage.check_one_job_each()
    assert program.process.returncode is None


async def test_a_broker_that_is_killed_and_comes_back_costs_time_and_nothing_else(stage: Stage) -> None:
    function = await stage.deploy()
    program = await stage.start()
    await stage.active(program)
    await stage.send(stage.events(function, range(30)))
    await stage.until_phase(Phase.SUCCEEDED, 2)
    await stage.bed.kafka.kill()
    await stage.bed.kafka.start()
    await stage.until_phase(Phase.SUCCEEDED, 30)
    await stage.send(stage.events(function, range(30, 40)))
    await stage.until_phase(Phase.SUCCEEDED, 40)
    await stage.until_no_jobs()
    await stage.check_one_job_each()
    assert program.process.returncode is None
