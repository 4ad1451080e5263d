"""`python -m scaler` as a process of its own on the real control plane, with what it said kept for the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from tests.scaler.cluster.whole import until
from tests.testbed.paths import REPOSITORY
from tests.testbed.prometheus import samples

#: What callers of its interface must show.
WORD = "the word of the test"


class ScalerProcess:
    """One life. `said` holds its log, line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said: list[dict[str, Any]] = []
        self.other: list[str] = []
        self._reading = asyncio.create_task(self._read(), name="what the scaler says")

    async def _read(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            try:
                self.said.append(json.loads(line))
            except ValueError:
                self.other.append(line.decode(errors="replace"))

    def actions(self, action: str) -> list[dict[str, Any]]:
        return [one for one in self.said if one.get("action") == action]

    @property
    def ended(self) -> bool:
        return self._process.returncode is not None

    def address(self, action: str) -> str:
        """Where it listens: `start` = probes, `listening` = the interface for nodes."""
        return f"http://{self.actions(action)[0]['address']}"

    async def serves(self) -> None:
        def both() -> bool:
            assert not self.ended, "".join(self.other[-20:])
            return bool(self.actions("start") and self.actions("listening"))

        await until("the scaler serves", both)

    async def ready(self) -> bool:
        async with aiohttp.ClientSession() as http, http.get(f"{self.address('start')}/ready") as answer:
            return answer.status == 200

    async def metrics(self) -> dict[str, float]:
        """Every sample by its name and labels, as the text has them."""
        async with aiohttp.ClientSession() as http, http.get(f"{self.address('start')}/metrics") as answer:
            return samples(await answer.text())

    def peak_mb(self) -> float:
        """The most memory that it ever had resident."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """SIGKILL, which ends a paused process too."""
        if not self.ended:
            self._process.kill()
        await self._process.wait()
        await self._reading


@contextlib.asynccontextmanager
async def scaler_process(
    kubeconfig: Path, folder: Path, pools: str, *, namespace: str, settings: Mapping[str, str] | None = None
) -> AsyncIterator[ScalerProcess]:
    """Started and serving; killed at the end. `folder` is the test's own."""
    (folder / "pools.yaml").write_text(pools)
    (folder / "word").write_text(f"{WORD}\n")
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "PENSTOCK_SERVICE_LISTEN": "127.0.0.1:0",
        "PENSTOCK_SCALER_LISTEN": "127.0.0.1:0",
        "PENSTOCK_SCALER_TOKEN_FILE": str(folder / "word"),
        "PENSTOCK_SCALER_BACKLOG": "false",
        "PENSTOCK_SCALER_SETTLE_S": "1",
        "PENSTOCK_KUBERNETES_KUBECONFIG": str(kubeconfig),
        "PENSTOCK_KUBERNETES_NAMESPACE": namespace,
        "PENSTOCK_LOG_FORMAT": "json",
        **(settings or {}),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "scaler", "--pools", str(folder / "pools.yaml")),
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        cwd=REPOSITORY,
    )
    one = ScalerProcess(process)
    try:
        await one.serves()
        yield one
    finally:
        await one.kill()
