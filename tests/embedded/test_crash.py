"""Kills of every part while work is under way: nothing is lost, nothing succeeds twice, nothing survives."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from benchmarks import crash
from benchmarks.harness import Report
from penstock.client import Client
from penstock.settings import Settings
from tests.embedded.server import Server, serving
from tests.embedded.shop import COPY, Shop, alive, gone, marked, until
from tests.live import running, settings_for


@pytest.mark.slow
async def test_files_that_arrive_during_kills_each_succeed_once() -> None:
    report = Report("crash", small=True)
    await asyncio.to_thread(crash.run, report)
    figures = {figure.key: figure for figure in report.figures}
    assert figures["kills"].value == 4
    assert figures["kills_while_running"].value >= 1
    for key in ("lost", "double_successes", "extra_runs"):
        assert figures[key].met, figures[key]


def told(folder: Path) -> str:
    """A script that tells its own pid and its launcher's, then waits for a gate."""
    return f"""echo "$$ $PPID" >> {folder}/runs
while [ ! -e {folder}/gate ]; do sleep 0.02; done
{COPY}"""


async def test_a_script_killed_alone_is_its_own_failure(shop: Shop) -> None:
    await shop.deploy("victim", told(shop.notes), retries=1)
    shop.drop("victim-in/files/a", "x")
    script, _ = (await shop.noted("runs"))[0].split()
    os.kill(int(script), signal.SIGKILL)
    await shop.noted("runs", 2)
    shop.note("gate").touch()
    record = await shop.ended("victim")
    assert (record.phase, record.attempt) == ("succeeded", 2)
    assert any("SIGKILL" in step.note for step in record.timeline)
    assert await shop.outputs("victim-out") == {"files/a": b"x"}


async def test_a_launcher_killed_alone_takes_its_script_along_and_counts_as_its_failure(shop: Shop) -> None:
    # As `kill -9 $PPID` in a script does; what is next is not held up by it.
    await shop.deploy("victim", told(shop.notes), concurrency=1)
    shop.drop("victim-in/files/a", "x")
    script, launcher = (int(word) for word in (await shop.noted("runs"))[0].split())
    os.kill(launcher, signal.SIGKILL)
    record = await shop.ended("victim")
    assert (record.phase, record.exit_code, record.error) == ("failed", 137, "killed")
    assert record.reason == "the script was killed from outside"
    await gone([script, launcher])
    shop.note("gate").touch()
    await shop.client.replay("victim")
    record = await until(lambda: shop.client.invocation(record.id), lambda one: one.phase == "succeeded")
    assert record.attempt == 2
    assert await shop.outputs("victim-out") == {"files/a": b"x"}


