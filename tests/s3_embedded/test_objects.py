"""What a stock client sees and gets: outputs, metadata, parts of objects, refusals, browsers' questions."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from minio.error import S3Error

from penstock.model.objects import SYSTEM_BUCKET
from tests.s3_embedded.conftest import Bench

Seen = Callable[[Bench, int], Awaitable[list[tuple[str, str]]]]

SENT_BY_BROWSERS = [
    "authorization",
    "content-type",
    "x-amz-date",
    "x-amz-content-sha256",
    "x-amz-user-agent",
    "x-amz-checksum-crc32",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-checksum-mode",
    "amz-sdk-invocation-id",
    "amz-sdk-request",
]

pytestmark = pytest.mark.components


async def test_outputs_and_files_of_other_programs_are_visible_at_once(
    bench: Bench, seen: Seen, until: Callable[..., Awaitable[Any]]
) -> None:
    client = bench.minio()
    await asyncio.to_thread(client.put_object, "inbox", "in/a", io.BytesIO(b"x"), 1)

    async def outputs() -> list[str]:
        found = await asyncio.to_thread(lambda: list(client.list_objects("outbox", recursive=True)))
        return [str(one.object_name) for one in found]

    assert await until(outputs, bool) == ["sums/a.sum"]
    (bench.buckets / "outbox" / "by-hand").write_bytes(b"plain")
    assert (await asyncio.to_thread(client.get_object, "outbox", "by-hand")).read() == b"plain"
    (bench.buckets / "outbox" / "by-hand").write_bytes(b"changed")
    assert (await asyncio.to_thread(client.get_object, "outbox", "by-hand")).read() == b"changed"


async def test_both_listings_ranges_and_checksums(bench: Bench) -> None:
    def work() -> None:
        boto = bench.boto()
        boto.put_object(Bucket="inbox", Key="deep/er/a b+c%2F.txt", Body=b"0123456789")
        for listing in (boto.list_objects, boto.list_objects_v2):
            told = listing(Bucket="inbox", Prefix="deep/")["Contents"][0]
            assert (told["Key"], told["Size"]) == ("deep/er/a b+c%2F.txt", 10)
        # The checksum of the whole must not come with a part: the client would give the part up.
        part = boto.get_object(Bucket="inbox", Key="deep/er/a b+c%2F.txt", Range="bytes=2-4")
        assert part["Body"].read() == b"234"
        whole = boto.get_object(Bucket="inbox", Key="deep/er/a b+c%2F.txt", IfMatch=part["ETag"])
        assert whole["Body"].read() == b"0123456789"
        head = boto.head_object(Bucket="inbox", Key="deep/er/a b+c%2F.txt")
        assert (head["ContentLength"], head["ETag"]) == (10, '"781e5e245d69b566979b86e28d23f2c7"')

    await asyncio.to_thread(work)


async def test_compressed_bytes_stay_as_they_are(bench: Bench) -> None:
    url = await asyncio.to_thread(bench.minio().presigned_put_object, "inbox", "zipped")
    async with (
        aiohttp.ClientSession() as session,
        session.put(url, data=b"not even gzip", headers={"Content-Encoding": "gzip"}) as answer,
    ):
        assert answer.status == 200
    assert (bench.buckets / "inbox" / "zipped").read_bytes() == b"not even gzip"


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("x" * 256, "InvalidArgument"),
        ("folder/", "InvalidArgument"),
        ("a//b", "InvalidArgument"),
        (".rclone_temp_mine", "InvalidArgument"),
        ("taken/below", "XMinioParentIsObject"),
        ("full", "XMinioObjectExistsAsDirectory"),
    ],
)
async def test_keys_that_a_folder_cannot_hold_are_refused_once_and_for_all(bench: Bench, key: str, code: str) -> None:
    bucket = bench.buckets / "inbox"
    (bucket / "taken").touch()
    (bucket / "full").mkdir()
    (bucket / "full" / "one").touch()
    before = sorted(path for path in bucket.rglob("*"))
    with pytest.raises(S3Error) as refused:
        await asyncio.to_thread(bench.minio().put_object, "inbox", key, io.BytesIO(b"k"), 1)
    assert refused.value.code == code
    assert refused.value.response.status == 400
    assert sorted(path for path in bucket.rglob("*")) == before


async def test_the_platforms_own_bucket_and_folders_do_not_exist_here(bench: Bench) -> None:
    def work() -> None:
        client = bench.minio()
        assert {bucket.name for bucket in client.list_buckets()} == {"inbox", "outbox"}
        for call in (
            lambda: client.put_object(SYSTEM_BUCKET, "x", io.BytesIO(b"x"), 1),
            lambda: list(client.list_objects(SYSTEM_BUCKET)),
            lambda: client.get_object(SYSTEM_BUCKET, "x"),
        ):
            with pytest.raises(S3Error) as refused:
                call()
            assert refused.value.code == "AccessDenied"

    (bench.buckets / SYSTEM_BUCKET).mkdir(exist_ok=True)
    await asyncio.to_thread(work)


async def test_a_wrong_key_pair_and_no_key_pair_get_nothing(bench: Bench) -> None:
    async with aiohttp.ClientSession() as session:
        for url in (bench.access.endpoint, f"{bench.access.endpoint}/inbox"):
            async with session.get(url) as answer:
                assert answer.status in {400, 403}
                assert b"AccessDenied" in await answer.read() or answer.status == 400
        async with session.put(f"{bench.access.endpoint}/inbox/in/x", data=b"x") as answer:
            assert answer.status in {400, 403}
    assert not list((bench.buckets / "inbox" / "in").iterdir())


async def test_browsers_may_ask_before_they_send(bench: Bench) -> None:
    asked = {
        "Origin": "http://dashboard.example",
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "authorization,x-amz-checksum-crc32",
    }
    async with aiohttp.ClientSession() as session:
        async with session.options(f"{bench.access.endpoint}/inbox/in/x", headers=asked) as answer:
            assert answer.status == 200
            allowed = answer.headers["Access-Control-Allow-Headers"]
        for name in SENT_BY_BROWSERS:
            assert name in allowed.split(", ")
        async with session.get(f"{bench.access.endpoint}/inbox") as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == "*"


async def test_forms_are_refused_and_headless_answers_stay_so(bench: Bench) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.post(
            f"{bench.access.endpoint}/inbox", data={"key": "in/x", "file": io.BytesIO(b"x")}
        ) as answer:
            assert answer.status == 501
        async with session.head(f"{bench.access.endpoint}/{SYSTEM_BUCKET}/x") as answer:
            assert (answer.status, await answer.read()) == (403, b"")


async def test_metadata_is_kept_while_the_server_runs(bench: Bench) -> None:
    def work() -> str | None:
        client = bench.minio()
        client.put_object("inbox", "noted", io.BytesIO(b"n"), 1, metadata={"author": "me"})
        told = client.stat_object("inbox", "noted").metadata
        return told["x-amz-meta-author"] if told else None

    assert await asyncio.to_thread(work) == "me"
