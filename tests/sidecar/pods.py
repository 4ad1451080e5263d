"""A pod without a cluster: the two programs and the launcher as local processes against a real MinIO.

They see what they would see in a pod, but for the places, which are folders of the test. So nearly everything of the
handshake is tried here in a second, and only what needs a container is tried on the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dispatcher.kubernetes.files import told_sidecars
from dispatcher.sidecar.launcher import PATH as LAUNCHER
from penstock.adapters.s3 import Credentials, S3Config, S3Store
from penstock.errors import NotFound
from penstock.model import (
    SYSTEM_BUCKET,
    BucketEvent,
    ItemResult,
    JobItem,
    JobPlan,
    Origin,
    StorageIO,
    Submission,
)
from penstock.model.objects import log_key, result_key
from tests.testbed.minio import Minio
from tests.testbed.paths import REPOSITORY

PATIENCE_S = 60.0


class Shop:
    """Buckets of the test's own in a real store."""

    def __init__(self, minio: Minio, store: S3Store, name: str) -> None:
        self.minio = minio
        self.store = store
        self.pictures = f"{name}-in"
        self.results = f"{name}-out"

    async def put(self, key: str = "a/pic ture.txt", data: bytes = b"input", **metadata: str) -> BucketEvent:
        info = await self.store.write(self.pictures, key, data, metadata=metadata)
        return BucketEvent.of(info, Origin.PUSH, hops=0)

    async def get(self, bucket: str, key: str) -> bytes:
        return b"".join([chunk async for chunk in self.store.read(bucket, key)])

    async def keys(self) -> list[str]:
        return [info.key async for page in self.store.list(self.results) for info in page]

    def plan(self, *triggers: BucketEvent | Submission, name: str, **changes: Any) -> JobPlan:
        items = tuple(
            JobItem(invocation=f"{name}-{index}", attempt=1, trigger=trigger) for index, trigger in enumerate(triggers)
        )
        made = JobPlan(
            name=name,
            id=name,
            function="classify",
            function_uid="0" * 32,
            generation=1,
            image="",
            script="",
            items=items,
            outputs=(StorageIO(provider="minio", bucket=self.results, folder="out"),),
            deadline_s=60,
        )
        return msgspec.structs.replace(made, **changes)


@contextlib.asynccontextmanager
async def opened_shop(minio: Minio, name: str) -> AsyncIterator[Shop]:
    store = S3Store(S3Config(endpoint=minio.url, credentials=Credentials(minio.user, minio.password)))
    try:
        shop = Shop(minio, store, name)
        for bucket in (shop.pictures, shop.results, SYSTEM_BUCKET):
            await store.create_bucket(bucket)
        yield shop
    finally:
        await store.close()


class LocalPod:
    """Three processes and the folders between them."""

    def __init__(
        self, folder: Path, shop: Shop, plan: JobPlan, script: str, *, shell: Sequence[str] = ("dash",)
    ) -> None:
        self.shop = shop
        self.plan = plan
        self.folder = folder
        self.run = folder / "run"
        self.job = folder / "job"
        self.own = folder / "own"
        self.secrets = folder / "store"
        for made in (self.run, self.job, self.own, self.secrets):
            made.mkdir(parents=True)
        self.run.chmod(0o777)
        self.script = folder / "script.sh"
        self.script.write_text(script)
        public = told_sidecars(msgspec.structs.replace(plan, items=(), script=script))
        (self.job / "plan.json").write_bytes(msgspec.json.encode(public))
        (self.job / "items.json").write_bytes(msgspec.json.encode(plan.items))
        (self.job / "cancel").write_text("")
        stores = folder / "stores"
        if plan.stores:
            stores.mkdir()
            (stores / "stores.json").write_bytes(msgspec.json.encode(plan.stores))
        (self.secrets / "access_key").write_text(shop.minio.user)
        (self.secrets / "secret_key").write_text(f"{shop.minio.password}\n")
        program = shutil.which(shell[0])
        assert program is not None, f"{shell[0]} is needed for these tests"
        self._launcher = [program, *shell[1:], str(LAUNCHER), str(self.run), str(self.script)]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "PENSTOCK_JOB": plan.name,
            "PENSTOCK_S3_ENDPOINT": shop.minio.url,
            "PENSTOCK_S3_PATIENCE_S": "20",
            "PENSTOCK_POD_RUN": str(self.run),
            "PENSTOCK_POD_JOB": str(self.job),
            "PENSTOCK_POD_STORE": str(self.secrets),
            "PENSTOCK_POD_STORES": str(stores),
            "PENSTOCK_POD_OWN": str(self.own),
            "PENSTOCK_POD_GRACE_S": "0.5",
        }

    def start(self, *names: str) -> None:
        """`input`, `output` and `user`, or some of them."""
        for name in names or ("input", "output", "user"):
            if name == "user":
                self._spawn(name, self._launcher, {"PATH": os.environ["PATH"]})
            else:
                self._spawn(name, [sys.executable, "-m", "dispatcher.sidecar", name], self.environment)

    def _spawn(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        with (self.folder / f"{name}.out").open("wb") as out:
            self.processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def end(self) -> dict[str, int]:
        """Wait for all three; exit codes by name."""
        deadline = time.monotonic() + PATIENCE_S
        return {name: one.wait(deadline - time.monotonic()) for name, one in self.processes.items()}

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.out").read_text()

    def kill(self, name: str) -> None:
        """With everything in its container."""
        os.killpg(self.processes[name].pid, signal.SIGKILL)

    def term(self, *names: str) -> None:
        for name in names or self.processes:
            self.processes[name].send_signal(signal.SIGTERM)

    def cancel(self, index: int, reason: str = "") -> None:
        text = (self.job / "cancel").read_text()
        scratch = self.job / "cancel.new"
        scratch.write_text(f"{text}{self.plan.items[index].invocation} {reason}\n")
        scratch.rename(self.job / "cancel")

    async def until(self, path: str) -> None:
        """Until a file is in the shared folder."""
        async with asyncio.timeout(PATIENCE_S):
            while not (self.run / path).exists():
                await asyncio.sleep(0.01)

    async def minds_term(self) -> None:
        """Until TERM does no more end a sidecar as it would end any program."""
        async with asyncio.timeout(PATIENCE_S):
            for name in ("input", "output"):
                status = Path(f"/proc/{self.processes[name].pid}/status")
                while not any(
                    int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1
                    for line in status.read_text().splitlines()  # noqa: ASYNC240 - a file of the kernel
                    if line.startswith(("SigBlk", "SigIgn", "SigCgt"))
                ):
                    await asyncio.sleep(0.01)

    async def result(self, index: int = 0) -> ItemResult:
        item = self.plan.items[index]
        key = result_key(self.plan.function_uid, self.plan.name, item.invocation, item.attempt)
        return msgspec.json.decode(await self.shop.get(SYSTEM_BUCKET, key), type=ItemResult)

    async def recorded(self, index: int) -> None:
        """Until an item has its result."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(NotFound):
                    await self.result(index)
                    return
                await asyncio.sleep(0.02)

    async def results(self) -> list[ItemResult]:
        return [await self.result(index) for index in range(len(self.plan.items))]

    async def log(self, index: int = 0) -> bytes:
        item = self.plan.items[index]
        return await self.shop.get(SYSTEM_BUCKET, log_key(self.plan.function_uid, item.invocation, item.attempt))

    def close(self) -> None:
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def started(pod: LocalPod, *names: str) -> Iterator[LocalPod]:
    pod.start(*names)
    try:
        yield pod
    finally:
        pod.close()
