"""The contract of `penstock.ports.Registry`, run against every adapter in ADAPTERS."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path

import msgspec
import pytest

from gateway.table import FunctionTable
from penstock.adapters.sqlite import SqliteRegistry
from penstock.errors import AlreadyExists, Closed, Conflict, NotFound
from penstock.model import Function, Limits, StorageIO
from penstock.ports import ChangeKind, FunctionChange, Registry
from tests.kubernetes.support import kubernetes_registry, use

Factory = Callable[[Path], AbstractAsyncContextManager[Registry]]
#: Long enough for a slow machine; reached only when something hangs.
PATIENCE_S = 30.0


@contextlib.asynccontextmanager
async def sqlite(folder: Path) -> AsyncIterator[Registry]:
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    registry = await SqliteRegistry.open(folder / "registry.db")
    try:
        yield registry
    finally:
        await registry.close()


@contextlib.asynccontextmanager
async def table(folder: Path) -> AsyncIterator[Registry]:
    """The gateway's functions in memory, current, over a registry."""
    async with sqlite(folder) as below:
        made = FunctionTable(below)
        following = asyncio.create_task(made.run(), name="table")
        try:
            await made.synced.wait()
            yield made
        finally:
            following.cancel()
            await asyncio.wait({following})


ADAPTERS: list[tuple[str, Factory]] = [("sqlite", sqlite), ("table", table), ("kubernetes", kubernetes_registry)]
#: These need real servers from the test bed.
COMPONENTS = {"kubernetes"}
#: These see what others change when their own watch tells them, a moment later.
FOLLOWS = {table}


@pytest.fixture(
    params=[pytest.param(one, marks=[pytest.mark.components] * (one[0] in COMPONENTS), id=one[0]) for one in ADAPTERS]
)
async def factory(request: pytest.FixtureRequest) -> Factory:
    name, chosen = request.param
    if name in COMPONENTS:
        await use(request.getfixturevalue(name))
    made: Factory = chosen
    return made


@pytest.fixture
async def registry(factory: Factory, tmp_path: Path) -> AsyncIterator[Registry]:
    async with factory(tmp_path / "registry") as opened:
        yield opened


def function(name: str, script: str = "#!/bin/sh\n", token: str = "") -> Function:
    return Function(
        name=name,
        script=script,
        token=token,
        inputs=(StorageIO(provider="minio", bucket="in", folder="a/b", suffix=(".png",)),),
        environment={"A": "ünï"},
        secrets={"KEY": "hidden"},
        storage_providers={"s3": {"far": {"access_key": "AK", "secret_key": "swordfish", "verify": True}}},
        limits=Limits(concurrency=2),
        definition={"name": name, "nested": {"list": [1, "2", None]}},
    )


class Watching:
    """A watch whose changes a test can wait for, one by one."""

    def __init__(self, registry: Registry) -> None:
        self._changes = registry.watch()

    async def next(self) -> tuple[ChangeKind, Function | None]:
        change: FunctionChange = await asyncio.wait_for(anext(self._changes), PATIENCE_S)
        return change.kind, change.function

    async def synced(self) -> list[str]:
        """Names of everything up to the mark."""
        names: list[str] = []
        while (item := await self.next())[0] is not ChangeKind.SYNCED:
            assert item[0] is ChangeKind.PUT
            assert item[1] is not None
            names.append(item[1].name)
        return names

    async def aclose(self) -> None:
        await self._changes.aclose()  # type: ignore[attr-defined]


# Create, replace, delete


async def test_a_function_comes_back_as_it_was_created(registry: Registry) -> None:
    given = function("classify")
    made = await registry.create(given)
    assert made == await registry.get("classify") == (await registry.list())[0]
    assert made.generation == 1
    assert made.created_ms == made.updated_ms > 0
    assert len(made.uid) == 32
    assert len(made.token) == 64
    same = msgspec.structs.replace(made, uid="", token="", created_ms=0, updated_ms=0)
    assert same == given


async def test_a_given_token_is_kept_and_a_given_uid_is_not(registry: Registry) -> None:
    made = await registry.create(msgspec.structs.replace(function("f", token="mine"), uid="chosen", generation=7))
    assert made.token == "mine"
    assert made.uid != "chosen"
    assert made.generation == 1


async def test_a_taken_name_is_refused_and_nothing_changes(registry: Registry) -> None:
    made = await registry.create(function("f"))
    revision = await registry.revision()
    with pytest.raises(AlreadyExists, match="f exists already"):
        await registry.create(function("f", "other"))
    assert await registry.list() == [made]
    assert await registry.revision() == revision


async def test_only_one_of_many_creates_wins(registry: Registry) -> None:
    outcomes = await asyncio.gather(
        *(registry.create(function("f", str(n))) for n in range(20)), return_exceptions=True
    )
    (winner,) = [outcome for outcome in outcomes if isinstance(outcome, Function)]
    assert sum(isinstance(outcome, AlreadyExists) for outcome in outcomes) == 19
    assert await registry.get("f") == winner


async def test_replace_keeps_who_it_is_and_counts_generations(registry: Registry) -> None:
    made = await registry.create(msgspec.structs.replace(function("f"), owner="ada"))
    new = await registry.replace(msgspec.structs.replace(function("f", "new", token="other"), owner="eve", uid="x"))
    assert (new.uid, new.token, new.owner, new.created_ms) == (made.uid, made.token, "ada", made.created_ms)
    assert new.generation == 2
    assert new.updated_ms >= made.updated_ms
    assert new.script == "new"
    assert await registry.get("f") == new


