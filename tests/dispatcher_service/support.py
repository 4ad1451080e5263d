"""Real dispatcher processes on a real broker and control plane, with pods that KWOK plays.

`Stage` is one installation: a Kafka prefix, a namespace, a bucket store. It starts processes (`python -m dispatcher`),
says what users say (functions, events) and sees what users see: the records, read from the log into a ledger of its
own, and every Job that was ever made, by a watch that begins before the first one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from dispatcher.kubernetes.facts import Job
from penstock.adapters.kafka import KafkaEventLog, KafkaSettings
from penstock.adapters.kubernetes import KubernetesClient, KubernetesRegistry
from penstock.adapters.kubernetes.watching import Follower, Snapshot
from penstock.adapters.sqlite import SqliteLedger
from penstock.codec import encode
from penstock.follow import RecordFollower
from penstock.model import (
    TOPIC_COMMANDS,
    TOPIC_EVENTS,
    BucketEvent,
    Command,
    CommandKind,
    Function,
    Phase,
    Record,
    StorageIO,
)
from penstock.ports import LogEntry, RecordQuery
from tests.kubernetes import support as cluster
from tests.testbed.bed import Bed
from tests.testbed.paths import REPOSITORY

#: Simulated nodes are slow on a machine that others use too: a step of theirs then takes half a minute.
PATIENCE_S = 240.0
NODE_LABEL = {"penstock.test/stage": "kwok"}
PARTITIONS = 4
_numbers = itertools.count()


class Program:
    """One `python -m dispatcher`."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path, ports: Path) -> None:
        self.process = process
        self.log = log
        self._ports = ports

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def end(self, seconds: float = 30.0) -> int:
        """SIGTERM; returns the exit code."""
        self.process.terminate()
        async with asyncio.timeout(seconds):
            return await self.process.wait()

    def lines(self) -> list[dict[str, Any]]:
        found = []
        for line in self.log.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return found

    def said(self, action: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line.get("action") == action]

    @property
    def times_active(self) -> int:
        return len(self.said("active"))

    async def ready(self) -> bool:
        return bool(self.said("start")) and (await self.probe("/ready"))[0] == 200

    async def probe(self, path: str) -> tuple[int, str]:
        """Status and text of one of its probes."""
        import aiohttp  # noqa: PLC0415 - here alone

        address = self.said("start")[-1]["probes"]
        async with aiohttp.ClientSession() as session, session.get(f"http://{address}{path}") as answer:
            return answer.status, await answer.text()


