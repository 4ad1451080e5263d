"""A machine that is not as one wishes: the disk is full, a file may not be read, the log cannot be written."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from penstock.errors import OutOfSpace
from tests.embedded.server import serving
from tests.embedded.shop import COPY, until

MOUNT = 'mount -t tmpfs -o size=$0,mode=700 none "$1" && shift && exec "$@"'


def private_disk(folder: Path, size: str) -> list[str]:
    """Start a command that sees a small file system of its own at `folder`; gone with its last process."""
    return ["unshare", "--mount", "sh", "-c", MOUNT, size, str(folder)]


def can_mount() -> bool:
    command = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /tmp"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


async def test_a_full_disk_loses_nothing_and_work_goes_on_when_there_is_room(tmp_path: Path) -> None:
    if not can_mount():
        pytest.skip("no private mount namespace here: a small disk cannot be made")
    (tmp_path / "data").mkdir()
    async with (
        serving(tmp_path, wrapper=private_disk(tmp_path / "data", "40m")) as server,
        server.shop() as shop,
    ):
        await shop.deploy("thick", f'head -c 300000 /dev/zero > "$TMP_OUTPUT_DIR/${{INPUT_FILE_PATH##*/}}.big"\n{COPY}')
        await shop.client.create_bucket("ballast")
        shop.drop("thick-in/files/before", "before")
        await shop.settled("thick", 1)
        ballast = shop.folder("ballast/x")
        fill(ballast)
        # Whole files already on the disk, made by somebody who still found a block or two.
        names = []
        for number in range(6):
            with ballast.open("r+b") as stream:
                stream.truncate(ballast.stat().st_size - 8192)
            shop.drop(f"thick-in/files/{number}", f"content {number}")
            names.append(f"{number}")
        fill(shop.folder("ballast/y"))
        with pytest.raises(OutOfSpace):
            await shop.client.put("thick-in", "files/refused", b"x" * 200_000)
        assert not shop.folder("thick-in/files/refused").exists()
        await until_said(server.log, "space")
        assert (await shop.client.status()).functions[0].dead == 0
        ballast.unlink()
        shop.folder("ballast/y").unlink()
        shop.drop("thick-in/files/after", "after")
        wanted = ["before", *names, "after"]
        records = await shop.settled("thick", len(wanted))
        assert {one.phase for one in records} == {"succeeded"}, [(one.key, one.reason) for one in records]
        outputs = await shop.outputs("thick-out")
        assert set(outputs) == {f"files/{name}{end}" for name in wanted for end in ("", ".big")}
        assert all(len(outputs[f"files/{name}.big"]) == 300_000 for name in wanted)
        assert [outputs[f"files/{number}"] for number in range(6)] == [f"content {n}".encode() for n in range(6)]
        assert await shop.client.dead() == []
    assert "Traceback" not in server.log.read_text()


async def until_said(log: Path, words: str) -> None:
    async def look() -> str:
        return await asyncio.to_thread(log.read_text)

    await until(look, lambda text: words in text)


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    with path.open("wb", buffering=0) as sink:
        for size in (2**20, 4096):
            try:
                while sink.write(b"\1" * size) == size:
                    pass
            except OSError:
                continue


def fewer_rights() -> list[str]:
    """Without these capabilities file modes hold for root too."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]


async def test_an_unreadable_file_is_told_holds_up_nobody_and_runs_when_it_may_be_read(tmp_path: Path) -> None:
    settings = {"PENSTOCK_DISPATCHER_RETRY_BASE_S": "0.05"}
    async with serving(tmp_path, wrapper=fewer_rights(), settings=settings) as server, server.shop() as shop:
        await shop.deploy("careful")
        hidden = tmp_path / "hidden"
        hidden.write_text("secret")
        hidden.chmod(0)
        hidden.rename(shop.folder("careful-in/files/hidden"))
        shop.drop("careful-in/files/open", "x")
        records = {one.key: one for one in await shop.settled("careful", 2)}
        assert records["files/open"].phase == "succeeded"
        record = records["files/hidden"]
        assert (record.phase, record.error) == ("dead", "stage_in")
        assert "files/hidden" in record.reason
        assert "ermission denied" in record.reason
        assert record.attempt == 6, "five retries"
        [dead] = await shop.client.dead()
        assert (dead["kind"], dead["id"]) == ("invocation", record.id)
        shop.folder("careful-in/files/hidden").chmod(0o644)
        await shop.client.retry_dead(record.id)
        again = await until(lambda: shop.client.invocation(record.id), lambda one: one.phase == "succeeded")
        assert again.attempt == 7
        assert (await shop.outputs("careful-out"))["files/hidden"] == b"secret"


async def test_an_output_folder_that_may_not_be_written_is_told(tmp_path: Path) -> None:
    settings = {"PENSTOCK_DISPATCHER_RETRY_BASE_S": "0.05"}
    async with serving(tmp_path, wrapper=fewer_rights(), settings=settings) as server, server.shop() as shop:
        await shop.deploy("careful")
        target = shop.folder("careful-out/files")
        target.chmod(0o500)
        shop.drop("careful-in/files/a", "x")
        record = await shop.ended("careful")
        assert (record.phase, record.error, record.exit_code) == ("dead", "publish", 121)
        assert "careful-out" in record.reason
        assert "ermission denied" in record.reason
        target.chmod(0o700)
        await shop.client.retry_dead(record.id)
        await until(lambda: shop.client.invocation(record.id), lambda one: one.phase == "succeeded")
        assert await shop.outputs("careful-out") == {"files/a": b"x"}


async def test_files_copied_in_a_moment_ago_are_listed_and_backfilled(tmp_path: Path) -> None:
    # With the settings of a user: a file counts as finished for the watcher after two quiet seconds only.
    async with serving(tmp_path) as server, server.shop() as shop:
        names = [f"files/{number}" for number in range(3)]
        for name in names:
            shop.drop(f"late-in/{name}", name)
        assert [one.key for one in (await shop.client.objects("late-in")).objects] == names
        await shop.deploy("late")
        assert (await shop.client.backfill("late")).matched == 3
        assert {one.phase for one in await shop.settled("late", 3)} == {"succeeded"}


async def test_memory_stays_flat_while_a_large_object_goes_up_and_down(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, server.shop() as shop:
        await shop.client.create_bucket("large")
        chunk = os.urandom(2**20)

        async def body() -> object:
            for _ in range(200):
                yield chunk

        before = resident(server.pid)
        await shop.client.put("large", "file", body())  # type: ignore[arg-type]
        total = 0
        async with shop.client.get("large", "file") as (size, chunks):
            async for piece in chunks:
                total += len(piece)
        assert size == total == 200 * 2**20
        assert highest(server.pid) - before < 50 * 2**20


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def highest(pid: int) -> int:
    """The most memory the process ever had, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
