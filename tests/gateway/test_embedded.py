"""The composition root: what it refuses at start, what it heals, and that a life leaves nothing open."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from gateway.embedded import Embedded
from gateway.folders import folder_maker
from penstock.client import Client
from penstock.codec import encode
from penstock.errors import Closed, Conflict, Forbidden, InvalidInput
from penstock.model import TOPIC_EVENTS
from penstock.ports import LogEntry
from tests.factories import make_event
from tests.gateway.conftest import COPY, ended, fdl, running, settings_for


async def test_two_lives_share_credential_functions_and_history(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data")
    async with running(settings) as platform:
        token = platform.services.credentials.token
        async with Client(platform.address, token) as client:
            await client.apply(fdl(), {"copy.sh": COPY})
            invocation = (await client.run("copy", b"x")).invocation
    async with running(settings) as platform, Client(platform.address, token) as client:
        assert (await client.invocation(invocation)).phase == "succeeded"
        assert [one["name"] for one in await client.functions()] == ["copy"]


@pytest.mark.parametrize("damage", ["missing", "garbage"])
async def test_a_ledger_that_is_gone_or_damaged_is_rebuilt_from_the_log(tmp_path: Path, damage: str) -> None:
    settings = settings_for(tmp_path / "data")
    async with running(settings) as platform, Client(platform.address, platform.services.credentials.token) as client:
        await client.apply(fdl(), {"copy.sh": COPY})
        invocation = (await client.run("copy", b"x")).invocation
    ledger = tmp_path / "data" / "db" / "ledger.sqlite"
    for path in ledger.parent.glob("ledger.sqlite*"):
        path.unlink()
    if damage == "garbage":
        ledger.write_bytes(os.urandom(10_000))
    async with running(settings) as platform, Client(platform.address, platform.services.credentials.token) as client:
        assert (await client.invocation(invocation)).phase == "succeeded"
        assert (await client.status()).functions[0].succeeded == 1


async def test_files_that_came_while_it_was_down_are_taken(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data")
    async with running(settings) as platform, Client(platform.address, platform.services.credentials.token) as client:
        await client.apply(fdl(), {"copy.sh": COPY})
    (tmp_path / "data" / "buckets" / "inbox" / "files" / "late.txt").write_text("x")
    async with running(settings) as platform, Client(platform.address, platform.services.credentials.token) as client:
        async with client.changes() as changes:
            listed = (await client.invocations(function="copy")).invocations
            if not listed:
                async for change in changes:
                    assert change.invocation is not None
                    listed = (change.invocation,)
                    break
        assert listed[0].key == "files/late.txt"
        assert (await ended(client, listed[0].id)).phase == "succeeded"


async def test_a_file_dropped_by_another_program_is_an_upload(platform: Embedded, client: Client) -> None:
    await client.apply(fdl(), {"copy.sh": COPY})
    async with client.changes() as changes:
        (platform.data / "buckets" / "inbox" / "files" / "a.txt").write_text("x")
        async for change in changes:
            assert change.invocation is not None
            if change.invocation.final:
                break
    assert (platform.data / "buckets" / "outbox" / "files" / "a.txt").read_text() == "x"


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_start_that_fails_gives_everything_back(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data")
    before = open_files()
    (tmp_path / "bad.yaml").write_text("functions: [")
    for _ in range(3):
        with pytest.raises(InvalidInput, match=r"bad\.yaml"):
            async with Embedded(settings, apply=(tmp_path / "bad.yaml",)):
                pass
    assert open_files() <= before
    async with running(settings):
        pass


@pytest.mark.parametrize(
    ("content", "says"), [(None, "the file cannot be read: no such file"), (b"\xff\xfe", "the file is not UTF-8 text")]
)
async def test_a_file_to_apply_that_cannot_be_read(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "f.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidInput, match=says):
        async with Embedded(settings_for(tmp_path / "data"), apply=(path,)):
            pass


async def test_what_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(Forbidden, match="--allow-remote"):
        async with Embedded(settings_for(tmp_path / "a", listen="0.0.0.0:0")):
            pass
    (tmp_path / "b").mkdir(mode=0o700)
    (tmp_path / "b" / "credentials").write_text("broken")
    with pytest.raises(InvalidInput, match="credentials file is not valid TOML"):
        async with Embedded(settings_for(tmp_path / "b")):
            pass
    async with running(settings_for(tmp_path / "c")):
        with pytest.raises(Conflict, match="in use by another"):
            async with Embedded(settings_for(tmp_path / "c")):
                pass


async def test_remote_is_possible_by_a_word(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path / "data", listen="0.0.0.0:0", allow_remote=True)) as platform:
        assert platform.address.startswith("http://127.0.0.1:")


@pytest.mark.parametrize("folder", ["..", "a/../../b", "", "a//b", "a/./b"])
async def test_no_folder_is_made_outside_its_bucket(tmp_path: Path, folder: str) -> None:
    (tmp_path / "buckets" / "inbox").mkdir(parents=True)
    with pytest.raises(InvalidInput, match="is not a folder"):
        await folder_maker(tmp_path / "buckets")("inbox", folder)
    assert not (tmp_path / "b").exists()
    assert list((tmp_path / "buckets" / "inbox").iterdir()) == []


async def test_folders_are_never_made_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "buckets" / "inbox").mkdir(parents=True)
    (tmp_path / "buckets" / "inbox" / "link").symlink_to(tmp_path)
    with pytest.raises(InvalidInput, match="is a link"):
        await folder_maker(tmp_path / "buckets")("inbox", "link/made")
    assert not (tmp_path / "made").exists()


async def test_a_part_that_breaks_ends_the_platform(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data")
    async with Embedded(settings) as platform:
        task = asyncio.create_task(platform.run())
        await platform.ready()
        await platform.services.ledger.close()
        await platform.services.log.append(TOPIC_EVENTS, [LogEntry("k", encode(make_event()))])
        async with asyncio.timeout(20):
            with pytest.raises(Closed):
                await task
    async with running(settings):  # and everything was given back
        pass
