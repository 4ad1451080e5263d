"""The skeleton of the service programs: what ends one, and with which code and words."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from importlib import metadata
from typing import Any

import pytest
import structlog

import penstock
from penstock.errors import InvalidInput, PenstockError, Unavailable
from penstock.program import FAILED, OK, UNUSABLE, Program, Work, cut_short, until_signal
from penstock.settings import Settings

#: `run` configures them.
pytestmark = pytest.mark.usefixtures("restored_logging")

PROGRAM = Program(module="thing", description="Does it.", examples=("python -m thing",), pages="Read on.")


def outcome(words: list[str], prepare: Callable[[Settings], Work]) -> int:
    return PROGRAM.run(PROGRAM.parser().parse_args(words), prepare)


def raising(error: BaseException) -> Work:
    async def serve() -> None:
        raise error

    return Work(serve=serve)


async def nothing() -> None:
    pass


def test_the_installed_package_has_the_version_that_programs_tell() -> None:
    assert metadata.version("penstock") == penstock.__version__
    assert penstock.version_text().startswith(f"penstock {penstock.__version__}, Python 3.")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInput("is wrong", where="a.field"), UNUSABLE),
        (Unavailable("it is away"), FAILED),
        (PenstockError("it broke"), FAILED),
    ],
)
@pytest.mark.parametrize("when", ["prepare", "serve"])
def test_what_ends_it_is_a_sentence_and_a_code(
    error: PenstockError, code: int, when: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def prepare(_: Settings) -> Work:
        if when == "prepare":
            raise error
        return raising(error)

    assert outcome([], prepare) == code
    assert capsys.readouterr() == ("", f"error: {error.message}\n")


def test_a_mistake_of_ours_is_not_dressed_up(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        outcome([], lambda _: raising(ZeroDivisionError()))


def test_ctrl_c_before_the_service_listens_for_it_is_an_end_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome([], lambda _: raising(KeyboardInterrupt())) == OK
    assert capsys.readouterr() == ("", "")


def test_a_check_prepares_and_does_not_serve(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[Settings] = []

    def prepare(settings: Settings) -> Work:
        asked.append(settings)
        return Work(serve=lambda: pytest.fail("it served"), found="two things")

    assert outcome(["--check"], prepare) == OK
    assert capsys.readouterr() == ("the settings can be used: two things\n", "")
    assert len(asked) == 1


def test_it_serves_and_ends_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome([], lambda _: Work(serve=nothing)) == OK
    out, said = capsys.readouterr()
    assert (out, len(said.splitlines())) == ("", 1)
    assert "stopped" in said


def me(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_asks_the_work_to_stop_and_it_finishes(number: signal.Signals) -> None:
    stop = asyncio.Event()
    told: list[str] = []

    async def work() -> None:
        me(number)
        await stop.wait()
        told.append("finished")

    await until_signal(work(), stop.set)
    assert told == ["finished"]


async def test_without_a_way_to_stop_the_work_is_cancelled() -> None:
    told: list[str] = []

    async def work() -> None:
        me(signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        finally:
            told.append("cancelled")

    await until_signal(work())
    assert told == ["cancelled"]


async def test_a_second_signal_cuts_it_short() -> None:
    stop = asyncio.Event()
    told: list[str] = []

    async def work() -> None:
        me(signal.SIGTERM)
        await stop.wait()
        me(signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            told.append("cancelled")

    with structlog.testing.capture_logs() as logs:
        await until_signal(work(), stop.set)
    assert told == ["cancelled"]
    assert [entry["action"] for entry in logs] == ["forced"]


async def test_what_the_work_raises_comes_out_also_after_a_signal() -> None:
    stop = asyncio.Event()

    async def work() -> None:
        me(signal.SIGTERM)
        await stop.wait()
        raise Unavailable("the last write failed")

    with pytest.raises(Unavailable, match="the last write failed"):
        await until_signal(work(), stop.set)


async def test_a_cancellation_from_elsewhere_is_not_taken_for_a_signal() -> None:
    async def cancelled(work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(until_signal(work, lambda: None))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        await cancelled(asyncio.Event().wait())  # type: ignore[arg-type] # what it gives does not matter


async def test_opening_is_cut_short_by_a_stop() -> None:
    stop = asyncio.Event()
    told: list[str] = []
    asyncio.get_running_loop().call_soon(stop.set)
    async with cut_short(stop):
        try:
            await asyncio.Event().wait()
        finally:
            told.append("cleaned up")
        told.append("went on")
    assert told == ["cleaned up"]
    async with cut_short(stop):
        await asyncio.Event().wait()


async def test_what_opens_before_the_stop_stays_open() -> None:
    stop = asyncio.Event()
    async with cut_short(stop):
        await asyncio.sleep(0)
        stop.set()
    await asyncio.sleep(0)  # nothing comes late


@pytest.mark.parametrize("error", [Unavailable("away"), TimeoutError(), asyncio.CancelledError()])
async def test_what_opening_raises_comes_out(error: BaseException) -> None:
    with pytest.raises(type(error)):
        async with cut_short(asyncio.Event()):
            raise error
