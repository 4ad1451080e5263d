"""The product under measurement: a real `penstock up` in a process of its own, on a fresh data folder."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from penstock.client import Client

PATIENCE_S = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Product:
    """One data folder and the process that serves it; may be killed and started again."""

    def __init__(self, folder: Path | None = None, *, settings: dict[str, str] | None = None) -> None:
        self._own = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="penstock-bench-"))
        self.data = self.folder / "data"
        self._settings = settings or {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._own and kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def buckets(self) -> Path:
        return self.data / "buckets"

    def start(self) -> None:
        """Start and wait until it is ready. Raises RuntimeError with the end of its log."""
        environment = os.environ | {
            "XDG_STATE_HOME": str(self.folder / "state"),
            "PENSTOCK_LOG_LEVEL": "warning",
            **self._settings,
        }
        with (self.folder / "up.log").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gateway.cli", "up", "--data", str(self.data), "--listen", "127.0.0.1:0"],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
            )
        self.until(lambda: self._answers() or self._process.poll() is not None)  # type: ignore[union-attr]
        if self._process.poll() is not None:
            tail = (self.folder / "up.log").read_text(encoding="utf-8")[-2000:]
            raise RuntimeError(f"penstock up ended by itself:\n{tail}")

    def _answers(self) -> bool:
        try:
            return bool(self.ask(lambda client: client.status()))
        except Exception:  # noqa: BLE001  not up yet, in whatever way
            return False

    def kill(self) -> None:
        """SIGKILL of the platform's process alone, as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ask(self, question: Callable[[Client], Any]) -> Any:
        """Ask the product something through its client."""
        credentials = tomllib.loads((self.data / "credentials").read_text(encoding="utf-8"))

        async def answer() -> Any:
            async with Client(credentials["server"], credentials["token"]) as client:
                return await question(client)

        return asyncio.run(answer())

    def apply(self, fdl: str, scripts: dict[str, str]) -> None:
        self.ask(lambda client: client.apply(fdl, scripts))

    def until(self, done: Callable[[], bool], *, patience_s: float = PATIENCE_S, pause_s: float = 0.02) -> None:
        deadline = time.monotonic() + patience_s
        while not done():
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing came of it in {patience_s:.0f} s; data in {self.folder}")
            time.sleep(pause_s)

    def cpu_s(self) -> float:
        """Processor seconds of the platform's own process, its children not counted."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def rss_mb(self) -> float:
        fields = Path(f"/proc/{self.pid}/statm").read_text(encoding="utf-8").split()
        return int(fields[1]) * _PAGE / 2**20


def function(name: str, folder: str, **keys: object) -> str:
    """One FDL entry that reads bench/FOLDER/in and writes bench/FOLDER/out; more keys as given."""
    lines = [
        f"  - local:\n      name: {name}\n      image: none\n      script: {name}.sh",
        f"      input: [{{storage_provider: local, path: bench/{folder}/in}}]",
        f"      output: [{{storage_provider: local, path: bench/{folder}/out}}]",
        *(f"      {key}: {value}" for key, value in keys.items()),
    ]
    return "\n".join(lines) + "\n"


def document(*functions: str) -> str:
    return "functions:\n  oscar:\n" + "".join(functions)
