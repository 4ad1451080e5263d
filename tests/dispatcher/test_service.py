"""The dispatcher whole, on the real log, ledger, registry and store."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from dispatcher.dead import letters
from penstock.errors import Forbidden, InvalidInput, Unavailable
from penstock.model import (
    Batch,
    BatchMode,
    BucketEvent,
    CommandKind,
    ErrorClass,
    ItemResult,
    JobItem,
    Limits,
    Phase,
    StorageIO,
)
from tests.dispatcher.bench import DispatcherBench
from tests.dispatcher.scripted_runner import fail, succeed
from tests.factories import NOW, make_event


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[DispatcherBench]:
    parts = DispatcherBench(tmp_path)
    await parts.open()
    yield parts
    await parts.close()


async def test_an_event_becomes_one_success(bench: DispatcherBench) -> None:
    await bench.deploy()
    async with bench.life():
        await bench.event(make_event())
        [record] = await bench.until_phase(Phase.SUCCEEDED)
        assert [mark.phase for mark in record.timeline] == [
            Phase.QUEUED,
            Phase.PLANNED,
            Phase.RUNNING,
            Phase.SUCCEEDED,
        ]

        async def forgotten() -> bool:
            return len(bench.runner.forgotten) == 1

        await bench.until(forgotten)


async def test_a_repeated_event_runs_nothing_again_not_even_after_a_restart(bench: DispatcherBench) -> None:
    await bench.deploy()
    async with bench.life():
        await bench.event(make_event(), make_event(), make_event("in/b.png"))
        await bench.until_phase(Phase.SUCCEEDED, 2)
    async with bench.life():
        await bench.event(make_event(), make_event("in/c.png"))
        await bench.until_phase(Phase.SUCCEEDED, 3)
    assert len(bench.runner.submitted) == 3


async def test_everything_is_taken_up_again_when_the_ledger_is_deleted(bench: DispatcherBench) -> None:
    await bench.deploy()
    async with bench.life():
        await bench.event(*(make_event(f"in/{number}") for number in range(50)))
        await bench.until_phase(Phase.SUCCEEDED, 50)
    before = {record.id: record for record in await bench.records()}
    await bench.close()
    for file in bench.folder.glob("ledger.db*"):
        file.unlink()
    await bench.open()
    async with bench.life():
        await bench.event(make_event("in/new"))
        await bench.until_phase(Phase.SUCCEEDED, 51)
    after = {record.id: record for record in await bench.records()}
    assert {identity: after[identity] for identity in before} == before
    assert len(bench.runner.submitted) == 51


async def test_a_burst_keeps_the_slots_and_no_more_than_the_slots(bench: DispatcherBench) -> None:
    bench.runner.outcome = None
    await bench.deploy()
    async with bench.life():
        await bench.event(*(make_event(f"in/{number}") for number in range(40)))
        for ended in range(40):
            await bench.until_submitted(ended + 1)
            bench.runner.finish(bench.runner.submitted[ended].name)
        await bench.until_phase(Phase.SUCCEEDED, 40)
    assert bench.runner.most_at_once == 2


async def test_a_slot_is_free_as_soon_as_the_scripts_of_a_job_are_done(bench: DispatcherBench) -> None:
    bench.runner.outcome = None
    await bench.deploy()
    async with bench.life() as dispatcher:
        await bench.event(*(make_event(f"in/{number}") for number in range(5)))
        await bench.until_submitted(2)
        first = bench.runner.submitted[0].name
        bench.runner.publishing(first)
        bench.runner.publishing(first)
        await bench.until_submitted(3)
        assert len(await bench.records(Phase.SUCCEEDED)) == 0
        assert not await dispatcher.drain(0.05), "what is being published still counts"
        for plan in list(bench.runner.submitted):
            bench.runner.finish(plan.name)
        assert await dispatcher.drain(5)
        await bench.until_phase(Phase.SUCCEEDED, 3)
    assert len(bench.runner.submitted) == 3


async def test_one_event_that_cannot_be_read_is_a_dead_letter_and_the_rest_goes_on(bench: DispatcherBench) -> None:
    await bench.deploy()
    async with bench.life():
        await bench.raw(b"\xff not json")
        await bench.event(make_event())
        await bench.until_phase(Phase.SUCCEEDED)
    [letter] = (await letters(bench.log)).values()
    assert letter.original == b"\xff not json"
    assert letter.error == "undecodable"


async def test_dead_letters_can_be_retried_and_dropped(bench: DispatcherBench) -> None:
    await bench.deploy()
    async with bench.life():
        await bench.raw(b"one")
        await bench.raw(b"two")

        async def buried() -> bool:
            return len(await letters(bench.log)) == 2

        await bench.until(buried)
        first, second = await letters(bench.log)
        await bench.command(CommandKind.DROP_DEAD, invocation=first)
        await bench.command(CommandKind.RETRY_DEAD, invocation=second)

        async def again() -> bool:
            found = await letters(bench.log)
            return len(found) == 1 and second not in found

        await bench.until(again)
        [letter] = (await letters(bench.log)).values()
        assert letter.original == b"two", "it failed again and is a letter again"


@pytest.mark.parametrize(
    ("error", "phase"),
    [(ErrorClass.SCRIPT, Phase.FAILED), (ErrorClass.GONE, Phase.SKIPPED), (ErrorClass.SUPERSEDED, Phase.SUPERSEDED)],
)
async def test_failures_end_in_their_phase(bench: DispatcherBench, error: ErrorClass, phase: Phase) -> None:
    bench.runner.outcome = fail(error)
    await bench.deploy()
    async with bench.life():
        await bench.event(make_event())
        [record] = await bench.until_phase(phase)
    assert record.reason == f"ended by {error.value}"


async def test_platform_errors_are_retried_until_they_pass(bench: DispatcherBench) -> None:
    tries = Counter[str]()

    def flaky(item: JobItem) -> ItemResult:
        tries[item.invocation] += 1
        return succeed(item) if tries[item.invocation] == 3 else fail(ErrorClass.PUBLISH, None)(item)

    bench.runner.outcome = flaky
    await bench.deploy()
    async with bench.life():
        await bench.event(make_event())
        [record] = await bench.until_phase(Phase.SUCCEEDED)
    assert (record.attempt, record.platform_failures) == (3, 2)


async def test_a_lost_job_runs_again_as_a_further_attempt(bench: DispatcherBench) -> None:
    bench.runner.outcome = None
    await bench.deploy()
    async with bench.life():
        await bench.event(make_event())
        await bench.until_submitted(1)
        bench.runner.lose(bench.runner.submitted[0].name)
        await bench.until_submitted(2)
        bench.runner.finish(bench.runner.submitted[1].name)
        [record] = await bench.until_phase(Phase.SUCCEEDED)
    assert record.attempt == 2


async def test_a_runner_that_is_away_or_over_quota_only_delays(
    bench: DispatcherBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.scheduler.REFUSED_MS", 5)
    monkeypatch.setattr("dispatcher.admission.PARK_FIRST_MS", 5)
    bench.runner.refusals = [Unavailable("away"), Forbidden("the quota is used up"), Unavailable("away again")]
    await bench.deploy()
    async with bench.life():
        await bench.event(make_event())
        [record] = await bench.until_phase(Phase.SUCCEEDED)
    assert record.attempt == 1


async def test_a_job_that_is_refused_for_what_it_says_is_dead_with_the_reason(bench: DispatcherBench) -> None:
    bench.runner.refusals = [InvalidInput("memory: 1Q is not a quantity")]
    await bench.deploy()
    async with bench.life():
        await bench.event(make_event())
        [record] = await bench.until_phase(Phase.DEAD)
    assert "1Q is not a quantity" in record.reason


async def test_lists_are_formed_and_settled_per_item(bench: DispatcherBench) -> None:
    def odd_fails(item: JobItem) -> ItemResult:
        assert isinstance(item.trigger, BucketEvent)
        number = int(item.trigger.key.rsplit("/", 1)[1])
        return fail()(item) if number % 2 else succeed(item)

    bench.runner.outcome = odd_fails
    await bench.deploy(batch=Batch(mode=BatchMode.LIST, max_items=10))
    async with bench.life():
        await bench.event(*(make_event(f"in/{number}") for number in range(40)))
        await bench.until_phase(Phase.SUCCEEDED, 20)
        await bench.until_phase(Phase.FAILED, 20)
    assert max(len(plan.items) for plan in bench.runner.submitted) == 10
    assert sum(len(plan.items) for plan in bench.runner.submitted) == 40


async def test_a_list_that_is_taken_over_in_its_middle_goes_on_where_it_is(bench: DispatcherBench) -> None:
    bench.runner.outcome, bench.runner.slots = None, 1
    await bench.deploy(batch=Batch(mode=BatchMode.LIST, max_items=4, linger_s=1.0))
    async with bench.life():
        await bench.event(*(make_event(f"in/{number}") for number in range(4)))
        await bench.until_submitted(1)
        (plan,) = bench.runner.submitted
        assert len(plan.items) == 4
        bench.runner.go_on(plan.name, 3)
        await bench.until_phase(Phase.SUCCEEDED, 3)
    async with bench.life():
        (record,) = await bench.until_phase(Phase.RUNNING)
        assert record.id == plan.items[3].invocation
        bench.runner.finish(plan.name)
        await bench.until_phase(Phase.SUCCEEDED, 4)
    assert bench.runner.submitted == [plan]


async def test_a_deleted_functions_work_is_cancelled(bench: DispatcherBench) -> None:
    bench.runner.outcome = None
    await bench.deploy()
    async with bench.life():
        await bench.event(*(make_event(f"in/{number}") for number in range(600)))
        await bench.until_phase(Phase.QUEUED, 500)
        await bench.registry.delete("thumbs")
        records = await bench.until_phase(Phase.CANCELLED, 600)
    assert all("was deleted" in record.reason for record in records)


async def test_a_function_deleted_while_nobody_was_there(bench: DispatcherBench) -> None:
    bench.runner.outcome = None
    await bench.deploy(limits=Limits(concurrency=1))
    async with bench.life():
        await bench.event(*(make_event(f"in/{number}") for number in range(10)))
        await bench.until_submitted(1)
        await bench.until_phase(Phase.QUEUED, 9)
    await bench.registry.delete("thumbs")
    async with bench.life():
        await bench.until_phase(Phase.CANCELLED, 10)


async def test_a_queued_and_a_running_invocation_can_be_cancelled(bench: DispatcherBench) -> None:
    bench.runner.outcome = None
    await bench.deploy(limits=Limits(concurrency=1))
    async with bench.life():
        await bench.event(make_event("in/1"), make_event("in/2"))
        await bench.until_submitted(1)
        [waiting] = await bench.until_phase(Phase.QUEUED)
        await bench.command(CommandKind.CANCEL, invocation=waiting.id, user="ann")
        [record] = await bench.until_phase(Phase.CANCELLED)
        assert (record.id, record.reason) == (waiting.id, "cancelled by ann")
        running = bench.runner.submitted[0].items[0].invocation
        await bench.command(CommandKind.CANCEL, invocation=running)
        await bench.until_phase(Phase.CANCELLED, 2)
    assert len(bench.runner.submitted) == 1


async def test_pause_holds_and_resume_goes_on(bench: DispatcherBench) -> None:
    function = await bench.deploy(paused=True)
    async with bench.life() as dispatcher:
        await bench.event(make_event())
        await bench.until_phase(Phase.QUEUED)
        [status] = (await dispatcher.status()).functions
        assert "paused" in status.waiting_for
        await bench.registry.replace(msgspec.structs.replace(function, paused=False))
        await bench.until_phase(Phase.SUCCEEDED)


async def test_replay_runs_failed_ones_again_and_force_runs_any(bench: DispatcherBench) -> None:
    bench.runner.outcome = fail()
    function = await bench.deploy()
    async with bench.life():
        await bench.event(make_event("in/1"), make_event("in/2"))
        await bench.until_phase(Phase.FAILED, 2)
        bench.runner.outcome = succeed
        await bench.command(CommandKind.REPLAY, function, key_prefix="photos/in/1")
        [record] = await bench.until_phase(Phase.SUCCEEDED)
        assert (record.trigger.key, record.attempt) == ("in/1", 2)  # type: ignore[union-attr]
        await bench.command(CommandKind.REPLAY, function, force=True)
        records = await bench.until_phase(Phase.SUCCEEDED, 2)

        async def all_again() -> bool:
            return sorted(r.attempt for r in await bench.records(Phase.SUCCEEDED)) == [2, 3]

        await bench.until(all_again)
    assert len(records) == 2


async def test_backfill_runs_what_never_ran_and_twice_is_once(bench: DispatcherBench) -> None:
    for number in range(5):
        await bench.store.write("photos", f"in/{number}", b"x")
    await bench.store.write("photos", "out/1", b"x")
    function = await bench.deploy(start_ms=NOW * 2)
    async with bench.life():
        await bench.command(CommandKind.BACKFILL, function)
        await bench.until_phase(Phase.SUCCEEDED, 5)
        await bench.command(CommandKind.BACKFILL, function)
        await bench.event(make_event())
        await bench.command(CommandKind.CANCEL, invocation="barrier")
        await bench.until(lambda: _drained(bench))
    assert len(bench.runner.submitted) == 5


async def test_start_existing_takes_what_is_there_at_deploy(bench: DispatcherBench) -> None:
    for number in range(3):
        await bench.store.write("photos", f"in/{number}", b"x")
    async with bench.life():
        await bench.deploy(start_ms=0)
        await bench.until_phase(Phase.SUCCEEDED, 3)
    async with bench.life():
        await bench.event(make_event("in/new"))
        await bench.until_phase(Phase.SUCCEEDED, 4)
    assert len(bench.runner.submitted) == 4


async def test_submissions_run_and_each_is_its_own(bench: DispatcherBench) -> None:
    function = await bench.deploy()
    async with bench.life():
        await bench.submit(function, b"same")
        await bench.submit(function, b"same")
        await bench.until_phase(Phase.SUCCEEDED, 2)


async def test_a_small_function_is_not_delayed_by_a_large_one(bench: DispatcherBench) -> None:
    await bench.deploy("large")
    await bench.deploy("small", inputs=(_input("small"),))
    bench.runner.outcome = None
    async with bench.life():
        await bench.event(*(make_event(f"in/{number}") for number in range(2000)))
        await bench.until_phase(Phase.QUEUED, 1990)
        await bench.event(*(make_event(f"small/{number}") for number in range(10)))
        await bench.until_phase(Phase.QUEUED, 2000)
        ended = 0
        while sum(plan.function == "small" for plan in bench.runner.submitted) < 10:
            await bench.until_submitted(ended + 1)
            bench.runner.finish(bench.runner.submitted[ended].name)
            ended += 1
            assert ended < 40, "ten items of one of two functions take about twenty starts"


async def test_the_feed_tells_every_change(bench: DispatcherBench) -> None:
    await bench.deploy()
    async with bench.life() as dispatcher:
        with dispatcher.changes() as feed:
            await bench.event(make_event())
            phases = []
            async for record in feed:
                assert record is not None
                phases.append(record.phase)
                if record.phase.final:
                    break
    assert phases[0] is Phase.QUEUED
    assert phases[-1] is Phase.SUCCEEDED


async def test_drain_starts_nothing_more_and_waits_for_what_runs(bench: DispatcherBench) -> None:
    bench.runner.outcome = None
    await bench.deploy()
    async with bench.life() as dispatcher:
        await bench.event(*(make_event(f"in/{number}") for number in range(10)))
        await bench.until_submitted(2)
        assert not await dispatcher.drain(0.05), "two still run"
        for plan in list(bench.runner.submitted):
            bench.runner.finish(plan.name)
        assert await dispatcher.drain(5)
    assert len(bench.runner.submitted) == 2
    bench.runner.outcome = succeed
    async with bench.life():
        await bench.until_phase(Phase.SUCCEEDED, 10)


async def _drained(bench: DispatcherBench) -> bool:
    committed = await bench.log.committed("penstock.dispatcher", "penstock.commands")
    return committed == await bench.log.end("penstock.commands")


def _input(folder: str) -> StorageIO:
    return StorageIO(provider="local", bucket="photos", folder=folder)
