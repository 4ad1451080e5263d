"""MinIO: objects, the three ways of telling about them, and every fault."""

from __future__ import annotations

import asyncio
import io
import time

import pytest
from aiokafka import AIOKafkaConsumer  # type: ignore[import-untyped,unused-ignore]
from minio import Minio as Client
from minio.error import S3Error
from minio.notificationconfig import NotificationConfig, QueueConfig
from urllib3.exceptions import HTTPError

from tests.components.helpers import sink, until
from tests.testbed import Bed
from tests.testbed.kafka import Kafka
from tests.testbed.links import Cut
from tests.testbed.minio import Minio

pytestmark = pytest.mark.components

CREATED = ["s3:ObjectCreated:Put"]


def put(client: Client, bucket: str, key: str, content: bytes = b"x") -> None:
    client.put_object(bucket, key, io.BytesIO(content), len(content))


async def bucket_with_rule(minio: Minio, name: str, *targets: str) -> Client:
    client = minio.client()
    await asyncio.to_thread(client.make_bucket, name)
    rules = [QueueConfig(queue=target, events=CREATED) for target in targets]
    await asyncio.to_thread(client.set_bucket_notification, name, NotificationConfig(queue_config_list=rules))
    return client


async def test_an_object_is_stored_listed_and_read_back(minio: Minio) -> None:
    client = minio.client()
    await asyncio.to_thread(client.make_bucket, "plain")
    await asyncio.to_thread(put, client, "plain", "a/b.txt", b"hello")
    listed = await asyncio.to_thread(list, client.list_objects("plain", recursive=True))
    assert [entry.object_name for entry in listed] == ["a/b.txt"]
    response = await asyncio.to_thread(client.get_object, "plain", "a/b.txt")
    assert response.read() == b"hello"
    response.close()
    response.release_conn()


async def test_an_upload_reaches_a_webhook(minio: Minio) -> None:
    async with sink() as receiver:
        await minio.send_webhooks_to(receiver.address)
        client = await bucket_with_rule(minio, "by-webhook", minio.WEBHOOK_ARN)
        await asyncio.to_thread(put, client, "by-webhook", "in/picture.png")
        (event,) = await receiver.until(1)
        await minio.send_webhooks_to(None)
    assert event["EventName"] == "s3:ObjectCreated:Put"
    assert event["Key"] == "by-webhook/in/picture.png"


