"""Composes the adapters of one profile. Only the composition roots (`gateway.embedded`, `*/__main__`) import this.

What is opened here is closed here, in reverse order, whatever happens in between.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from penstock.adapters.directory import DirectoryStore
from penstock.adapters.sqlite import SqliteEventLog, SqliteLedger, SqliteRegistry, open_view
from penstock.model import SYSTEM_BUCKET


@dataclass(frozen=True, kw_only=True)
class EmbeddedParts:
    """The adapters of embedded mode."""

    store: DirectoryStore
    #: The same folders as people see them: a file is listed as soon as nobody writes it any more, without settle time.
    browse: DirectoryStore
    log: SqliteEventLog
    registry: SqliteRegistry
    ledger: SqliteLedger


@asynccontextmanager
async def embedded_parts(*, buckets: Path, databases: Path, settle_s: float) -> AsyncIterator[EmbeddedParts]:
    """Open log, registry, ledger and store. The ledger is brought up to the end of the log; one that is missing,
    damaged or of another log is rebuilt from it. Raises Corrupt, Unsupported, Unavailable, OutOfSpace.
    """
    async with AsyncExitStack() as stack:
        store = DirectoryStore(buckets, settle_s=settle_s)
        stack.push_async_callback(store.close)
        browse = DirectoryStore(buckets, settle_s=0.0)
        stack.push_async_callback(browse.close)
        await store.create_bucket(SYSTEM_BUCKET)
        log = await SqliteEventLog.open(databases / "log.sqlite")
        stack.push_async_callback(log.close)
        registry = await SqliteRegistry.open(databases / "registry.sqlite")
        stack.push_async_callback(registry.close)
        ledger = await open_view(databases / "ledger.sqlite", log)
        stack.push_async_callback(ledger.close)
        yield EmbeddedParts(store=store, browse=browse, log=log, registry=registry, ledger=ledger)
