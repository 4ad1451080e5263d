"""What the platform needs of MinIO beside objects: presigned URLs, notification rules and the events, tags."""

from __future__ import annotations

import json

import aiohttp
import pytest
from yarl import URL

from penstock.adapters.s3 import S3Config, S3Store
from penstock.adapters.s3.notifications import CREATED, Notifications, Rule
from penstock.adapters.s3.presign import presigned_url
from penstock.adapters.s3.tags import BucketTags
from penstock.errors import (
    InvalidInput,
    NotFound,
)
from tests.adapters.s3.support import config_of, content, every, pieces
from tests.components.helpers import sink
from tests.testbed.minio import Minio
from watcher.translate import translate

pytestmark = pytest.mark.components
MIB = 1024 * 1024


# Beside the port


async def test_presigned_urls_work_without_an_account(minio: Minio, store: S3Store, bucket: str) -> None:
    config = config_of(minio, direct=True)
    key = "a b+/ü%.txt"
    async with aiohttp.ClientSession() as session:

        async def status(method: str, url: str, data: bytes | None = None) -> int:
            async with session.request(method, URL(url, encoded=True), data=data) as response:
                await response.read()
                return response.status

        assert await status("PUT", presigned_url(config, "PUT", bucket, key, expires_s=60), b"hello") == 200
        assert await content(store, bucket, key) == b"hello"
        url = presigned_url(config, "GET", bucket, key, expires_s=60)
        assert await status("GET", url) == 200
        assert await status("GET", url.replace("a%20b", "a%20c")) == 403
        old = presigned_url(
            S3Config(endpoint=config.endpoint, credentials=config.credentials, clock=lambda: config.clock() - 100),
            "GET",
            bucket,
            key,
            expires_s=60,
        )
        assert await status("GET", old) == 403
    for wrong in (0, 604_801):
        with pytest.raises(InvalidInput, match="expires_s"):
            presigned_url(config, "GET", bucket, key, expires_s=wrong)
    with pytest.raises(InvalidInput, match="method"):
        presigned_url(config, "POST", bucket, key, expires_s=60)


async def test_notification_rules(minio: Minio, store: S3Store, bucket: str) -> None:
    notifications = Notifications(store.client)
    assert await notifications.get(bucket) == []
    rules = [
        Rule(id="one", arn=minio.WEBHOOK_ARN, prefix="in/a b&ü/", suffix=".png"),
        Rule(id="two", arn=minio.KAFKA_ARN, events=("s3:ObjectRemoved:*",)),
    ]
    await notifications.put(bucket, rules)
    found = {rule.id: rule for rule in await notifications.get(bucket)}
    assert found["one"].prefix == "in/a b&ü/"
    assert found["one"].suffix == ".png"
    assert set(found["one"].events) == set(CREATED)
    assert found["two"].arn == minio.KAFKA_ARN
    await notifications.put(bucket, [])
    assert await notifications.get(bucket) == []
    with pytest.raises(InvalidInput):
        await notifications.put(bucket, [Rule(id="x", arn="arn:minio:sqs::NOWHERE:webhook")])
    with pytest.raises(NotFound, match="no-such"):
        await notifications.get("no-such")


async def test_bucket_tags(store: S3Store, bucket: str) -> None:
    tags = BucketTags(store.client)
    assert await tags.get(bucket) == {}
    await tags.put(bucket, {"penstock.dev/owner": "me + you", "empty": ""})
    assert await tags.get(bucket) == {"penstock.dev/owner": "me + you", "empty": ""}
    await tags.put(bucket, {})
    assert await tags.get(bucket) == {}
    with pytest.raises(NotFound, match="no-such"):
        await tags.get("no-such")


# Events


@pytest.mark.parametrize("versions", [False, True])
async def test_a_pushed_event_is_the_object_that_a_listing_shows(
    minio: Minio, store: S3Store, bucket: str, *, versions: bool
) -> None:
    if versions:
        await store.enable_versioning(bucket)
    key = "in/a b+c%2F ü.png"
    async with sink() as receiver:
        await minio.send_webhooks_to(receiver.address)
        await Notifications(store.client).put(bucket, [Rule(id="r", arn=minio.WEBHOOK_ARN)])
        written = [
            await store.write(bucket, key, b"123", metadata={"penstock-hops": "2"}),
            await store.write(bucket, key, pieces(bytes(9 * MIB)), metadata={"penstock-hops": "2"}),
        ]
        records = await receiver.until(2)
        await minio.send_webhooks_to(None)
    events = [event for record in records for event in translate(json.dumps(record).encode()).events]
    # The server's workers send in parallel.
    assert {event.identity for event in events} == {info.identity for info in written}
    assert {(event.time_ms, event.version_id, event.hops) for event in events} == {
        (info.modified_ms, info.version_id, 2) for info in written
    }
    listed = await every(store.list_versions(bucket))
    assert {info.identity for info in listed} == {info.identity for info in (written if versions else written[1:])}
