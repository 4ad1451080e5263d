"""`clean` takes what ended beds left, and nothing that a living bed uses."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from tests.testbed import Bed
from tests.testbed.building import output_of
from tests.testbed.leftovers import in_use, mounts_below, remove_old_runs
from tests.testbed.lookup import may_make_namespaces


async def test_a_living_bed_is_left_alone_and_a_dead_ones_folder_goes() -> None:
    dead = Bed()
    os.kill(dead.guardian.pid, signal.SIGKILL)
    await dead.aclose()
    dead.guardian.wait()
    async with Bed() as living:
        assert in_use(living.folder)
        assert not in_use(dead.folder)
        assert dead.folder.exists()
        assert await asyncio.to_thread(remove_old_runs) >= 1
        assert living.folder.exists()
        assert not dead.folder.exists()


async def test_a_mount_that_was_left_is_taken_down() -> None:
    if not may_make_namespaces():
        pytest.skip("to mount takes root")
    dead = Bed()
    os.kill(dead.guardian.pid, signal.SIGKILL)
    await dead.aclose()
    dead.guardian.wait()
    mount = dead.folder / "disk"
    mount.mkdir()
    await asyncio.to_thread(output_of, ["mount", "-t", "tmpfs", "x", mount])
    assert mounts_below(dead.folder) == [mount]
    await asyncio.to_thread(remove_old_runs)
    assert mounts_below(dead.folder) == []
    assert not dead.folder.exists()
