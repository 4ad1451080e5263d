"""A real platform on a free port, over real adapters: what every test that talks HTTP to it shares.

Tests of the gateway and the end-to-end tests of embedded mode both start it in their own process; their conftests
import the fixtures from here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.embedded import Embedded
from penstock import settings as penstock_settings
from penstock.answers import Invocation
from penstock.client import Client
from penstock.settings import Settings

DEADLINE_S = 20.0

COPY = 'cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/"\necho copied\n'


@pytest.fixture(autouse=True)
def own_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def fdl(name: str = "copy", *, source: str = "inbox", target: str = "outbox", **keys: Any) -> str:
    """One function as FDL text; the script is `NAME.sh`."""
    lines = [f"      {key}: {value}" for key, value in keys.items()]
    return "\n".join(
        [
            "functions:",
            "  oscar:",
            "  - local:",
            f"      name: {name}",
            "      image: none",
            f"      script: {name}.sh",
            *lines,
            "      input:",
            "      - storage_provider: minio",
            f"        path: {source}/files",
            "      output:",
            "      - storage_provider: minio",
            f"        path: {target}/files",
            "",
        ]
    )


def settings_for(data: Path, **http: Any) -> Settings:
    settings = penstock_settings.override(penstock_settings.Settings(), "http", **({"listen": "127.0.0.1:0"} | http))
    # No settle time: a file that a test wrote is complete, and a listing may take it at once.
    settings = penstock_settings.override(settings, "watcher", settle_s=0)
    return penstock_settings.override(settings, "up", data=data)


@asynccontextmanager
async def running(settings: Settings, *, apply: tuple[Path, ...] = ()) -> AsyncIterator[Embedded]:
    """An open platform with every part up."""
    async with Embedded(settings, apply=apply) as platform:
        task = asyncio.create_task(platform.run(), name="platform under test")
        try:
            async with asyncio.timeout(DEADLINE_S):
                await platform.ready()
            yield platform
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Embedded]:
    async with running(settings_for(tmp_path / "data")) as platform:
        yield platform


@pytest.fixture
async def client(platform: Embedded) -> AsyncIterator[Client]:
    async with Client(platform.address, platform.services.credentials.token) as client:
        yield client


@pytest.fixture
async def http(platform: Embedded) -> AsyncIterator[aiohttp.ClientSession]:
    """For what the client would never send."""
    headers = {"Authorization": f"Bearer {platform.services.credentials.token}"}
    async with aiohttp.ClientSession(base_url=platform.address, headers=headers) as session:
        yield session


@pytest.fixture
def until() -> Callable[..., Awaitable[Any]]:
    """`await until(look, wanted)`: call `look` until its value is wanted; fails with the last value."""

    async def until(look: Callable[[], Awaitable[Any]], wanted: Callable[[Any], object]) -> Any:
        value: Any = None
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not wanted(value := await look()):
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pytest.fail(f"did not come about; last seen: {value!r}")
        return value

    return until


async def ended(client: Client, invocation: str) -> Invocation:
    """The invocation (or the one whose id begins so) once it is final."""
    async with asyncio.timeout(DEADLINE_S):
        async with client.changes() as changes:
            record = await client.invocation(invocation)
            if record.final:
                return record
            async for change in changes:
                changed = change.invocation
                if changed is not None and changed.id == record.id and changed.final:
                    return await client.invocation(invocation)
    raise AssertionError("the stream of changes ended")
