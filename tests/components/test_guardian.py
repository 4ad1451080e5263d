"""The guardian and what the bed says when a program does not do as it should."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import ClassVar

import pytest

from tests.components.helpers import until
from tests.testbed import Bed, BedError, component
from tests.testbed.component import Component, Member
from tests.testbed.probe import log_has
from tests.testbed.processes import Process


class Odd(Component):
    """A component of one shell script."""

    name: ClassVar[str] = "odd"
    script: ClassVar[str] = "echo my last words; exit 3"
    answers: ClassVar[bool] = False

    async def prepare(self) -> list[Member]:
        async def ready() -> bool:
            return self.answers

        return [Member("script", ["sh", "-c", self.script], ready, seconds=0.3)]


@pytest.fixture(autouse=True)
def nothing_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(component, "require", lambda _: None)


async def test_a_program_that_ends_while_starting_shows_its_last_words() -> None:
    async with Bed() as bed:
        with pytest.raises(BedError, match=r"(?s)script ended with 3 while starting.*my last words"):
            await Odd(bed).start()
        assert bed.failed
        folder = bed.folder
    assert (folder / "logs" / "script.log").read_text() == "my last words\n"


async def test_a_program_that_is_never_ready_shows_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Odd, "script", "echo still busy; exec sleep 100")
    async with Bed() as bed:
        with pytest.raises(BedError, match=r"(?s)script was not ready after 0 s.*still busy"):
            await Odd(bed).start()


async def test_two_who_start_a_component_at_once_start_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Odd, "script", "echo started; exec sleep 100")
    monkeypatch.setattr(Odd, "answers", True)
    async with Bed() as bed:
        odd = Odd(bed)
        await asyncio.gather(odd.start(), odd.start(), odd.start())
        log = odd.log("script")

        async def started() -> bool:
            return log_has(log, "started")

        await until("it has started", started)
        assert log.read_text() == "started\n"


async def test_a_bed_without_a_failure_leaves_no_folder() -> None:
    async with Bed() as bed:
        assert bed.folder.exists()
    # The folder goes after the servers, by the guardian's own hand.
    bed.guardian.wait()
    assert not bed.folder.exists()


async def test_a_program_that_does_not_exist_is_named() -> None:
    async with Bed() as bed:
        with pytest.raises(BedError, match=r"could not spawn: /no/such/program: .*No such file"):
            Process.spawn(bed.guardian, "x", ["/no/such/program"], log=bed.logs / "x.log")


async def test_exit_codes_and_signals_are_told_apart() -> None:
    async with Bed() as bed:
        seven = Process.spawn(bed.guardian, "x", ["sh", "-c", "exit 7"], log=bed.logs / "x.log")
        assert await seven.ended(10)
        assert seven.exit_code() == 7
        killed = Process.spawn(bed.guardian, "y", ["sleep", "100"], log=bed.logs / "y.log")
        await killed.kill()
        assert killed.exit_code() == -signal.SIGKILL


async def test_one_that_ignores_the_polite_signal_is_killed() -> None:
    async with Bed() as bed:
        log = bed.logs / "x.log"
        script = "trap '' TERM; echo deaf; while :; do sleep 0.1; done"
        deaf = Process.spawn(bed.guardian, "x", ["sh", "-c", script], log=log)

        async def is_deaf() -> bool:
            return log_has(log, "deaf")

        await until("it has set its trap", is_deaf)
        await deaf.close(grace=0.3)
        assert deaf.exit_code() == -signal.SIGKILL


async def test_what_a_program_left_behind_ends_with_the_bed() -> None:
    async with Bed() as bed:
        log = bed.logs / "x.log"
        script = "setsid sleep 76543 >/dev/null 2>&1 & echo $!"
        parent = Process.spawn(bed.guardian, "x", ["sh", "-c", script], log=log)
        assert await parent.ended(10)
        child = int(log.read_text())
        os.kill(child, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


async def test_a_dead_guardian_is_said_to_be_dead() -> None:
    bed = Bed()
    os.kill(bed.guardian.pid, signal.SIGKILL)
    with pytest.raises(BedError, match="guardian process is gone"):
        Process.spawn(bed.guardian, "x", ["true"], log=bed.logs / "x.log")
    await bed.aclose()


async def test_faults_before_the_start_are_refused_in_words() -> None:
    async with Bed() as bed:
        with pytest.raises(BedError, match="minio was not started"):
            await bed.minio.kill()
        with pytest.raises(BedError, match="minio is not started or has no wire"):
            await bed.minio.cut()
        with pytest.raises(BedError, match=r"make the bed with Bed\(disk_mb="):
            await bed.minio.fill()
        with pytest.raises(BedError, match="There is no component nothing"):
            await bed.start("nothing")