@pytest.mark.slow
async def test_a_running_script_is_taken_over_by_the_next_life(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        async with server.shop() as shop:
            await shop.deploy("steady", told(tmp_path))
            shop.drop("steady-in/files/a", "x")
            await shop.noted("runs")
        await server.kill()
        [script, launcher] = [int(word) for word in (tmp_path / "runs").read_text().split()]
        assert alive(script)
        assert alive(launcher)
        await server.start()
        (tmp_path / "gate").touch()
        async with server.shop() as shop:
            record = await shop.ended("steady")
            assert (record.phase, record.attempt) == ("succeeded", 1)
            assert await shop.outputs("steady-out") == {"files/a": b"x"}
        await gone([script])
    assert len((tmp_path / "runs").read_text().splitlines()) == 1
    await gone([launcher])


@pytest.mark.slow
async def test_a_script_that_ended_while_nobody_watched_is_completed(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        async with server.shop() as shop:
            await shop.deploy("steady", told(tmp_path) + f"touch {tmp_path}/ended\nexit 0\n")
            shop.drop("steady-in/files/a", "x")
            await shop.noted("runs")
        await server.kill()
        (tmp_path / "gate").touch()
        async with asyncio.timeout(20):
            while not (tmp_path / "ended").exists():
                await asyncio.sleep(0.02)
        await server.start()
        async with server.shop() as shop:
            record = await shop.ended("steady")
            assert (record.phase, record.attempt) == ("succeeded", 1)
            assert await shop.outputs("steady-out") == {"files/a": b"x"}
    assert len((tmp_path / "runs").read_text().splitlines()) == 1


async def unfinished(settings: Settings, notes: Path) -> Path:
    """One file done, four waiting, and the platform is gone. Returns the ledger's file."""
    async with running(settings) as platform, Client(platform.address, platform.services.credentials.token) as client:
        shop = Shop(client, platform.data, notes)
        await shop.deploy("kept")
        shop.drop("kept-in/files/0", "0")
        await shop.settled("kept", 1)
        await shop.client.pause("kept")
        for number in range(1, 5):
            shop.drop(f"kept-in/files/{number}", str(number))
        await until(lambda: shop.phases("kept"), lambda phases: sorted(phases) == [*["queued"] * 4, "succeeded"])
    ledger = settings.up.data / "db" / "ledger.sqlite"
    for side in ledger.parent.glob("ledger.sqlite-*"):
        side.unlink()
    return ledger


def damaged(content: bytes, how: str) -> bytes:
    if how == "first page":
        return os.urandom(4096) + content[4096:]
    if how == "some pages":
        return content[:8192] + os.urandom(len(content) - 8192)
    return content[: len(content) // 2]


@pytest.mark.parametrize("how", ["deleted", "first page", "some pages", "cut short"])
async def test_queued_work_survives_the_loss_of_the_ledger(tmp_path: Path, how: str) -> None:
    settings = settings_for(tmp_path / "data")
    ledger = await unfinished(settings, tmp_path)
    if how == "deleted":
        ledger.unlink()
    else:
        ledger.write_bytes(damaged(ledger.read_bytes(), how))
    async with running(settings) as platform, Client(platform.address, platform.services.credentials.token) as client:
        shop = Shop(client, platform.data, tmp_path)
        assert sorted(await shop.phases("kept")) == [*["queued"] * 4, "succeeded"]
        await shop.client.resume("kept")
        records = await shop.settled("kept", 5)
        assert {one.phase for one in records} == {"succeeded"}
        assert {one.attempt for one in records} == {1}
        assert await shop.outputs("kept-out") == {f"files/{n}": str(n).encode() for n in range(5)}


def stubborn(folder: Path) -> str:
    """Hides a child in a session of its own, and lets nobody end it politely."""
    return f"""trap '' TERM INT HUP
setsid sh -c 'trap "" TERM INT HUP; while :; do sleep 1; done' >/dev/null 2>&1 &
echo $$ >> {folder}/runs
while [ ! -e {folder}/gate ]; do sleep 0.02; done
{COPY}"""


async def begun(server: Server, mark: str) -> list[int]:
    async with server.shop() as shop:
        variables = "{variables: {MARK: '" + mark + "'}}"
        await shop.deploy("held", stubborn(server.folder), environment=variables)
        shop.drop("held-in/files/a", "x")
        await shop.noted("runs")
    pids = marked(f"MARK={mark}")
    assert len(pids) >= 3, "launcher, script and daemon"
    return pids


@pytest.mark.slow
async def test_a_first_signal_waits_for_the_running_script_and_leaves_nothing_behind(tmp_path: Path) -> None:
    mark = f"{tmp_path}/drain"
    async with serving(tmp_path) as server:
        pids = await begun(server, mark)
        server.signal(signal.SIGTERM)
        await until_logged(server, "running items may end")
        assert alive(server.pid)
        (tmp_path / "gate").touch()
        assert await server.ended() == 0
        assert not any(alive(pid) for pid in pids)
        assert marked(f"MARK={mark}") == []
        assert (server.data / "buckets/held-out/files/a").read_text() == "x"
        await server.start()
        async with server.shop() as shop:
            assert (await shop.ended("held")).phase == "succeeded"
    assert len((tmp_path / "runs").read_text().splitlines()) == 1


@pytest.mark.slow
async def test_a_second_signal_forces_and_leaves_no_process_behind(tmp_path: Path) -> None:
    mark = f"{tmp_path}/force"
    async with serving(tmp_path) as server:
        pids = await begun(server, mark)
        server.signal(signal.SIGTERM)
        await until_logged(server, "running items may end")
        server.signal(signal.SIGTERM)
        assert await server.ended() == 0
        assert not any(alive(pid) for pid in pids)
        assert marked(f"MARK={mark}") == []
        assert not (server.data / "buckets/held-out/files/a").exists(), "nothing half done was published"
        (tmp_path / "gate").touch()
        await server.start()
        async with server.shop() as shop:
            record = await shop.ended("held")
            assert (record.phase, record.attempt) == ("succeeded", 2)


async def until_logged(server: Server, words: str) -> None:
    async def look() -> str:
        return server.log.read_text()

    await until(look, lambda text: words in text)


@pytest.mark.slow
async def test_a_kill_right_after_put_returned_loses_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        async with server.shop() as shop:
            await shop.deploy("kept")
        for number in range(2):
            async with server.shop() as shop:
                await shop.client.put("kept-in", f"files/{number}", b"x")
                posted = await shop.client.submit("kept", b"y")
            await server.kill()
            await server.start()
            async with server.shop() as shop:
                records = await shop.settled("kept", 2 * (number + 1))
                assert {one.phase for one in records} == {"succeeded"}
                assert posted in {one.id for one in records}
