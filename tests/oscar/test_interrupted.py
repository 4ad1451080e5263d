"""A deployment that is broken off at any step is completed or undone: at once, or by the next start."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.access import ADMIN, Caller
from gateway.bucket_book import BucketBook
from gateway.deploy import Deployer
from gateway.intents import ABANDONED_S, PREFIX
from gateway.tidy import tidy
from penstock.adapters.directory import DirectoryStore
from penstock.adapters.sqlite import SqliteRegistry
from penstock.clock import now_ms
from penstock.errors import AlreadyExists, Unavailable
from penstock.model import SYSTEM_BUCKET, Function, ObjectInfo
from penstock.settings import HistorySettings
from tests.live import running
from tests.oscar.world import World, service, settings_with, world_of

CALLER = Caller(request_id="r", user="oscar", uid=ADMIN, admin=True, display="oscar")


class Killed(BaseException):
    """The process ends here: nothing after this line happens, no clean-up either."""


class Fragile:
    """Counts the writing calls of store and registry and fails at one of them, before or after it took effect."""

    def __init__(self, at: int, failure: BaseException, *, after: bool) -> None:
        self._at = at
        self._failure = failure
        self._after = after
        self.calls = 0
        #: Everything fails once it failed: a dead process writes nothing.
        self.dead = False

    def before(self) -> None:
        if self.dead:
            raise self._failure
        self.calls += 1
        if self.calls == self._at and not self._after:
            self._fail()

    def behind(self) -> None:
        if self.calls == self._at and self._after and not self.dead:
            self._fail()

    def _fail(self) -> None:
        self.dead = isinstance(self._failure, Killed)
        raise self._failure


class FragileStore(DirectoryStore):
    fragile: Fragile

    async def create_bucket(self, bucket: str) -> bool:
        self.fragile.before()
        made = await super().create_bucket(bucket)
        self.fragile.behind()
        return made

    async def delete_bucket(self, bucket: str) -> None:
        self.fragile.before()
        await super().delete_bucket(bucket)
        self.fragile.behind()

    async def write(
        self,
        bucket: str,
        key: str,
        data: AsyncIterator[bytes] | bytes,
        *,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        self.fragile.before()
        info = await super().write(bucket, key, data, metadata=metadata, if_absent=if_absent)
        self.fragile.behind()
        return info

    async def delete(self, bucket: str, key: str, *, version_id: str | None = None) -> None:
        self.fragile.before()
        await super().delete(bucket, key, version_id=version_id)
        self.fragile.behind()


class FragileRegistry:
    def __init__(self, registry: SqliteRegistry, fragile: Fragile) -> None:
        self._registry = registry
        self._fragile = fragile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._registry, name)

    async def create(self, function: Function) -> Function:
        self._fragile.before()
        made = await self._registry.create(function)
        self._fragile.behind()
        return made


class Bench:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Every composition makes it before anybody can deploy.
        (folder / "buckets" / SYSTEM_BUCKET).mkdir(parents=True, exist_ok=True)

    async def deploy(self, fragile: Fragile) -> None:
        store = FragileStore(self._folder / "buckets", settle_s=0)
        store.fragile = fragile
        registry = await SqliteRegistry.open(self._folder / "registry.sqlite")
        try:
            watched: Any = FragileRegistry(registry, fragile)
            deployer = Deployer(registry=watched, store=store)
            body = service(output=[{"storage_provider": "minio", "path": "results/out"}])
            await deployer.apply(await deployer.permit(await deployer.plan_service(body), CALLER))
        finally:
            await registry.close()
            await store.close()

    async def recover(self) -> None:
        store = DirectoryStore(self._folder / "buckets", settle_s=0)
        registry = await SqliteRegistry.open(self._folder / "registry.sqlite")
        try:
            await Deployer(registry=registry, store=store).recover(older_s=0)
        finally:
            await registry.close()
            await store.close()

    async def left(self) -> Left:
        """Functions, users' buckets, their entries, and intents."""
        store = DirectoryStore(self._folder / "buckets", settle_s=0)
        registry = await SqliteRegistry.open(self._folder / "registry.sqlite")
        try:
            functions = [one.name for one in await registry.list()]
            buckets = [name for name in await store.buckets() if name != SYSTEM_BUCKET]
            entries = sorted(await BucketBook(store).all()) if SYSTEM_BUCKET in await store.buckets() else []
            intents = []
            if SYSTEM_BUCKET in await store.buckets():
                intents = [one.key async for page in store.list(SYSTEM_BUCKET, PREFIX) for one in page]
        finally:
            await registry.close()
            await store.close()
        return functions, buckets, entries, intents


