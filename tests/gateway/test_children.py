"""Programs that were started are gone in the end, whatever they make of a polite request."""

from __future__ import annotations

import asyncio
import signal

from gateway.children import end

READY = b"ready\n"


async def started(script: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec("/bin/sh", "-c", script, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == READY
    return process


async def test_one_that_obeys_ends_by_itself() -> None:
    process = await started("trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done")
    await end(process, grace_s=20)
    assert process.returncode == 7
    await end(process, grace_s=20)


async def test_one_that_does_not_is_killed() -> None:
    process = await started("trap '' TERM; echo ready; while :; do sleep 0.01; done")
    await end(process, grace_s=0.1)
    assert process.returncode == -signal.SIGKILL


async def test_one_that_is_waited_for_no_longer_is_killed() -> None:
    process = await started("trap '' TERM; echo ready; while :; do sleep 0.01; done")
    ending = asyncio.create_task(end(process, grace_s=60))
    await asyncio.sleep(0)
    ending.cancel()
    await asyncio.gather(ending, return_exceptions=True)
    async with asyncio.timeout(20):
        assert await process.wait() == -signal.SIGKILL
