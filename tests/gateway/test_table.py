"""The table of functions in memory: current at once for whoever changes, soon for everybody else, never wrong."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.table import FunctionTable
from penstock.adapters.sqlite import SqliteRegistry
from penstock.errors import AlreadyExists, Conflict, NotFound, Unavailable
from penstock.model import Function
from penstock.ports import ChangeKind, FunctionChange
from tests.factories import make_function

PATIENCE_S = 20.0


@asynccontextmanager
async def followed(path: Path) -> AsyncIterator[tuple[FunctionTable, SqliteRegistry]]:
    """A table that follows, and a registry of another process over the same file."""
    registry, other = await SqliteRegistry.open(path), await SqliteRegistry.open(path)
    table = FunctionTable(registry)
    task = asyncio.create_task(table.run(), name="table")
    try:
        yield table, other
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await registry.close()
        await other.close()


async def seen(table: FunctionTable, *names: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while sorted(one.name for one in table.known()) != sorted(names):
            await asyncio.sleep(0.01)


async def test_own_changes_are_there_at_once_and_those_of_others_soon(tmp_path: Path) -> None:
    async with followed(tmp_path / "r.sqlite") as (table, other):
        made = await table.create(make_function("mine"))
        assert table.find("mine") == made == await table.get("mine")
        changed = await table.replace(made, generation=made.generation)
        assert table.find("mine") == changed
        await other.create(make_function("theirs"))
        await seen(table, "mine", "theirs")
        await other.delete("mine")
        await seen(table, "theirs")
        assert [one.name for one in await table.list()] == ["theirs"]
        await table.delete("theirs")
        assert (table.find("theirs"), await table.list()) == (None, [])
        again = await table.create(make_function("theirs"))
        assert table.find("theirs") == again


async def test_before_it_has_heard_anything_it_asks(tmp_path: Path) -> None:
    registry = await SqliteRegistry.open(tmp_path / "r.sqlite")
    try:
        await registry.create(make_function("old"))
        table = FunctionTable(registry)
        assert (table.find("old"), table.synced.is_set()) == (None, False)
        assert [one.name for one in await table.list()] == ["old"]
        assert (await table.get("old")).name == "old"
        with pytest.raises(NotFound):
            await table.get("new")
    finally:
        await registry.close()


async def test_refusals_change_nothing(tmp_path: Path) -> None:
    async with followed(tmp_path / "r.sqlite") as (table, other):
        made = await table.create(make_function("one"))
        with pytest.raises(AlreadyExists):
            await table.create(make_function("one"))
        await other.replace(made)
        with pytest.raises(Conflict):
            await table.replace(made, generation=made.generation)
        with pytest.raises(NotFound):
            await table.delete("two")
        found = table.find("one")
        assert found is not None
        assert found.uid == made.uid


class Watched:
    """A registry whose watch says what the test wants, when it wants."""

    def __init__(self) -> None:
        self.words: asyncio.Queue[FunctionChange | Exception | None] = asyncio.Queue()
        self.there: dict[str, Function] = {}

    async def watch(self) -> AsyncIterator[FunctionChange]:
        while (word := await self.words.get()) is not None:
            if isinstance(word, Exception):
                raise word
            yield word

    async def create(self, function: Function) -> Function:
        self.there[function.name] = function
        return function

    async def replace(self, function: Function, *, generation: int | None = None) -> Function:
        self.there[function.name] = function
        return function

    async def get(self, name: str) -> Function:
        if name not in self.there:
            raise NotFound(name)
        return self.there[name]

    async def list(self) -> builtins.list[Function]:
        return [*self.there.values()]

    async def revision(self) -> str:
        return ""

    async def delete(self, name: str) -> Function:
        return self.there.pop(name)

    async def close(self) -> None:
        return


async def test_a_late_word_of_the_watch_changes_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was heard late, after an outage too: older generations, and functions that were deleted here."""
    monkeypatch.setattr("gateway.table.RETRY_S", 0.01)
    watched = Watched()
    table = FunctionTable(watched)
    task = asyncio.create_task(table.run(), name="table")
    one, two = make_function("one", generation=1), make_function("two")
    for word in (FunctionChange(ChangeKind.PUT, one), FunctionChange(ChangeKind.PUT, two)):
        watched.words.put_nowait(word)
    watched.words.put_nowait(FunctionChange(ChangeKind.SYNCED))
    await table.synced.wait()
    newer = await table.replace(make_function("one", generation=2))
    watched.there["two"] = two
    await table.delete("two")
    for late in (one, two):
        watched.words.put_nowait(FunctionChange(ChangeKind.PUT, late))
    watched.words.put_nowait(FunctionChange(ChangeKind.DELETED, make_function("one", uid="an-older-one")))
    watched.words.put_nowait(Unavailable("away"))
    three = await table.create(make_function("three"))
    watched.words.put_nowait(FunctionChange(ChangeKind.PUT, newer))
    watched.words.put_nowait(FunctionChange(ChangeKind.SYNCED))
    watched.words.put_nowait(None)
    async with asyncio.timeout(PATIENCE_S):
        await task
    assert {one.name: one for one in await table.list()} == {"one": newer, "three": three}
