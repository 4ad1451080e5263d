"""`penstock up` as a process of its own, for what only a process shows: kills, signals, a full disk, missing rights."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tomllib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from penstock.client import Client
from tests.embedded.shop import Shop

ROOT = Path(__file__).parents[2]
PATIENCE_S = 40.0


class Server:
    """One data folder; its process may be killed and started again."""

    def __init__(self, folder: Path, *, wrapper: Sequence[str] = (), settings: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.log = folder / "up.log"
        #: What the command is started with: a namespace, fewer rights. It must `exec`, so that the pid is the server's.
        self._wrapper = tuple(wrapper)
        self._settings = settings or {}
        self._process: asyncio.subprocess.Process | None = None
        self.address = ""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def seen(self) -> Path:
        """The data folder as the server sees it, also when it is mounted for the server alone."""
        return Path(f"/proc/{self.pid}/root{self.data}")

    async def start(self, *arguments: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        environment |= {"XDG_STATE_HOME": str(self.folder / "state"), "PYTHONPATH": str(ROOT), **self._settings}
        command = [sys.executable, "-m", "gateway.cli", "up", "--data", str(self.data), "--listen", "127.0.0.1:0"]
        with self.log.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *self._wrapper,
                *command,
                *arguments,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=environment,
                cwd=self.folder,
            )
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = (await self._process.stdout.readline()).decode()
        assert line.startswith("Penstock is up at "), (line, self.log.read_text())
        self.address = line.split()[4].rstrip(",")

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    async def ended(self) -> int:
        assert self._process is not None
        async with asyncio.timeout(PATIENCE_S):
            await self._process.communicate()
        assert self._process.returncode is not None
        return self._process.returncode

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.ended()

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self.signal(signal.SIGTERM)
            try:
                await self.ended()
            except TimeoutError:
                await self.kill()
                raise

    @asynccontextmanager
    async def shop(self) -> AsyncIterator[Shop]:
        """A user of the process that runs now."""
        token = tomllib.loads((self.seen / "credentials").read_text(encoding="utf-8"))["token"]
        async with Client(self.address, token) as client:
            yield Shop(client, self.seen, self.folder)


@asynccontextmanager
async def serving(
    folder: Path, *, wrapper: Sequence[str] = (), settings: dict[str, str] | None = None
) -> AsyncIterator[Server]:
    server = Server(folder, wrapper=wrapper, settings=settings)
    try:
        await server.start()
        yield server
    finally:
        await server.stop()
