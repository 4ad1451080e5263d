"""Few submissions are under way at once, however much room there is; the rest follows in fair order, in few rounds."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher import scheduler
from dispatcher.ahead import ROUND
from dispatcher.settings import DispatcherSettings
from dispatcher.submissions import MOST, Submissions
from penstock.codec import decode_record, encode
from penstock.errors import Forbidden, PenstockError, Unavailable
from penstock.model import TOPIC_EVENTS, TOPIC_RECORDS, Function, JobPlan, JobStatus, Limits, Phase, Submission
from penstock.ports import LogEntry, Room
from tests.dispatcher.bench import QUICK, DispatcherBench
from tests.dispatcher.scripted_runner import ScriptedRunner
from tests.factories import NOW

FUNCTIONS = 30


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=80), st.integers(1, 5))
def test_submissions_are_counted_by_function_and_together(steps: list[tuple[str, bool]], most: int) -> None:
    submissions = Submissions(most)
    under_way: list[str] = []
    for uid, ends in steps:
        if ends and under_way:
            submissions.end(under_way.pop())
        else:
            submissions.begin(uid)
            under_way.append(uid)
        assert len(submissions) == len(under_way)
        assert {one: submissions.of(one) for one in "abc"} == {one: under_way.count(one) for one in "abc"}
        assert submissions.full is (len(under_way) >= most)


class SlowRunner(ScriptedRunner):
    """A cluster with room for everything and an API server that answers one submission when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[JobPlan, asyncio.Future[None]]] = []
        #: From now on each is answered at once.
        self.quick = False
        self.most_under_way = 0
        self.quota: dict[str, int] = {}
        #: How often somebody compared what should be with what is.
        self.looked = 0

    async def room(self) -> Room:
        return Room(pending_jobs=60_000)

    async def jobs(self) -> list[JobStatus]:
        self.looked += 1
        return await super().jobs()

    async def submit(self, plan: JobPlan) -> None:
        if sum(one.function == plan.function for one in self.submitted) >= self.quota.get(plan.function, 60_000):
            raise Forbidden("exceeded quota: few")
        if not self.quick:
            answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.waiting.append((plan, answer))
            self.most_under_way = max(self.most_under_way, len(self.waiting))
            await answer
        await super().submit(plan)

    def answer(self, count: int = 1, error: PenstockError | None = None) -> list[str]:
        """Answer those that wait longest; returns their functions."""
        answered, self.waiting = self.waiting[:count], self.waiting[count:]
        for _, future in answered:
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
        return [plan.function for plan, _ in answered]

    def answer_all(self) -> None:
        self.quick = True
        self.answer(len(self.waiting))


class Bench(DispatcherBench):
    """Counts the records that each append brings into the log."""

    runner: SlowRunner

    def __init__(self, folder: Path, settings: DispatcherSettings = QUICK) -> None:
        super().__init__(folder, settings)
        self.runner = SlowRunner()
        self.planned: list[int] = []

    async def open(self) -> None:
        await super().open()
        append = self.log.append

        async def counted(topic: str, entries: Any) -> Any:
            phases = [decode_record(entry.value).phase for entry in entries if topic == TOPIC_RECORDS]
            planned = phases.count(Phase.PLANNED)
            self.planned += [planned] if planned else []
            return await append(topic, entries)

        self.log.append = counted  # type: ignore[method-assign]

    async def pile_up(self, function: Function, count: int) -> None:
        def one(number: int) -> LogEntry:
            submission = Submission(
                function=function.name,
                function_uid=function.uid,
                id=f"{function.name}-{number}",
                time_ms=NOW,
                body=b"x",
            )
            return LogEntry(function.name, encode(submission))

        await self.log.append(TOPIC_EVENTS, [one(number) for number in range(count)])

    async def until_waiting(self, count: int) -> None:
        async def so() -> bool:
            return len(self.runner.waiting) >= count

        await self.until(so)

    async def at_rest(self) -> None:
        """Nothing more is planned or submitted by itself."""
        before = (-1, -1)
        while (now := (sum(self.planned), len(self.runner.waiting))) != before:
            before = now
            await asyncio.sleep(0.1)  # what would come, comes within a few turns of the loop


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    parts = Bench(tmp_path)
    await parts.open()
    yield parts
    await parts.close()


async def test_no_more_than_so_many_are_under_way_and_the_next_ones_follow(bench: Bench) -> None:
    function = await bench.deploy()
    async with bench.life():
        await bench.pile_up(function, 1200)
        await bench.until_waiting(MOST)
        await bench.at_rest()
        assert len(bench.runner.waiting) == MOST
        # What is planned is bounded too: most of the backlog is still in the queue, where it may be cancelled or wait.
        assert sum(bench.planned) <= MOST + ROUND + QUICK.ahead_total
        for step in range(1, 6):
            bench.runner.answer(10)
            await bench.until_submitted(10 * step)
            await bench.until_waiting(MOST)
        assert bench.runner.most_under_way == MOST
        bench.runner.answer_all()
        await bench.until_phase(Phase.SUCCEEDED, 1200)
    assert bench.runner.most_under_way == MOST
    assert len({plan.name for plan in bench.runner.submitted}) == len(bench.runner.submitted) == 1200


async def test_plans_are_written_in_few_rounds_however_slowly_jobs_are_taken(bench: Bench) -> None:
    function = await bench.deploy()
    async with bench.life():
        await bench.pile_up(function, 1000)
        await bench.until_waiting(MOST)
        await bench.at_rest()
        for done in range(1, 1001):
            await bench.until_waiting(1)
            bench.runner.answer()
            await bench.until_submitted(done)
    assert sum(bench.planned) == 1000
    # Of one Job in each round it would be a thousand of them. The intake of the backlog splits the first ones.
    assert len(bench.planned) <= 1000 // (ROUND // 4)


