"""Objects over HTTP: every key is decoded exactly once, bodies are whole or not there, ranges are right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from gateway.api.objects import Unsatisfiable, parse_range
from gateway.api.wire import decode_key
from gateway.embedded import Embedded
from penstock.client import Client
from penstock.errors import InvalidInput
from tests.gateway.conftest import running, settings_for

KEYS = [
    "plain.txt",
    "a b.txt",
    "a+b.txt",
    "100%.txt",
    "x%2Fy.txt",
    "x%252Fy.txt",
    "deep/er/file",
    "ünïcødé/日本.png",
    "?query=1#fragment",
    "semi;colon&amp",
    " lead and trail ",
    "new\nline",
    "...",
]


@pytest.fixture
async def bucket(client: Client) -> str:
    await client.create_bucket("inbox")
    return "inbox"


@pytest.mark.parametrize("key", KEYS)
async def test_a_key_comes_back_as_it_was_sent(
    client: Client, http: aiohttp.ClientSession, platform: Embedded, bucket: str, key: str
) -> None:
    await client.put(bucket, key, b"body")
    assert [one.key for one in (await client.objects(bucket)).objects] == [key]
    assert (platform.data / "buckets" / bucket / key).read_bytes() == b"body"
    async with http.get(URL(f"/v1/buckets/{bucket}/objects/{quote(key, safe='')}", encoded=True)) as answer:
        assert await answer.read() == b"body"
    await client.delete_object(bucket, key)
    assert (await client.objects(bucket)).objects == ()


async def raw(platform: Embedded, request: str, *, body: bytes = b"x", length: int = 1) -> str:
    """The status line and body of a request that a library would tidy up first."""
    host, port = platform.address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    token = platform.services.credentials.token
    writer.write(f"{request} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n".encode())
    writer.write(b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (length, body))
    text = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return text


@pytest.mark.parametrize(
    ("key", "status", "says"),
    [
        ("../escaped", 422, "'.' and '..' are not names"),
        ("a/../../escaped", 422, "'.' and '..' are not names"),
        ("%2e%2e/escaped", 422, "'.' and '..' are not names"),
        ("..%2Fescaped", 422, "'.' and '..' are not names"),
        ("/absolute", 422, "begins or ends with a slash"),
        ("a//b", 422, "two slashes in a row"),
        ("folder/", 422, "begins or ends with a slash"),
        ("", 422, "it is empty"),
        ("nul%00", 422, "NUL"),
        ("100%", 400, "must be followed by two hexadecimal digits"),
        ("x" * 300, 422, "300 bytes long"),
    ],
)
async def test_a_key_that_no_folder_can_hold_is_refused_and_nothing_is_written(
    platform: Embedded, bucket: str, key: str, status: int, says: str
) -> None:
    text = await raw(platform, f"PUT /v1/buckets/{bucket}/objects/{key}")
    assert text.startswith(f"HTTP/1.1 {status} "), text
    assert says in text
    assert list((platform.data / "buckets" / bucket).iterdir()) == []
    assert not (platform.data / "escaped").exists()


async def test_a_key_of_percent_encoded_slashes_is_the_same_as_one_of_slashes(platform: Embedded, bucket: str) -> None:
    await raw(platform, f"PUT /v1/buckets/{bucket}/objects/a%2Fb")
    assert (platform.data / "buckets" / bucket / "a" / "b").read_bytes() == b"x"


async def test_a_bucket_is_made_once(http: aiohttp.ClientSession) -> None:
    for status in (201, 200):
        async with http.put("/v1/buckets/inbox") as answer:
            assert answer.status == status
    async with http.put("/v1/buckets/No") as answer:
        assert answer.status == 400
    async with http.get("/v1/buckets") as answer:
        assert await answer.json() == [{"name": "inbox"}]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/v1/buckets/penstock-system"),
        ("GET", "/v1/buckets/penstock-system/objects"),
        ("GET", "/v1/buckets/penstock-system/objects/clock"),
        ("PUT", "/v1/buckets/penstock-system/objects/clock"),
        ("DELETE", "/v1/buckets/penstock-system/objects/clock"),
    ],
)
async def test_the_platforms_own_bucket_is_not_served(http: aiohttp.ClientSession, method: str, path: str) -> None:
    async with http.request(method, path) as answer:
        assert answer.status == 403
    async with http.get("/v1/buckets") as answer:
        assert await answer.json() == []


async def test_missing_buckets_and_objects_are_404(http: aiohttp.ClientSession, bucket: str) -> None:
    for path in ("/v1/buckets/nowhere/objects", "/v1/buckets/nowhere/objects/a", f"/v1/buckets/{bucket}/objects/a"):
        async with http.get(path) as answer:
            assert answer.status == 404
    async with http.delete(f"/v1/buckets/{bucket}/objects/a") as answer:
        assert answer.status == 204


async def test_head_and_get_tell_the_same(http: aiohttp.ClientSession, client: Client, bucket: str) -> None:
    await client.put(bucket, "a", b"0123456789")
    path = f"/v1/buckets/{bucket}/objects/a"
    async with http.head(path) as head, http.get(path) as get:
        for name in ("Content-Length", "ETag", "Last-Modified", "Accept-Ranges"):
            assert head.headers[name] == get.headers[name]
        assert head.headers["Content-Length"] == "10"
        assert get.headers["X-Content-Type-Options"] == "nosniff"


RANGES: list[tuple[str, int, bytes, str | None]] = [
    ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
    ("bytes=7-", 206, b"789", "bytes 7-9/10"),
    ("bytes=-3", 206, b"789", "bytes 7-9/10"),
    ("bytes=5-99", 206, b"56789", "bytes 5-9/10"),
    ("bytes=0-1,3-4", 200, b"0123456789", None),
    ("lines=1-2", 200, b"0123456789", None),
    ("bytes=10-", 416, b"the range bytes=10- lies outside the object's 10 bytes\n", None),
]


async def test_ranges(http: aiohttp.ClientSession, client: Client, bucket: str) -> None:
    await client.put(bucket, "a", b"0123456789")
    for header, status, body, told in RANGES:
        async with http.get(f"/v1/buckets/{bucket}/objects/a", headers={"Range": header}) as answer:
            assert (answer.status, await answer.read(), answer.headers.get("Content-Range")) == (status, body, told)


@given(st.binary(max_size=40), st.integers(0, 50), st.integers(0, 50))
def test_a_range_is_what_a_slice_is(data: bytes, first: int, last: int) -> None:
    for header, wanted in (
        (f"bytes={first}-{last}", data[first : last + 1]),
        (f"bytes={first}-", data[first:]),
        (f"bytes=-{last}", data[max(0, len(data) - last) :] if last else b""),
    ):
        try:
            span = parse_range(header, len(data))
        except Unsatisfiable:
            assert wanted == b""
            continue
        if span is None:
            assert last < first
        else:
            assert data[span[0] : span[0] + span[1]] == wanted != b""


@given(st.text(st.characters(codec="utf-8")))
def test_decoding_undoes_encoding_once(key: str) -> None:
    assert decode_key(quote(key, safe="")) == key
    assert decode_key(quote(key, safe="/!$&'()*+,;=:@")) == key


@given(st.binary())
def test_bytes_that_are_no_text_stay_distinct(key: bytes) -> None:
    assert decode_key(quote(key, safe="")).encode("utf-8", "surrogateescape") == key


@pytest.mark.parametrize("quoted", ["%", "a%2", "%zz", "100%-"])
def test_a_lone_percent_sign_is_refused(quoted: str) -> None:
    with pytest.raises(InvalidInput, match="%25"):
        decode_key(quoted)


async def test_listings_are_paged(client: Client, bucket: str) -> None:
    for number in range(7):
        await client.put(bucket, f"f/{number}", b"")
    await client.put(bucket, "g", b"")
    keys, after = [], ""
    while True:
        page = await client.objects(bucket, prefix="f/", after=after, limit=3)
        keys += [one.key for one in page.objects]
        assert len(page.objects) <= 3
        if not page.next:
            break
        after = page.next
    assert keys == [f"f/{number}" for number in range(7)]


async def test_a_file_name_that_is_no_text_can_be_listed(
    http: aiohttp.ClientSession, client: Client, platform: Embedded, bucket: str
) -> None:
    await client.put(bucket, "b", b"")
    folder = platform.data / "buckets" / bucket
    (folder / "b").rename(folder / "a\udcff")
    await client.put(bucket, "b", b"")
    async with http.get(f"/v1/buckets/{bucket}/objects", params={"limit": "1"}) as answer:
        told = await answer.json()
        assert ([one["key"] for one in told["objects"]], told["next"]) == (["a\udcff"], "a\udcff")
    async with http.get(URL(f"/v1/buckets/{bucket}/objects?after=a%FF", encoded=True)) as answer:
        assert [one["key"] for one in (await answer.json())["objects"]] == ["b"]
    async with http.get(URL(f"/v1/buckets/{bucket}/objects/a%FF", encoded=True)) as answer:
        assert answer.status == 200


async def chunks(count: int, size: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * size


async def test_a_chunked_upload_needs_no_length(client: Client, bucket: str) -> None:
    told = await client.put(bucket, "big", chunks(50, 100_000))
    assert told["size"] == 5_000_000


async def test_if_none_match_keeps_what_is_there(http: aiohttp.ClientSession, bucket: str) -> None:
    for status in (201, 409):
        async with http.put(f"/v1/buckets/{bucket}/objects/a", data=b"x", headers={"If-None-Match": "*"}) as answer:
            assert answer.status == status


async def test_an_upload_that_breaks_off_leaves_nothing(platform: Embedded, bucket: str) -> None:
    host, port = platform.address.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    token = platform.services.credentials.token
    head = f"PUT /v1/buckets/{bucket}/objects/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    writer.write(f"{head}Content-Length: 1000000\r\n\r\n".encode() + b"x" * 500_000)
    await writer.drain()
    writer.transport.abort()
    metrics = platform.services.metrics
    async with asyncio.timeout(10):
        while b'status="503"' not in metrics.text():
            await asyncio.sleep(0.01)
    assert list((platform.data / "buckets" / bucket).iterdir()) == []


async def test_limits_are_413_and_leave_nothing(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data", max_object_bytes=1000, max_payload_bytes=1000, max_document_bytes=1000)
    async with (
        running(settings) as platform,
        aiohttp.ClientSession(
            base_url=platform.address,
            headers={"Authorization": f"Bearer {platform.services.credentials.token}"},
        ) as http,
    ):
        async with http.put("/v1/buckets/inbox") as answer:
            assert answer.status == 201
        for path in ("/v1/buckets/inbox/objects/a", "/v1/apply", "/v1/validate"):
            method = "PUT" if "objects" in path else "POST"
            for body in (b"x" * 1001, chunks(3, 500)):  # told by its length, and found out while reading
                async with http.request(method, path, data=body) as answer:
                    assert answer.status == 413, path
                    assert "1,000 bytes" in await answer.text()
        assert list((platform.data / "buckets" / "inbox").iterdir()) == []
        async with http.put("/v1/buckets/inbox/objects/a", data=b"x" * 1000) as answer:
            assert answer.status == 201


async def test_a_body_that_stalls_is_given_up(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path / "data", body_timeout_s=0.2)) as platform:
        await platform.services.store.create_bucket("inbox")
        text = await raw(platform, "PUT /v1/buckets/inbox/objects/a", body=b"x", length=2)
        assert text.startswith("HTTP/1.1 503 ")
        assert "no byte of the object came for 0.2 s; nothing was kept" in text
        assert list((platform.data / "buckets" / "inbox").iterdir()) == []
