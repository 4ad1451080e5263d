"""A resident pod without a cluster: the sidecar and its launchers as local processes, spoken to over real HTTP.

They see what they would see in a pod but for the places, which are folders of the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from dispatcher.sidecar import calls
from dispatcher.sidecar.calls import Call, Use, frame
from dispatcher.sidecar.launcher import PATH as LAUNCHER
from penstock.clock import now_ms
from penstock.model import ItemResult, JobPlan, StorageIO, Submission
from tests.testbed.minio import Minio
from tests.testbed.paths import REPOSITORY

PATIENCE_S = 60.0


def plan(**changes: Any) -> JobPlan:
    made = JobPlan(
        name="echo", id="", function="echo", function_uid="0" * 32, generation=1, image="", script="-", items=()
    )
    return msgspec.structs.replace(made, **changes)


def outputs(bucket: str) -> tuple[StorageIO, ...]:
    return (StorageIO(provider="minio", bucket=bucket, folder="out"),)


def call(body: bytes = b"", *, deadline_s: float = 60, variables: Mapping[str, str] | None = None, **more: Any) -> Call:
    name = secrets.token_hex(20)
    about = Submission(
        function="echo", function_uid="0" * 32, id=name, time_ms=now_ms(), size=len(body), answer=True, **more
    )
    return Call(invocation=name, submission=about, deadline_s=deadline_s, variables=dict(variables or {}))


class LocalPod:
    """One sidecar and `slots` launchers."""

    def __init__(
        self,
        folder: Path,
        script: str,
        *,
        shell: Sequence[str] = ("dash",),
        slots: int = 1,
        made: JobPlan | None = None,
        minio: Minio | None = None,
    ) -> None:
        self.folder = folder
        self.key = secrets.token_hex(32)
        for name in ("slots", "job", "own", "key"):
            (folder / name).mkdir()
        (folder / "script.sh").write_text(script)
        (folder / "job" / "plan.json").write_bytes(msgspec.json.encode(made or plan()))
        (folder / "key" / "token").write_text(self.key)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "PENSTOCK_POD_SLOTS": str(folder / "slots"),
            "PENSTOCK_POD_SEEN": f"{folder}/slots/{{slot}}",
            "PENSTOCK_POD_JOB": str(folder / "job"),
            "PENSTOCK_POD_OWN": str(folder / "own"),
            "PENSTOCK_POD_KEY": str(folder / "key" / "token"),
            "PENSTOCK_POD_STORE": str(folder / "store"),
            "PENSTOCK_POD_STORE_IN": str(folder / "store"),
            "PENSTOCK_POD_GRACE_S": "0.5",
            "PENSTOCK_RESIDENT_SLOTS": str(slots),
            "PENSTOCK_RESIDENT_PORT": str(self.port),
            "PENSTOCK_RESIDENT_LEAVE_S": "0.5",
        }
        if minio is not None:
            (folder / "store").mkdir()
            (folder / "store" / "access_key").write_text(minio.user)
            (folder / "store" / "secret_key").write_text(minio.password)
            self.environment |= {"PENSTOCK_S3_ENDPOINT": minio.url, "PENSTOCK_S3_PATIENCE_S": "20"}
        program = shutil.which(shell[0])
        assert program is not None, f"{shell[0]} is needed for these tests"
        self._shell = [program, *shell[1:]]
        self.slots = slots
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        assert self._session is not None
        return self._session

    # Processes

    def start_sidecar(self) -> None:
        self._spawn("resident", [sys.executable, "-m", "dispatcher.sidecar.resident"], self.environment)

    def start_launcher(self, slot: int = 0) -> None:
        run = self.folder / "slots" / str(slot)
        words = [*self._shell, str(LAUNCHER), str(run), str(self.folder / "script.sh")]
        self._spawn(f"user-{slot}", words, {"PATH": os.environ["PATH"]})

    def _spawn(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self.processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """With everything in its container."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.processes[name].pid, signal.SIGKILL)
        self.processes[name].wait()

    def term(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGTERM)

    async def ended(self, name: str) -> int:
        async with asyncio.timeout(PATIENCE_S):
            while (code := self.processes[name].poll()) is None:
                await asyncio.sleep(0.02)
        return code

    async def ready(self, *, wanted: bool = True) -> None:
        async def look() -> bool:
            with contextlib.suppress(aiohttp.ClientConnectionError):
                async with self.session.get(self.url + calls.READY_PATH) as answer:
                    return answer.status == 200
            return False

        async with asyncio.timeout(PATIENCE_S):
            while await look() is not wanted:
                await asyncio.sleep(0.02)

    async def until(self, path: str) -> str:
        """The text of a file, once it is there and has some."""
        async with asyncio.timeout(PATIENCE_S):
            while not ((self.folder / path).exists() and (self.folder / path).read_text()):
                await asyncio.sleep(0.01)
        return (self.folder / path).read_text()

    # Calls

    async def ask(self, given: Call, body: bytes = b"") -> tuple[ItemResult, bytes]:
        status, data = await self.post(given, body)
        assert status == 200, data
        length, _, rest = data.partition(b"\n")
        head = calls.decode_reply(rest[: int(length)])
        return head.result, rest[int(length) :]

    async def run(self, body: bytes = b"", **about: Any) -> tuple[ItemResult, bytes]:
        return await self.ask(call(body, **about), body)

    async def post(self, given: Call, body: bytes = b"", *, key: str = "") -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {key or self.key}"}
        data = io.BytesIO(frame(given) + body)
        async with self.session.post(self.url + calls.RUN_PATH, data=data, headers=headers) as answer:
            return answer.status, await answer.read()

    async def use(self) -> Use:
        headers = {"Authorization": f"Bearer {self.key}"}
        async with self.session.get(self.url + calls.USE_PATH, headers=headers) as answer:
            return calls.decode_use(await answer.read())

    async def quiet(self) -> None:
        """Until nothing is under way, archiving included."""
        async with asyncio.timeout(PATIENCE_S):
            while (await self.use()).active:
                await asyncio.sleep(0.02)

    async def slots_up(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while (await self.use()).up < count:
                await asyncio.sleep(0.02)

    @contextlib.asynccontextmanager
    async def started(self) -> AsyncIterator[LocalPod]:
        self.start_sidecar()
        for slot in range(self.slots):
            self.start_launcher(slot)
        async with aiohttp.ClientSession() as self._session:
            try:
                await self.ready()
                yield self
            finally:
                for name in self.processes:
                    self.kill(name)
