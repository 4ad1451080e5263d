"""A dispatcher on the real log, ledger, registry and store, with a scripted runner: what service tests stand on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry

from dispatcher.service import Dispatcher
from dispatcher.settings import DispatcherSettings
from penstock.adapters.directory import DirectoryStore
from penstock.adapters.sqlite import SqliteEventLog, SqliteLedger, SqliteRegistry
from penstock.codec import encode
from penstock.model import (
    TOPIC_COMMANDS,
    TOPIC_EVENTS,
    BucketEvent,
    Command,
    CommandKind,
    Function,
    Phase,
    Record,
    Submission,
)
from penstock.ports import LogEntry, RecordQuery
from tests.dispatcher.scripted_runner import ScriptedRunner
from tests.factories import NOW, make_function

PATIENCE_S = 10.0
QUICK = DispatcherSettings(retry_base_s=0.001, retry_limit_s=0.002)


class DispatcherBench:
    """The parts in one folder; `life` starts a dispatcher on them, again and again."""

    def __init__(self, folder: Path, settings: DispatcherSettings = QUICK) -> None:
        self.folder = folder
        self.settings = settings
        self.runner = ScriptedRunner()
        self._ids = 0

    async def open(self) -> None:
        self.log = await SqliteEventLog.open(self.folder / "log.db")
        self.ledger = await SqliteLedger.open(self.folder / "ledger.db")
        self.registry = await SqliteRegistry.open(self.folder / "registry.db")
        self.store = DirectoryStore(self.folder / "buckets", settle_s=0.0)
        await self.store.create_bucket("photos")

    async def close(self) -> None:
        for part in (self.registry, self.ledger, self.log, self.store):
            await part.close()

    @asynccontextmanager
    async def life(self) -> AsyncIterator[Dispatcher]:
        self.collector = CollectorRegistry()
        dispatcher = Dispatcher(
            log=self.log,
            ledger=self.ledger,
            registry=self.registry,
            runner=self.runner,
            store=self.store,
            settings=self.settings,
            metrics=self.collector,
        )
        ready = asyncio.Event()
        task = asyncio.create_task(dispatcher.run(ready), name="dispatcher")
        waiter = asyncio.create_task(ready.wait(), name="ready")
        await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE_S)
        waiter.cancel()
        if task.done():
            task.result()
        try:
            yield dispatcher
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # ---- what users do

    async def deploy(self, name: str = "thumbs", **changes: Any) -> Function:
        return await self.registry.create(msgspec.structs.replace(make_function(name, **changes), uid="", token=""))

    async def event(self, *events: BucketEvent) -> None:
        await self.log.append(TOPIC_EVENTS, [LogEntry(f"{e.bucket}/{e.key}", encode(e)) for e in events])

    async def raw(self, value: bytes) -> None:
        await self.log.append(TOPIC_EVENTS, [LogEntry("raw", value)])

    async def submit(self, function: Function, body: bytes) -> Submission:
        self._ids += 1
        submission = Submission(
            function=function.name, function_uid=function.uid, id=f"s{self._ids}", time_ms=NOW, body=body
        )
        await self.log.append(TOPIC_EVENTS, [LogEntry(function.name, encode(submission))])
        return submission

    async def command(self, kind: CommandKind, function: Function | None = None, **fields: Any) -> None:
        self._ids += 1
        if function is not None:
            fields |= {"function": function.name, "function_uid": function.uid}
        command = Command(id=f"c{self._ids}", kind=kind, time_ms=NOW, **fields)
        await self.log.append(TOPIC_COMMANDS, [LogEntry(command.function_uid, encode(command))])

    # ---- what users see

    async def records(self, *phases: Phase) -> list[Record]:
        return (await self.ledger.query(RecordQuery(phases=frozenset(phases), limit=10_000))).records

    async def until(self, done: Callable[[], Awaitable[bool]]) -> None:
        """Wait for a condition, at most PATIENCE_S."""
        async with asyncio.timeout(PATIENCE_S):
            while not await done():
                await asyncio.sleep(0.005)

    async def until_submitted(self, count: int) -> None:
        async def done() -> bool:
            return len(self.runner.submitted) >= count

        await self.until(done)

    async def until_phase(self, phase: Phase, count: int = 1) -> list[Record]:
        async def done() -> bool:
            return len(await self.records(phase)) >= count

        await self.until(done)
        return await self.records(phase)