async def test_replace_of_an_old_generation_conflicts(registry: Registry) -> None:
    await registry.create(function("f"))
    await registry.replace(function("f", "second"), generation=1)
    with pytest.raises(Conflict, match="generation 2, not 1"):
        await registry.replace(function("f", "third"), generation=1)
    assert (await registry.get("f")).script == "second"


async def test_concurrent_replaces_each_count(registry: Registry) -> None:
    await registry.create(function("f"))
    made = await asyncio.gather(*(registry.replace(function("f", str(n))) for n in range(20)))
    assert sorted(new.generation for new in made) == list(range(2, 22))
    assert await registry.get("f") == max(made, key=lambda new: new.generation)


async def test_what_is_not_there_is_not_found(registry: Registry) -> None:
    for call in (registry.get("no"), registry.replace(function("no")), registry.delete("no")):
        with pytest.raises(NotFound, match="no function named no"):
            await call


async def test_delete_returns_what_was_there_and_a_new_one_is_another(registry: Registry) -> None:
    made = await registry.create(function("f"))
    assert await registry.delete("f") == made
    assert await registry.list() == []
    again = await registry.create(function("f"))
    assert again.uid != made.uid
    assert again.token != made.token
    assert again.generation == 1


async def test_the_list_is_in_order_of_name(registry: Registry) -> None:
    for name in ("b", "a-2", "c", "a"):
        await registry.create(function(name))
    assert [item.name for item in await registry.list()] == ["a", "a-2", "b", "c"]


async def test_the_revision_differs_after_every_change(registry: Registry) -> None:
    seen = [await registry.revision()]
    for change in (
        registry.create(function("f")), registry.create(function("g")), registry.replace(function("f")),
        registry.delete("g"), registry.delete("f"),
    ):  # fmt: skip
        await change
        seen.append(await registry.revision())
        assert await registry.revision() == seen[-1]
    assert len(set(seen)) == len(seen)


async def test_functions_survive_another_opening(factory: Factory, tmp_path: Path) -> None:
    async with factory(tmp_path / "r") as registry:
        made = await registry.create(function("f"))
        revision = await registry.revision()
    async with factory(tmp_path / "r") as registry:
        assert await registry.list() == [made]
        assert await registry.revision() == revision


# Watch


async def test_a_watch_begins_with_everything_there_is(registry: Registry) -> None:
    async with aclosing(Watching(registry)) as watching:
        assert await watching.synced() == []
    for name in ("a", "b"):
        await registry.create(function(name))
    async with aclosing(Watching(registry)) as watching:
        assert await watching.synced() == ["a", "b"]


async def test_a_watch_tells_each_change(registry: Registry) -> None:
    async with aclosing(Watching(registry)) as watching:
        await watching.synced()
        made = await registry.create(function("f"))
        assert await watching.next() == (ChangeKind.PUT, made)
        new = await registry.replace(function("f", "new"))
        assert await watching.next() == (ChangeKind.PUT, new)
        await registry.delete("f")
        assert await watching.next() == (ChangeKind.DELETED, new)


async def test_a_watch_never_loses_the_last_state(registry: Registry) -> None:
    async with aclosing(Watching(registry)) as watching:
        await watching.synced()
        await registry.create(function("f"))
        for n in range(10):
            last = await registry.replace(function("f", str(n)))
        while (await watching.next())[1] != last:
            pass


async def test_a_name_made_anew_is_seen_as_deleted_and_put(registry: Registry) -> None:
    old = await registry.create(function("f"))
    async with aclosing(Watching(registry)) as watching:
        await watching.synced()
        await registry.delete("f")
        new = await registry.create(function("f"))
        assert await watching.next() == (ChangeKind.DELETED, old)
        assert await watching.next() == (ChangeKind.PUT, new)


async def told(factory: Factory, read: Callable[[], Awaitable[object]], wanted: object) -> None:
    """Wait for the watch of an instance that only follows."""
    if factory in FOLLOWS:
        async with asyncio.timeout(PATIENCE_S):
            while await read() != wanted:
                await asyncio.sleep(0)


async def test_several_instances_see_each_other(factory: Factory, tmp_path: Path) -> None:
    async with factory(tmp_path / "r") as one, factory(tmp_path / "r") as two, aclosing(Watching(two)) as watching:
        await watching.synced()
        before = await two.revision()
        made = await one.create(function("f"))
        assert await two.revision() != before
        await told(factory, two.list, [made])
        assert await two.list() == [made]
        assert await watching.next() == (ChangeKind.PUT, made)
        new = await two.replace(function("f", "new"), generation=1)
        await told(factory, lambda: one.get("f"), new)
        assert await one.get("f") == new
        with pytest.raises(Conflict):
            await one.replace(function("f"), generation=1)


async def test_writes_of_several_instances_do_not_disturb_each_other(factory: Factory, tmp_path: Path) -> None:
    async with factory(tmp_path / "r") as one, factory(tmp_path / "r") as two:
        await one.create(function("f"))
        both = [registry.replace(function("f")) for _ in range(20) for registry in (one, two)]
        assert sorted(new.generation for new in await asyncio.gather(*both)) == list(range(2, 42))


async def test_closing_ends_a_watch(factory: Factory, tmp_path: Path) -> None:
    async with factory(tmp_path / "r") as registry:
        async with aclosing(Watching(registry)) as watching:
            await watching.synced()
            waiting = asyncio.create_task(watching.next())
            await asyncio.sleep(0)
            await registry.close()
            with pytest.raises(StopAsyncIteration):
                await asyncio.wait_for(waiting, PATIENCE_S)
        with pytest.raises(Closed):
            await registry.list()
