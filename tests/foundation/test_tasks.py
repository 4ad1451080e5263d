"""A loop that dies takes the service with it, and stopping leaves nothing behind."""

from __future__ import annotations

import asyncio

import pytest

from penstock.tasks import Supervisor, every


async def _forever() -> None:
    await asyncio.Event().wait()


async def test_the_end_of_one_task_ends_all_with_its_error() -> None:
    supervisor = Supervisor()

    async def breaks() -> None:
        raise ValueError("broken")

    other = supervisor.start("other", _forever())
    supervisor.start("breaks", breaks())
    with pytest.raises(ValueError, match="broken"):
        await supervisor.run()
    assert other.cancelled()


async def test_a_task_that_just_returns_is_unexpected_too() -> None:
    supervisor = Supervisor()

    async def returns() -> None:
        return

    supervisor.start("returns", returns())
    with pytest.raises(RuntimeError, match="returns ended"):
        await supervisor.run()


async def test_stop_ends_in_reverse_order_of_start() -> None:
    supervisor, ended = Supervisor(), []

    async def note(name: str) -> None:
        try:
            await _forever()
        finally:
            ended.append(name)

    for name in ("first", "second", "third"):
        supervisor.start(name, note(name))
    await asyncio.sleep(0)
    supervisor.stop()
    await supervisor.run()
    assert ended == ["third", "second", "first"]


async def test_a_task_that_does_not_stop_is_named_and_does_not_hold_up_the_others() -> None:
    supervisor = Supervisor(patience_s=0.01)
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    task = supervisor.start("stubborn", stubborn())
    other = supervisor.start("other", _forever())
    await asyncio.sleep(0)
    await supervisor.close()
    assert other.cancelled()
    assert not task.done()
    release.set()
    await task


async def test_every_turns_at_once_and_again_when_woken() -> None:
    turns, wake = [], asyncio.Event()
    reached = asyncio.Event()

    async def turn() -> None:
        turns.append(1)
        if len(turns) == 3:
            reached.set()
        else:
            wake.set()

    loop = asyncio.create_task(every(3600, turn, wake=wake), name="every")
    async with asyncio.timeout(5):
        await reached.wait()
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


async def test_every_goes_on_by_time_alone() -> None:
    turns = 0
    reached = asyncio.Event()

    async def turn() -> None:
        nonlocal turns
        turns += 1
        if turns == 3:
            reached.set()

    loop = asyncio.create_task(every(0.001, turn), name="every")
    async with asyncio.timeout(5):
        await reached.wait()
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
