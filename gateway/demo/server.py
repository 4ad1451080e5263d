"""The demo's server: a child process that is exactly what `penstock up` starts."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.children import end
from gateway.cli.failures import WorkFailed

#: Seconds. A start takes about one; a loaded machine may need ten times as long.
START_S = 60.0
#: Seconds that a stop may take before the process is killed: longer than the server itself lets items run on.
STOP_S = 20.0
DRAIN_S = 5
ANNOUNCED = "Penstock is up at "


class Server:
    """`penstock up` in a folder on a free port, from entry to exit. What it logs goes into a file."""

    def __init__(self, data: Path, log: Path) -> None:
        self._data = data
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        #: Where it listens; known on entry.
        self.address = ""

    async def __aenter__(self) -> Self:
        arguments = ("up", "--data", self._data, "--listen", "127.0.0.1:0", "--drain", str(DRAIN_S))
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "gateway.cli",
                *arguments,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                # Ctrl-C must reach the demo alone, which then stops its server in order.
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(START_S):
                self.address = await self._announced(self._process)
        except TimeoutError:
            await self._stop()
            raise WorkFailed(f"the server did not come up within {START_S:.0f} s: its log is {self._log}") from None
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def ended(self) -> None:
        """Wait until the server ends by itself."""
        assert self._process is not None, "use the server in `async with`"
        await self._process.wait()

    async def _announced(self, process: asyncio.subprocess.Process) -> str:
        assert process.stdout is not None, "started with a pipe"
        async for line in process.stdout:
            text = line.decode("utf-8", "replace")
            if text.startswith(ANNOUNCED):
                return text.removeprefix(ANNOUNCED).split(",", 1)[0].strip()
        await process.wait()
        lines = (await asyncio.to_thread(self._log.read_text, errors="replace")).strip().splitlines()
        raise WorkFailed(f"the server did not come up: {lines[-1] if lines else f'exit code {process.returncode}'}")

    async def _stop(self) -> None:
        if self._process is not None:
            await end(self._process, grace_s=STOP_S)
