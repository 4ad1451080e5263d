"""A gateway that is killed while it creates a service: afterwards the service is there as a whole, or nothing of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.bucket_book import BucketBook
from gateway.deploy import Deployer
from gateway.intents import PREFIX
from penstock.adapters.kubernetes import KubernetesRegistry
from penstock.adapters.s3 import Credentials, S3Config, S3Store
from penstock.model import SYSTEM_BUCKET
from tests.oscar.world import service
from tests.production.platform import ADMIN_PASSWORD, Platform, Process
from tests.production_gateway.killing_wire import KillingWire
from tests.testbed.bed import Bed
from tests.testbed.errors import MissingPart
from tests.testbed.links import Address

pytestmark = [pytest.mark.components, pytest.mark.slow]

MOST_STEPS = 20


async def test_killed_at_any_change_it_is_whole_or_nothing(bed: Bed, tmp_path: Path) -> None:
    try:
        await bed.start("minio", "kafka", "kubernetes", "kwok")
    except MissingPart as missing:
        pytest.skip(str(missing))
    platform = Platform(bed, tmp_path, real=False)
    await platform.open()
    host, _, port = bed.minio.url.removeprefix("http://").partition(":")
    wire = KillingWire(Address(host, int(port)))
    try:
        async with wire.open():
            await _story(platform, wire)
    finally:
        await platform.close()


async def _story(platform: Platform, wire: KillingWire) -> None:
    outcomes: list[tuple[str, bool]] = []
    before: tuple[str, bool] | None = None
    for step in range(1, MOST_STEPS):
        gateway = await platform.start("gateway", PENSTOCK_S3_ENDPOINT=wire.url)
        await gateway.ready()
        if before is not None:
            # What the user does next: the same again. It works, or it is there already.
            assert await create(gateway, before[0]) == (409 if before[1] else 201), before
        name = f"cut-{step}-{platform.mark}"
        wire.arm(step, gateway.kill, after=step % 2 == 0)
        status = await create(gateway, name)
        if not wire.struck:
            assert status == 201
            assert await settled(platform, name)
            break
        assert status == 0, "nobody was told that it is done"
        before = (name, await settled(platform, name))
        outcomes.append((wire.struck, before[1]))
    else:
        raise AssertionError("it never got through")
    for what, whole in outcomes:
        print("whole" if whole else "undone", "after a kill at", what)  # noqa: T201 - where it was killed
    told = [whole for _, whole in outcomes]
    assert told == sorted(told), "undone up to some change, completed from there on"
    assert len(told) >= 6
    assert {True, False} == set(told)


async def create(gateway: Process, name: str) -> int:
    """As OSCAR's clients create; 0 = the connection broke."""
    body = service(name, output=[{"storage_provider": "minio", "path": f"{name}-out/out"}])
    auth = aiohttp.encode_basic_auth("oscar", ADMIN_PASSWORD)
    try:
        async with (
            aiohttp.ClientSession(headers={"Authorization": auth}) as session,
            session.post(f"{gateway.address}/system/services", json=body) as answer,
        ):
            assert answer.status in {201, 409}, await answer.text()
            return answer.status
    except aiohttp.ClientError:
        return 0


async def settled(platform: Platform, name: str) -> bool:
    """Clear up as the next gateway does once the deployment counts as abandoned; True = whole, False = nothing left."""
    minio = platform.bed.minio
    store = S3Store(S3Config(endpoint=minio.url, credentials=lambda: Credentials(minio.user, minio.password)))
    registry = KubernetesRegistry(platform.api, namespace=platform.namespace)
    try:
        await Deployer(registry=registry, store=store).recover(older_s=-60)
        functions = [one.name for one in await registry.list()]
        buckets = sorted(bucket for bucket in await store.buckets() if bucket.startswith(name))
        book = sorted(bucket for bucket in await BucketBook(store).all() if bucket.startswith(name))
        intents = [info.key async for page in store.list(SYSTEM_BUCKET, PREFIX) for info in page]
        markers: list[Any] = [[info.key async for page in store.list(bucket) for info in page] for bucket in buckets]
    finally:
        await registry.close()
        await store.close()
    whole = name in functions
    left = (buckets, book, markers, intents)
    assert left == (([name, f"{name}-out"],) * 2 + ([["in/"], ["out/"]], []) if whole else ([], [], [], [])), left
    return whole
