"""Every wait of a benchmark ends: with what was waited for, or with a sentence."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterator

import pytest

from benchmarks import harness
from benchmarks.deadlines import Stalled, reached, within
from benchmarks.harness import Report


def counting(values: Iterator[float]) -> Callable[[], Awaitable[float]]:
    async def count() -> float:
        return next(values)

    return count


async def test_a_count_is_waited_for_as_long_as_it_grows() -> None:
    values = iter([0, 1, 1, 2, 5.0])
    await reached("Jobs", counting(values), 4, pause_s=0.001, quiet_s=10)
    assert not list(values)


async def test_a_count_that_falls_back_and_comes_again_is_waited_for() -> None:
    """A process that begins a new life counts from nothing."""
    await reached("Jobs", counting(iter([3, 0, 2, 3, 4])), 4, pause_s=0.001, quiet_s=10)


async def test_a_count_that_stands_still_ends_with_how_far_it_came_and_why() -> None:
    async def three() -> float:
        return 3

    with pytest.raises(Stalled, match=r"^Jobs: 3 of 4, and no more for 0\.02 s; it was active twice$"):
        await reached("Jobs", three, 4, pause_s=0.001, quiet_s=0.02, why=lambda: "it was active twice")
    with pytest.raises(Stalled, match=r"^Jobs: 3 of 4, and no more for 0\.02 s$"):
        await reached("Jobs", three, 4, pause_s=0.001, quiet_s=0.02)


async def test_what_takes_too_long_is_named() -> None:
    with pytest.raises(Stalled, match=r"^after 0\.01 s still not so: the bed was up$"):
        async with within(0.01, "the bed was up"):
            await asyncio.Event().wait()
    async with within(10, "it is quick"):
        pass


async def test_a_time_out_of_something_inside_keeps_its_own_words() -> None:
    with pytest.raises(TimeoutError, match="the store does not answer"):
        async with within(10, "all was stored"):
            raise TimeoutError("the store does not answer")


def test_a_benchmark_that_is_given_up_says_so_and_tells_no_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stalls(report: Report) -> None:
        report.add("jobs_per_s", 1.0)
        raise Stalled("Jobs: 3 of 4, and no more for 180 s")

    monkeypatch.setattr(sys, "argv", ["dispatch"])
    with pytest.raises(SystemExit) as end:
        harness.main("dispatch", stalls)
    assert end.value.code == "the benchmark dispatch was given up: Jobs: 3 of 4, and no more for 180 s"
    assert '{"benchmark"' not in capsys.readouterr().out


def test_a_benchmark_that_ends_tells_its_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["dispatch", "--small"])
    with pytest.raises(SystemExit) as end:
        harness.main("dispatch", lambda report: report.add("jobs_per_s", 4.0, "/s"))
    assert end.value.code == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["figures"] == {"jobs_per_s": 4.0}