Left = tuple[list[str], list[str], list[str], list[str]]
WHOLE: Left = (["copy"], ["copy", "results"], ["copy", "results"], [])
NOTHING: Left = ([], [], [], [])
MOST_STEPS = 30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Bench(tmp_path)
    return tmp_path


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_killed_at_any_step_it_is_whole_or_nothing_after_the_next_start(tmp_path: Path, after: bool) -> None:
    outcomes = []
    for step in range(1, MOST_STEPS):
        folder = tmp_path / str(step)
        bench, fragile = Bench(folder), Fragile(step, Killed(), after=after)
        try:
            await bench.deploy(fragile)
        except Killed:
            await bench.recover()
            left = await bench.left()
            assert left in (WHOLE, NOTHING), (step, left)
            outcomes.append(left == WHOLE)
            continue
        break
    else:
        raise AssertionError("it never got through")
    assert outcomes == sorted(outcomes), "undone up to some step, completed from there on"
    assert True in outcomes
    assert False in outcomes
    assert await bench.left() == WHOLE


async def test_an_error_at_any_step_leaves_nothing_at_once(tmp_path: Path) -> None:
    for step in range(1, MOST_STEPS):
        folder = tmp_path / str(step)
        bench, fragile = Bench(folder), Fragile(step, Unavailable("the store is away for a moment"), after=False)
        try:
            await bench.deploy(fragile)
        except Unavailable:
            functions, buckets, entries, _ = left = await bench.left()
            assert (functions, buckets, entries) in (NOTHING[:3], WHOLE[:3]), (step, left)
            await bench.recover()
            assert await bench.left() in (NOTHING, WHOLE), step
            continue
        break
    assert await bench.left() == WHOLE


async def test_a_name_that_was_taken_meanwhile_undoes_the_buckets(folder: Path) -> None:
    await Bench(folder).deploy(Fragile(0, Killed(), after=False))
    bench = Bench(folder)
    fragile = Fragile(10_000, Killed(), after=False)
    store = FragileStore(folder / "buckets", settle_s=0)
    store.fragile = fragile
    registry = await SqliteRegistry.open(folder / "registry.sqlite")
    try:
        deployer = Deployer(registry=registry, store=store)
        late = await deployer.plan_service(service("late", output=[]))
        await registry.create(Function(name="late"))
        with pytest.raises(AlreadyExists):
            await deployer.apply(await deployer.permit(late, CALLER))
        await registry.delete("late")
    finally:
        await registry.close()
        await store.close()
    assert await bench.left() == WHOLE


async def test_a_bucket_that_somebody_has_used_meanwhile_is_kept(folder: Path) -> None:
    bench = Bench(folder)
    for step in range(1, MOST_STEPS):
        fragile = Fragile(step, Killed(), after=True)
        try:
            await bench.deploy(fragile)
        except Killed:
            if (folder / "buckets/results").is_dir():
                break
    (folder / "buckets/results/theirs.txt").write_text("data")
    await bench.recover()
    functions, buckets, _, intents = await bench.left()
    assert (functions, buckets, intents) == ([], ["results"], [])
    assert (folder / "buckets/results/theirs.txt").read_text() == "data"


async def test_a_deployment_under_way_elsewhere_is_left_alone(folder: Path) -> None:
    bench = Bench(folder)
    with pytest.raises(Killed):
        await bench.deploy(Fragile(3, Killed(), after=True))
    store = DirectoryStore(folder / "buckets", settle_s=0)
    registry = await SqliteRegistry.open(folder / "registry.sqlite")
    try:
        deployer = Deployer(registry=registry, store=store)
        await tidy(deployer, store, HistorySettings(), now_ms())
        assert (await bench.left())[3], "young intents belong to somebody"
        assert await deployer.recover(older_s=-ABANDONED_S) == 1
    finally:
        await registry.close()
        await store.close()
    assert await bench.left() == NOTHING


async def test_the_next_start_clears_up(tmp_path: Path) -> None:
    async with world_of(tmp_path / "data") as world:
        await world.create("kept")
        issuer = world.issuer
    bench = tmp_path / "data"
    store = FragileStore(bench / "buckets", settle_s=0)
    store.fragile = Fragile(6, Killed(), after=True)
    registry = await SqliteRegistry.open(bench / "db" / "registry.sqlite")
    try:
        deployer = Deployer(registry=registry, store=store)
        with pytest.raises(Killed):
            await deployer.apply(await deployer.permit(await deployer.plan_service(service("cut")), CALLER))
    finally:
        await registry.close()
        await store.close()
    assert (bench / "buckets/cut").is_dir()
    async with running(settings_with(bench, issuer, oidc_issuers="")):
        assert not (bench / "buckets/cut").exists()
        assert (bench / "buckets/kept").is_dir()


async def test_a_refused_create_over_http_leaves_nothing(world: World) -> None:
    who = world.bearer("bob")
    await world.ask("POST", "/system/buckets", {"bucket_name": "foreign"})
    body = service("mine", output=[{"storage_provider": "minio", "path": "foreign/out"}])
    assert (await world.ask("POST", "/system/services", body, who=who)).status == 409
    assert (await world.ask("GET", "/system/buckets", who=who)).json == []
    assert not (world.platform.data / "buckets/mine").exists()