class Stage:
    def __init__(self, bed: Bed, folder: Path, api: KubernetesClient) -> None:
        self.bed = bed
        self.folder = folder
        self.api = api
        self.prefix = f"d{secrets.token_hex(4)}-"
        self.namespace = f"stage-{next(_numbers)}-{secrets.token_hex(3)}"
        self.programs: list[Program] = []
        #: Uids of all Jobs ever made, by name.
        self.jobs: dict[str, set[str]] = {}
        self.settings: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._names = itertools.count()
        self._ids = itertools.count()

    async def open(self, *, follow: bool = True) -> None:
        """`follow` = read the records and watch the Jobs; a benchmark spares the machine that."""
        await cluster.make_namespace(self.api, self.namespace, pods=follow)
        servers = str(self.bed.kafka.address)
        self.event_log = KafkaEventLog(KafkaSettings(servers=servers, prefix=self.prefix, partitions=PARTITIONS))
        self.ledger = await SqliteLedger.open(self.folder / "seen.sqlite")
        self.registry = KubernetesRegistry(self.api, namespace=self.namespace)
        if not follow:
            return
        self._tasks = [
            asyncio.create_task(RecordFollower(self.event_log, self.ledger).run(wait_s=1.0), name="stage: records"),
            asyncio.create_task(self._watch_jobs(), name="stage: jobs"),
        ]

    async def close(self) -> None:
        for program in self.programs:
            with contextlib.suppress(ProcessLookupError):
                program.send(signal.SIGCONT)
            await program.kill()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # Pods that wait for a place would be demand to the next test's scaler.
        gone = b'{"gracePeriodSeconds": 0, "propagationPolicy": "Background"}'
        for path in (cluster.jobs_path(self.namespace), cluster.pods_path(self.namespace)):
            await self.api.request("DELETE", path, gone, patience_s=300)
        await self.registry.close()
        await self.ledger.close()
        await self.event_log.close()

    async def _watch_jobs(self) -> None:
        follower: Follower[Job] = Follower(self.api, cluster.jobs_path(self.namespace), Job)
        async for news in follower.follow():
            for job in news.items if isinstance(news, Snapshot) else [news.item]:
                self.jobs.setdefault(job.metadata.name, set()).add(job.metadata.uid)

    # Processes

    def environment(self, state: str, **changes: str) -> dict[str, str]:
        minio = self.bed.minio
        given = {
            "PENSTOCK_SERVICE_LISTEN": "127.0.0.1:0",
            "PENSTOCK_LOG_FORMAT": "json",
            "PENSTOCK_KAFKA_SERVERS": str(self.bed.kafka.address),
            "PENSTOCK_KAFKA_PREFIX": self.prefix,
            "PENSTOCK_KAFKA_PARTITIONS": str(PARTITIONS),
            "PENSTOCK_KUBERNETES_KUBECONFIG": str(self.bed.kubernetes.kubeconfig),
            "PENSTOCK_KUBERNETES_NAMESPACE": self.namespace,
            "PENSTOCK_S3_ENDPOINT": minio.url,
            "PENSTOCK_S3_ACCESS_KEY": minio.user,
            "PENSTOCK_S3_SECRET_KEY": minio.password,
            "PENSTOCK_S3_ACCOUNTS": "none",
            "PENSTOCK_STATE_DATA": str(self.folder / state),
            "PENSTOCK_JOBS_RESULTS": "pod",
            "PENSTOCK_JOBS_GRACE_S": "1",
            "PENSTOCK_JOBS_NODE_SELECTOR": json.dumps(NODE_LABEL),
        }
        return {**os.environ, **given, **self.settings, **changes}

    async def start(self, state: str = "", **changes: str) -> Program:
        """Start a process with a state folder of this name (default: one of its own)."""
        number = next(self._names)
        log = self.folder / f"dispatcher-{number}.log"
        with log.open("wb") as sink:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "dispatcher",
                cwd=REPOSITORY,
                env=self.environment(state or f"state-{number}", **changes),
                stdout=sink,
                stderr=sink,
            )
        program = Program(process, log, self.folder)
        self.programs.append(program)
        return program

    async def active(self, program: Program, times: int = 1) -> float:
        """Wait until it is the active one (for the nth time); returns the seconds waited."""
        begun = time.monotonic()

        async def so() -> bool:
            assert program.process.returncode is None, program.log.read_text()[-3000:]
            return program.times_active >= times

        await self.until(so)
        return time.monotonic() - begun

    # What users do

    async def deploy(self, name: str = "work", **changes: Any) -> Function:
        fields: dict[str, Any] = {
            "image": "penstock.test/busybox:1",
            "script": "true\n",
            "inputs": (StorageIO(provider="minio", bucket="stage-in", folder=name),),
            "outputs": (StorageIO(provider="minio", bucket="stage-out", folder=name),),
            "deadline_s": 600,
        }
        return await self.registry.create(Function(name=name, **(fields | changes)))

    def events(self, function: Function, keys: Iterable[object], **changes: Any) -> list[BucketEvent]:
        now = int(time.time() * 1000)
        return [
            msgspec.structs.replace(
                BucketEvent(
                    bucket="stage-in",
                    key=f"{function.name}/{key}",
                    etag=f"e{key}",
                    size=1,
                    time_ms=1_700_000_000_000,
                    arrived_ms=now + 60_000,
                    hops=0,
                ),
                **changes,
            )
            for key in keys
        ]

    async def send(self, events: Iterable[BucketEvent]) -> None:
        entries = [LogEntry(f"{event.bucket}/{event.key}", encode(event)) for event in events]
        await self.event_log.append(TOPIC_EVENTS, entries)

    async def command(self, kind: CommandKind, function: Function, **fields: Any) -> None:
        command = Command(
            id=f"c{next(self._ids)}",
            kind=kind,
            time_ms=int(time.time() * 1000),
            function=function.name,
            function_uid=function.uid,
            **fields,
        )
        await self.event_log.append(TOPIC_COMMANDS, [LogEntry(function.uid, encode(command))])

    # What users see

    async def records(self, *phases: Phase) -> list[Record]:
        return (await self.ledger.query(RecordQuery(phases=frozenset(phases), limit=100_000))).records

    async def count(self, *phases: Phase) -> int:
        counts = await self.ledger.counts()
        return sum(number for of in counts.values() for phase, number in of.items() if phase in phases)

    async def until(self, condition: Callable[[], Awaitable[bool]], seconds: float = PATIENCE_S) -> None:
        async with asyncio.timeout(seconds):
            while not await condition():
                await asyncio.sleep(0.05)

    async def until_phase(self, phase: Phase, number: int, seconds: float = PATIENCE_S) -> None:
        async def so() -> bool:
            return await self.count(phase) >= number

        try:
            await self.until(so, seconds)
        except TimeoutError:
            counts = await self.ledger.counts()
            told = "\n".join(program.log.read_text(encoding="utf-8")[-1500:] for program in self.programs)
            raise AssertionError(f"{number} {phase} expected, there are {counts}; logs:\n{told}") from None

    async def until_no_jobs(self) -> None:
        """Every Job was deleted, since its final record is durable."""

        async def so() -> bool:
            return not await cluster.job_names(self.api, self.namespace)

        await self.until(so)

    async def check_one_job_each(self) -> None:
        """No Job was made twice, and none for what no record's timeline explains."""
        twice = {name: uids for name, uids in self.jobs.items() if len(uids) > 1}
        assert not twice
        records = await self.records()
        attempts = sum(len({mark.attempt for mark in one.timeline if mark.phase is Phase.PLANNED}) for one in records)
        assert len(self.jobs) == attempts

    async def check_jobs_are(self, number: int) -> None:
        assert sum(len(uids) for uids in self.jobs.values()) == number


@contextlib.asynccontextmanager
async def staged(bed: Bed, folder: Path) -> AsyncIterator[Stage]:
    await cluster.use(bed.kubernetes)
    async with cluster.client() as api:
        stage = Stage(bed, folder, api)
        await stage.open()
        try:
            yield stage
        finally:
            await stage.close()
