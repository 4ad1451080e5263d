"""`penstock up` as a process: signals, drain, force, locks, and nothing that survives."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway import datadir
from gateway.up import UpOptions, chosen, serve
from penstock.client import Client
from penstock.errors import Conflict, InvalidInput
from tests.gateway.conftest import fdl

DRIVER = """
import asyncio, sys
from pathlib import Path
from gateway.up import UpOptions, serve
from penstock.errors import PenstockError
options = UpOptions(
    data=Path(sys.argv[1]), listen="127.0.0.1:0", drain_s=float(sys.argv[2]),
    announce=lambda address, data: print(address, flush=True),
)
try:
    sys.exit(asyncio.run(serve(options)))
except PenstockError as error:
    sys.exit(f"refused: {error.message}")
"""

#: Tells its pid and that of a child it leaves behind, then waits for the file `go`.
SCRIPT = """sleep 600 &
echo "$$ $!" > {folder}/pids.part
mv {folder}/pids.part {folder}/pids
while [ ! -e {folder}/go ]; do sleep 0.02; done
kill $!
echo finished > "$TMP_OUTPUT_DIR/result.txt"
"""


class Up:
    def __init__(self, process: asyncio.subprocess.Process, address: str, token: str) -> None:
        self.process = process
        self.address = address
        self.token = token

    async def ended(self) -> int:
        async with asyncio.timeout(20):
            return await self.process.wait()

    async def said(self) -> str:
        assert self.process.stderr is not None
        return (await self.process.stderr.read()).decode()


async def start(data: Path, drain_s: float) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        DRIVER,
        str(data),
        str(drain_s),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def up(data: Path, drain_s: float = 10.0) -> AsyncIterator[Up]:
    process = await start(data, drain_s)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            address = (await process.stdout.readline()).decode().strip()
        credentials = datadir.read_credentials(data / "credentials")
        assert credentials is not None
        yield Up(process, address, credentials.token)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def begun(server: Up, folder: Path) -> list[int]:
    """Deploy the script, give it work and return the pids of what runs."""
    async with Client(server.address, server.token) as client:
        await client.apply(fdl("held"), {"held.sh": SCRIPT.format(folder=folder)})
        await client.submit("held", b"x")
    async with asyncio.timeout(20):
        while not (folder / "pids").exists():
            await asyncio.sleep(0.01)
    return [int(pid) for pid in (folder / "pids").read_text().split()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Killed and not yet reaped by whoever inherited it.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


async def test_a_signal_lets_the_running_script_finish(tmp_path: Path) -> None:
    async with up(tmp_path / "data") as server:
        pids = await begun(server, tmp_path)
        server.process.send_signal(signal.SIGTERM)
        async with Client(server.address, server.token) as client:
            async with asyncio.timeout(10):
                while "stopping" not in await _refusal(client):
                    await asyncio.sleep(0.01)
            assert (await client.status()).functions[0].running == 1, "reading goes on while it drains"
        (tmp_path / "go").touch()
        assert await server.ended() == 0
        assert not any(alive(pid) for pid in pids)
    result = next((tmp_path / "data" / "buckets" / "outbox" / "files").iterdir())
    assert result.read_text() == "finished\n"


async def _refusal(client: Client) -> str:
    from penstock.errors import Unavailable  # noqa: PLC0415 - used here alone

    try:
        await client.submit("held", b"y")
    except Unavailable as error:
        return error.message
    return ""


async def test_a_second_signal_kills_at_once_and_nothing_survives(tmp_path: Path) -> None:
    async with up(tmp_path / "data", drain_s=600) as server:
        pids = await begun(server, tmp_path)
        server.process.send_signal(signal.SIGINT)
        async with Client(server.address, server.token) as client, asyncio.timeout(10):
            while "stopping" not in await _refusal(client):
                await asyncio.sleep(0.01)
        server.process.send_signal(signal.SIGINT)
        assert await server.ended() == 0
        assert not any(alive(pid) for pid in pids)
        assert "second signal: running items are killed now" in await server.said()


async def test_what_does_not_end_in_time_is_killed_and_runs_again_at_the_next_start(tmp_path: Path) -> None:
    async with up(tmp_path / "data", drain_s=0.2) as server:
        pids = await begun(server, tmp_path)
        server.process.send_signal(signal.SIGTERM)
        assert await server.ended() == 0
        assert not any(alive(pid) for pid in pids)
    (tmp_path / "go").touch()
    async with up(tmp_path / "data") as server, Client(server.address, server.token) as client:
        async with asyncio.timeout(20):
            while (await client.status()).functions[0].succeeded == 0:
                await asyncio.sleep(0.05)
        server.process.send_signal(signal.SIGTERM)
        assert await server.ended() == 0


async def test_the_state_file_is_there_while_it_runs(tmp_path: Path) -> None:
    async with up(tmp_path / "data") as server:
        path = datadir.state_file(int(server.address.rpartition(":")[2]))
        assert f"pid = {server.process.pid}\n" in path.read_text()
        server.process.send_signal(signal.SIGTERM)
        assert await server.ended() == 0
        assert not path.exists()


async def test_a_second_one_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    async with up(tmp_path / "data") as server:
        process = await start(tmp_path / "data", 1)
        _, said = await process.communicate()
        assert process.returncode == 1
        assert f"in use by another `penstock up` (process {server.process.pid}); stop that one" in said.decode()


async def test_an_immediate_signal_breaks_the_start_off(tmp_path: Path) -> None:
    process = await start(tmp_path / "data", 1)
    async with asyncio.timeout(20):
        while not (tmp_path / "data" / "lock").exists():
            await asyncio.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    await process.communicate()
    with datadir.opened(tmp_path / "data"):
        pass


async def test_a_taken_port_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Conflict, match="is taken by another program"):
            await serve(UpOptions(data=tmp_path / "data", listen=listen))
    assert not (tmp_path / "data" / "db" / "log.sqlite").exists()
    assert not (tmp_path / "data" / "credentials").exists()


async def test_the_command_line_wins_over_file_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "penstock.toml"
    config.write_text("[up]\ndrain_s = 1\n[http]\nlisten = '127.0.0.1:1'\n")
    monkeypatch.setenv("PENSTOCK_UP_DRAIN_S", "2")
    settings = chosen(UpOptions(config=config, data=tmp_path, listen="127.0.0.1:2"))
    assert (settings.up.drain_s, settings.up.data, settings.http.listen) == (2, tmp_path, "127.0.0.1:2")
    monkeypatch.setenv("PENSTOCK_UP_FOLDER", "x")
    with pytest.raises(InvalidInput, match="there is no setting"):
        chosen(UpOptions())