async def test_who_comes_late_does_not_wait_for_what_is_planned_of_others(bench: Bench) -> None:
    many, late = await bench.deploy("many"), await bench.deploy("late")
    urgent = await bench.deploy("urgent", limits=Limits(priority=50))
    async with bench.life():
        await bench.pile_up(many, 1000)
        await bench.until_waiting(MOST)
        await bench.at_rest()
        await bench.pile_up(late, 3)
        await bench.pile_up(urgent, 2)
        await bench.until_phase(Phase.QUEUED)

        async def planned() -> bool:
            found = await bench.records(Phase.PLANNED)
            return Counter(one.function for one in found if one.function != "many") == {"late": 3, "urgent": 2}

        await bench.until(planned)  # although nothing was answered and hundreds of the other are planned
        bench.runner.answer(8)
        await bench.until_waiting(MOST)
        followed = [plan.function for plan, _ in bench.runner.waiting[-8:]]
        assert followed[:2] == ["urgent", "urgent"]
        assert Counter(followed) == {"urgent": 2, "late": 3, "many": 3}  # equals take turns
        bench.runner.answer_all()
        await bench.until_phase(Phase.SUCCEEDED, 1005)


async def test_refused_ones_give_their_place_to_others_and_come_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "REFUSED_MS", 20)
    first, second = await bench.deploy("first"), await bench.deploy("second")
    async with bench.life():
        await bench.pile_up(first, 300)
        await bench.pile_up(second, 300)
        for _ in range(6):
            await bench.until_waiting(MOST)
            bench.runner.answer(MOST, Unavailable("the API server does not answer"))
        await bench.until_waiting(MOST)
        assert bench.runner.most_under_way == MOST
        bench.runner.answer_all()
        await bench.until_phase(Phase.SUCCEEDED, 600)
    assert len(bench.runner.submitted) == 600


async def test_a_job_whose_submission_takes_long_is_not_lost(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one taken for lost a second one would be made, and both would run."""
    monkeypatch.setattr("dispatcher.service.RECONCILE_S", 0.005)
    monkeypatch.setattr("dispatcher.outcomes.LOST_AFTER_MS", 0)
    function = await bench.deploy()
    async with bench.life():
        await bench.pile_up(function, 5)
        await bench.until_waiting(5)
        looked = bench.runner.looked

        async def looked_at() -> bool:
            return bench.runner.looked > looked + 3

        await bench.until(looked_at)
        assert len(await bench.records(Phase.PLANNED)) == 5
        bench.runner.answer_all()
        records = await bench.until_phase(Phase.SUCCEEDED, 5)
    assert [one.attempt for one in records] == [1] * 5
    assert len(bench.runner.submitted) == 5


async def test_a_function_whose_quota_is_used_up_takes_the_plan_from_nobody(bench: Bench) -> None:
    bench.runner.quick = True
    bench.runner.quota = {"poor": 2}
    poor, rich = await bench.deploy("poor"), await bench.deploy("rich")
    async with bench.life() as dispatcher:
        await bench.pile_up(poor, 1000)

        async def parked() -> bool:
            [status] = [one for one in await dispatcher.function_statuses() if one.name == "poor"]
            return status.waiting_for == "exceeded quota: few"

        await bench.until(parked)
        await bench.at_rest()
        await bench.pile_up(rich, 500)
        await bench.until_phase(Phase.SUCCEEDED, 502)


async def test_a_round_ends_after_its_time_and_the_next_one_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With thousands of functions forming one Job takes long; the loop has others to serve."""
    monkeypatch.setattr(scheduler, "ROUND_S", 0.0)
    bench.runner.quick = True
    function = await bench.deploy()
    async with bench.life():
        await bench.pile_up(function, 50)
        await bench.until_phase(Phase.SUCCEEDED, 50)
    assert bench.planned == [1] * 50


async def test_the_end_of_a_life_with_submissions_under_way_begins_no_others(bench: Bench) -> None:
    function = await bench.deploy()
    async with bench.life():
        await bench.pile_up(function, 300)
        await bench.until_waiting(MOST)
    names = {plan.name for plan, _ in bench.runner.waiting}
    assert len(bench.runner.waiting) == len(names) == MOST
    assert not bench.runner.submitted
    bench.runner.waiting.clear()
    bench.runner.answer_all()
    async with bench.life():
        await bench.until_phase(Phase.SUCCEEDED, 300)
    assert len(bench.runner.submitted) == 300  # each once, under the name that was planned
    assert names <= {plan.name for plan in bench.runner.submitted}


async def test_a_deleted_function_leaves_its_places_to_others(bench: Bench) -> None:
    doomed = await bench.deploy("doomed")
    others = [await bench.deploy(f"other-{number}") for number in range(FUNCTIONS)]
    async with bench.life():
        await bench.pile_up(doomed, 1000)
        await bench.until_waiting(MOST)
        await bench.at_rest()
        await bench.registry.delete(doomed.name)
        for other in others:
            await bench.pile_up(other, 10)

        # All but those that are on their way to the runner.
        await bench.until_phase(Phase.CANCELLED, 1000 - MOST)
        bench.runner.answer_all()

        async def done() -> bool:
            found = Counter(one.function == "doomed" for one in await bench.records(Phase.SUCCEEDED, Phase.CANCELLED))
            return found == {True: 1000, False: 10 * FUNCTIONS}

        await bench.until(done)
