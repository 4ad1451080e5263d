"""The table of phases and steps, and what results make of records."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.lifecycle import TABLE, ImpossibleStep, Step, advance, is_stale, queued, settle
from dispatcher.retry import backoff_ms, blame
from dispatcher.settings import DispatcherSettings
from penstock.codec import decode_record, encode
from penstock.model import ErrorClass, ItemResult, Phase, Record
from tests.factories import NOW, make_event, make_function

SETTINGS = DispatcherSettings()

#: Every pair that must never happen, said explicitly: a new phase or step has to be thought about here.
IMPOSSIBLE = (
    {(Phase.QUEUED, step) for step in Step if step not in {Step.PLAN, Step.CANCEL}}
    | {(Phase.PLANNED, step) for step in (Step.PLAN, Step.REPLAY)}
    | {(Phase.SUBMITTED, step) for step in (Step.PLAN, Step.SUBMIT, Step.REPLAY)}
    | {(Phase.RUNNING, step) for step in (Step.PLAN, Step.SUBMIT, Step.START, Step.REPLAY)}
    | {(phase, step) for phase in Phase if phase.final for step in Step if step is not Step.REPLAY}
)


def _record(phase: Phase = Phase.QUEUED, **changes: object) -> Record:
    record = queued("inv", make_function(), make_event(), now=NOW, epoch=1)
    return msgspec.structs.replace(record, phase=phase, **changes)


def _planned(attempt: int = 1, **changes: object) -> Record:
    return _record(Phase.PLANNED, job="job-1", attempt=attempt, **changes)


def _settle(record: Record, error: ErrorClass | None, *, retries: int = 0, code: int | None = None) -> Record:
    result = ItemResult(
        invocation=record.id, attempt=record.attempt, error=error, exit_code=code, message="why", started_ms=NOW + 1,
        finished_ms=NOW + 5,
    )  # fmt: skip
    return settle(record, result, retries=retries, settings=SETTINGS, now=NOW + 9, epoch=2)


def test_every_pair_of_phase_and_step_is_decided() -> None:
    every = set(itertools.product(Phase, Step))
    assert set(TABLE) | IMPOSSIBLE == every
    assert not set(TABLE) & IMPOSSIBLE


@pytest.mark.parametrize(("phase", "step"), sorted(IMPOSSIBLE))
def test_an_impossible_step_raises_with_the_story(phase: Phase, step: Step) -> None:
    with pytest.raises(ImpossibleStep, match=r"inv.*story"):
        advance(_record(phase), step, now=NOW, epoch=1)


@pytest.mark.parametrize(("pair", "target"), sorted(TABLE.items()))
def test_a_step_leads_to_a_higher_order_so_that_readers_take_it(pair: tuple[Phase, Step], target: Phase) -> None:
    before = _record(pair[0], job="j")
    after = advance(before, pair[1], now=NOW + 1, epoch=before.epoch)
    assert after.phase is target
    assert after.order > before.order
    assert after.timeline[-1].phase is target


def test_success_keeps_the_whole_timeline() -> None:
    done = _settle(_planned(), None, code=0)
    assert done.phase is Phase.SUCCEEDED
    assert [mark.phase for mark in done.timeline] == [Phase.QUEUED, Phase.RUNNING, Phase.SUCCEEDED]
    assert (done.started_ms, done.finished_ms, done.exit_code) == (NOW + 1, NOW + 5, 0)


def test_a_failing_script_fails_with_its_code_and_is_not_retried_by_default() -> None:
    failed = _settle(_planned(), ErrorClass.SCRIPT, code=3)
    assert (failed.phase, failed.exit_code, failed.attempt) == (Phase.FAILED, 3, 1)


def test_retries_of_the_script_are_bounded_by_the_function() -> None:
    again = _settle(_planned(), ErrorClass.SCRIPT, retries=1)
    assert (again.phase, again.attempt, again.script_failures, again.job) == (Phase.QUEUED, 2, 1, "")
    assert again.not_before_ms > NOW
    final = _settle(msgspec.structs.replace(again, phase=Phase.PLANNED, job="job-2"), ErrorClass.SCRIPT, retries=1)
    assert final.phase is Phase.FAILED


def test_platform_errors_do_not_use_up_the_scripts_retries_and_end_dead() -> None:
    record = _planned()
    for failures in range(1, SETTINGS.platform_retries + 1):
        record = _settle(record, ErrorClass.STAGE_IN)
        assert (record.phase, record.platform_failures, record.script_failures) == (Phase.QUEUED, failures, 0)
        record = msgspec.structs.replace(record, phase=Phase.PLANNED, job="again")
    assert _settle(record, ErrorClass.STAGE_IN).phase is Phase.DEAD


@pytest.mark.parametrize(
    ("error", "phase"),
    [
        (ErrorClass.SUPERSEDED, Phase.SUPERSEDED),
        (ErrorClass.GONE, Phase.SKIPPED),
        (ErrorClass.HOP_LIMIT, Phase.SKIPPED),
        (ErrorClass.CANCELLED, Phase.CANCELLED),
        (ErrorClass.INVALID, Phase.FAILED),
        (ErrorClass.DEADLINE, Phase.FAILED),
        (ErrorClass.OUT_OF_MEMORY, Phase.FAILED),
        (ErrorClass.KILLED, Phase.FAILED),
    ],
)
def test_each_error_ends_in_its_phase(error: ErrorClass, phase: Phase) -> None:
    assert _settle(_planned(), error).phase is phase


@pytest.mark.parametrize("error", list(ErrorClass))
@pytest.mark.parametrize("start", [Phase.PLANNED, Phase.SUBMITTED, Phase.RUNNING])
def test_every_error_is_settled_from_every_phase_of_a_job(error: ErrorClass, start: Phase) -> None:
    record = _settle(_record(start, job="j"), error, retries=2)
    assert record.phase.final or (record.phase is Phase.QUEUED and record.attempt == 2)
    blame(error)


def test_replay_is_a_further_attempt_of_the_same_invocation() -> None:
    failed = _settle(_planned(), ErrorClass.SCRIPT, code=3)
    again = advance(failed, Step.REPLAY, now=NOW + 20, epoch=3)
    assert (again.id, again.attempt, again.phase) == (failed.id, 2, Phase.QUEUED)


def test_stale_reports_are_told_apart() -> None:
    record = _planned(attempt=2)
    assert not is_stale(record, "job-1", 2)
    assert is_stale(record, "job-1", 1)
    assert is_stale(record, "other", 2)
    assert is_stale(_record(Phase.SUCCEEDED, job="job-1"), "job-1", 1)
    assert is_stale(_record(Phase.QUEUED, job="job-1"), "job-1", 1)


@given(st.integers(1, 60), st.text(min_size=1))
def test_backoff_doubles_within_its_bounds_and_is_the_same_every_time(failures: int, invocation: str) -> None:
    nominal = min(SETTINGS.retry_limit_s, SETTINGS.retry_base_s * 2 ** (failures - 1)) * 1000
    delay = backoff_ms(invocation, failures, SETTINGS)
    assert nominal / 2 - 1 <= delay <= nominal
    assert delay == backoff_ms(invocation, failures, SETTINGS)


def test_backoff_spreads_items_that_failed_together() -> None:
    delays = {backoff_ms(f"inv-{number}", 5, SETTINGS) for number in range(200)}
    assert len(delays) > 150


def test_records_survive_the_codec() -> None:
    record = _settle(_planned(), ErrorClass.SCRIPT, code=3)
    assert decode_record(encode(record)) == record