async def test_an_upload_reaches_a_kafka_topic(minio: Minio, kafka: Kafka) -> None:
    client = await bucket_with_rule(minio, "by-kafka", minio.KAFKA_ARN)
    await asyncio.to_thread(put, client, "by-kafka", "in/picture.png")
    consumer = AIOKafkaConsumer(
        minio.options.kafka_topic, bootstrap_servers=str(kafka.address), auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        record = await asyncio.wait_for(consumer.getone(), 20)
    finally:
        await consumer.stop()
    assert record.key == b"by-kafka/in/picture.png"


async def test_an_upload_is_heard_by_listening(minio: Minio) -> None:
    client = minio.client()
    await asyncio.to_thread(client.make_bucket, "by-listening")
    with client.listen_bucket_notification("by-listening", events=("s3:ObjectCreated:*",)) as events:
        heard = asyncio.create_task(asyncio.to_thread(lambda: next(iter(events))))
        number = 0
        # The server does not say when the subscription stands, so uploads go on until one is heard.
        while not heard.done():
            await asyncio.to_thread(put, client, "by-listening", f"in/{number}")
            number += 1
            await asyncio.wait([heard], timeout=0.2)
    event = await heard
    assert event["Records"][0]["s3"]["bucket"]["name"] == "by-listening"


async def test_it_survives_being_killed_with_its_data_on_the_same_address(fault_bed: Bed) -> None:
    minio = fault_bed.minio
    await minio.start()
    client = minio.client()
    await asyncio.to_thread(client.make_bucket, "kept")
    await asyncio.to_thread(put, client, "kept", "one")
    before = minio.address
    await minio.kill()
    with pytest.raises(HTTPError):
        await asyncio.to_thread(client.list_buckets)
    await minio.start()
    assert minio.address == before
    assert [entry.object_name for entry in client.list_objects("kept")] == ["one"]
    await minio.close()
    await minio.start()
    assert [entry.object_name for entry in client.list_objects("kept")] == ["one"]


async def test_started_without_its_targets_it_knows_none_and_keeps_its_data(fault_bed: Bed) -> None:
    minio = fault_bed.minio
    await minio.start()
    client = await bucket_with_rule(minio, "told", minio.WEBHOOK_ARN)
    await asyncio.to_thread(put, client, "told", "a")
    minio.options.targets = False
    await minio.restart()
    with pytest.raises(S3Error, match="ARN"):
        await bucket_with_rule(minio, "untold", minio.WEBHOOK_ARN)
    assert (await asyncio.to_thread(client.stat_object, "told", "a")).size == 1
    minio.options.targets = True
    await minio.restart()
    await bucket_with_rule(minio, "told-again", minio.WEBHOOK_ARN)


async def test_stopped_it_answers_nothing_and_resumed_it_goes_on(fault_bed: Bed) -> None:
    minio = fault_bed.minio
    await minio.start()
    client = minio.client()
    await minio.stop()
    waiting = asyncio.create_task(asyncio.to_thread(client.list_buckets))
    done, _ = await asyncio.wait([waiting], timeout=0.5)
    assert not done
    await minio.resume()
    assert await asyncio.wait_for(waiting, 20) == []


async def test_slow_delays_each_direction_and_mend_ends_it(fault_bed: Bed) -> None:
    minio = fault_bed.minio
    await minio.start()
    client = minio.client()
    await asyncio.to_thread(client.list_buckets)
    await minio.slow(0.3)
    started = time.monotonic()
    await asyncio.to_thread(client.list_buckets)
    assert time.monotonic() - started >= 0.6
    await minio.mend()
    started = time.monotonic()
    await asyncio.to_thread(client.list_buckets)
    assert time.monotonic() - started < 0.3


@pytest.mark.parametrize("how", list(Cut))
async def test_cut_off_clients_come_back_when_it_is_mended(fault_bed: Bed, how: Cut) -> None:
    minio = fault_bed.minio
    await minio.start()
    client = minio.client()
    await asyncio.to_thread(client.list_buckets)
    await minio.cut(how)
    waiting = asyncio.create_task(asyncio.to_thread(client.list_buckets))
    if how is Cut.REFUSE:
        with pytest.raises(HTTPError):
            await waiting
        await minio.mend()
        assert await asyncio.to_thread(client.list_buckets) == []
    else:
        done, _ = await asyncio.wait([waiting], timeout=0.5)
        assert not done
        await minio.mend()
        assert await asyncio.wait_for(waiting, 20) == []


async def test_a_full_disk_refuses_uploads_and_a_drained_one_takes_them(fault_bed: Bed) -> None:
    minio = fault_bed.minio
    await minio.start()
    client = minio.client()
    await asyncio.to_thread(client.make_bucket, "full")
    await minio.fill()
    with pytest.raises(S3Error, match=r"StorageFull|no space left"):
        await asyncio.to_thread(put, client, "full", "one", bytes(1 << 20))
    await minio.drain()

    async def taken() -> bool:
        try:
            await asyncio.to_thread(put, client, "full", "one", bytes(1 << 20))
        except S3Error:
            return False
        return True

    await until("an upload is taken again", taken)


@pytest.mark.parametrize("queued", [False, True])
async def test_lost_events_never_arrive_while_uploads_succeed(fault_bed: Bed, *, queued: bool) -> None:
    minio = fault_bed.minio
    minio.options.queue_events = queued
    await minio.start()
    async with sink() as receiver:
        await minio.send_webhooks_to(receiver.address)
        client = await bucket_with_rule(minio, "lossy", minio.WEBHOOK_ARN)
        await asyncio.to_thread(put, client, "lossy", "first")
        await receiver.until(1)
        await minio.lose_events()
        await asyncio.to_thread(put, client, "lossy", "lost")

        async def swallowed() -> bool:
            return minio.swallowed == 1 and not minio.queued_events()

        await until("the event is lost", swallowed)
        await minio.deliver_events()
        await asyncio.to_thread(put, client, "lossy", "last")

        async def last_came() -> bool:
            return "lossy/last" in receiver.keys

        await until("the last event arrives", last_came)
        await minio.send_webhooks_to(None)
    assert set(receiver.keys) == {"lossy/first", "lossy/last"}
    assert {entry.object_name for entry in client.list_objects("lossy")} >= {"first", "lost", "last"}
