"""Keys, addresses, certificates and accounts: what a request says before it says what is wanted."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from penstock.adapters.s3 import Credentials, S3Config, S3Store, Style
from penstock.errors import (
    Closed,
    Forbidden,
    InvalidInput,
    NotFound,
    Unavailable,
    Unsupported,
)
from tests.adapters.s3.relay import relay
from tests.adapters.s3.support import content, every, opened, pieces
from tests.testbed import Bed
from tests.testbed.links import Address
from tests.testbed.minio import Minio

pytestmark = pytest.mark.components
MIB = 1024 * 1024


# Keys


@pytest.mark.parametrize("key", ["a//b", "..", "a/../b", "./a", "/a", "a/.", "x" * 256, "é" * 300])
async def test_what_minio_cannot_hold_is_refused_whoever_says_so(minio: Minio, bucket: str, key: str) -> None:
    async with opened(minio, direct=True) as strict, opened(minio, direct=True, any_key=True) as lax:
        with pytest.raises(Unsupported, match="cannot be stored"):
            await strict.write(bucket, key, b"x")
        with pytest.raises(NotFound):
            await strict.head(bucket, key)
        await strict.delete(bucket, key)
        assert await every(strict.list(bucket, key)) == []
        if key != "/a":  # MinIO would write it as `a`, which is why the rules are kept here
            with pytest.raises(Unsupported, match="cannot be stored"):
                await lax.write(bucket, key, b"x")
            with pytest.raises(NotFound):
                await lax.head(bucket, key)
            await lax.delete(bucket, key)
        assert await every(strict.list(bucket)) == []


@pytest.mark.parametrize(
    "key",
    [
        "a\nb\t\x01",
        "+ % #?&=;:@",
        "%2F%2f",
        "a+b c",
        "'\"<>&",
        "ü/漢/😀",
        "a/",
        "\\",
        "*",
        "x" * 255,
        "d/" * 511 + "ab",
    ],
)
async def test_keys_come_back_exactly(store: S3Store, bucket: str, key: str, tmp_path: Path) -> None:
    info = await store.write(bucket, key, b"x")
    assert await store.head(bucket, key) == info
    assert [one.key for one in await every(store.list(bucket))] == [key]
    await store.fetch(info, tmp_path / "copy")
    await store.delete(bucket, key)
    assert await every(store.list(bucket)) == []


async def test_any_key_goes_over_the_wire_as_it_is_signed() -> None:
    """MinIO refuses some keys before it looks at them, so here a server only notes what arrives."""
    arrived: list[str] = []

    async def note(request: web.BaseRequest) -> web.Response:
        arrived.append(request.raw_path)
        return web.Response(headers={"ETag": '"e"', "Date": "Thu, 01 Jan 1970 00:00:00 GMT"})

    runner = web.ServerRunner(web.Server(note))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    keys = ["a//b", "..", "/a", "a/../b/.", "a\nb", "+ % #?", "é", "x" * 1024]
    host, port = runner.addresses[0][:2]
    config = S3Config(endpoint=f"http://{host}:{port}", credentials=Credentials("k", "s"), any_key=True)
    store = S3Store(config)
    try:
        for key in keys:
            await store.put("bucket", key, b"x")
    finally:
        await store.close()
        await runner.cleanup()
    assert arrived == [
        "/bucket/a//b",
        "/bucket/..",
        "/bucket//a",
        "/bucket/a/../b/.",
        "/bucket/a%0Ab",
        "/bucket/%2B%20%25%20%23%3F",
        "/bucket/%C3%A9",
        f"/bucket/{'x' * 1024}",
    ]


# Places and TLS


async def test_virtual_host_style(fault_bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Minio._settings

    def with_domain(self: Minio, kafka: Address) -> dict[str, str]:
        return {**settings(self, kafka), "MINIO_DOMAIN": "store.test"}

    monkeypatch.setattr(Minio, "_settings", with_domain)
    await fault_bed.start("minio")
    minio = fault_bed.minio
    asked: set[str] = set()
    loop = asyncio.get_running_loop()
    lookup = loop.getaddrinfo

    async def resolve(host: str, *args: Any, **kwargs: Any) -> Any:
        asked.add(host)
        return await lookup("127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(loop, "getaddrinfo", resolve)
    endpoint = f"http://store.test:{minio.direct.port}"
    account = Credentials(minio.user, minio.password)
    store = S3Store(S3Config(endpoint=endpoint, credentials=account, style=Style.VIRTUAL))
    try:
        assert await store.create_bucket("pictures") is True
        info = await store.write("pictures", "in/a b+ü", b"x", metadata={"a": "b"})
        assert await store.head("pictures", "in/a b+ü") == info
        assert [one.key for one in await every(store.list("pictures"))] == ["in/a b+ü"]
        assert await content(store, "pictures", "in/a b+ü") == b"x"
        assert await store.buckets() == ["pictures"]
        await store.delete("pictures", "in/a b+ü")
        await store.delete_bucket("pictures")
    finally:
        await store.close()
    assert asked == {"store.test", "pictures.store.test"}


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, crt = folder / "key.pem", folder / "crt.pem"
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost "
        f"-addext subjectAltName=IP:127.0.0.1,DNS:localhost -keyout {key} -out {crt}".split(),
        check=True,
        capture_output=True,
    )
    return key, crt


async def test_over_tls_with_an_authority_of_our_own(
    minio: Minio, bucket: str, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    key, crt = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(crt, key)
    account = Credentials(minio.user, minio.password)
    async with relay(minio.direct, tls=context) as (address, _):
        for verify in (crt, False):
            store = S3Store(S3Config(endpoint=f"https://{address}", credentials=account, verify=verify))
            try:
                data = os.urandom(9 * MIB)
                info = await store.write(bucket, "big", pieces(data), metadata={"u": "ü"})
                await store.fetch(info, tmp_path / f"copy-{verify is False}")
                assert (tmp_path / f"copy-{verify is False}").read_bytes() == data
                assert await store.head(bucket, "big") == info
                await store.put(bucket, "small", b"x")
            finally:
                await store.close()
        strict = S3Store(S3Config(endpoint=f"https://{address}", credentials=account))
        try:
            with pytest.raises(Unavailable, match="certificate"):
                await strict.buckets()
        finally:
            await strict.close()


def test_a_file_of_authorities_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for name in ("ca.pem", "missing.pem"):
        config = S3Config(endpoint="https://h", credentials=Credentials("k", "s"), verify=tmp_path / name)
        with pytest.raises(InvalidInput, match="PEM"):
            S3Store(config)


async def test_another_region_is_signed_for_and_buckets_are_made_there(minio: Minio) -> None:
    async with opened(minio, direct=True, region="eu-west-1") as store:
        assert await store.create_bucket("elsewhere") is True
        await store.write("elsewhere", "k", b"x")


async def test_a_closed_store_says_so(minio: Minio) -> None:
    async with opened(minio, direct=True) as store:
        await store.buckets()
        await store.close()
        with pytest.raises(Closed):
            await store.buckets()


async def test_rotated_keys_are_taken_up_at_once(minio: Minio) -> None:
    accounts = [Credentials(minio.user, minio.password), Credentials(minio.user, "wrong")]
    store = S3Store(S3Config(endpoint=f"http://{minio.direct}", credentials=lambda: accounts[0]))
    try:
        await store.buckets()
        accounts.reverse()
        with pytest.raises(Forbidden, match="SignatureDoesNotMatch"):
            await store.buckets()
    finally:
        await store.close()


def test_the_http_client_can_still_be_told_not_to_repeat() -> None:
    """aiohttp has no public switch for it: if the attribute goes, a PUT could be sent twice behind our back."""
    assert "_retry_connection" in aiohttp.ClientSession.ATTRS


def test_importing_it_brings_no_other_client() -> None:
    code = "import sys, penstock.adapters.s3; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"minio", "boto3", "botocore", "urllib3", "requests", "pydantic"} & set(done.stdout.split())


async def test_more_requests_at_once_than_connections(minio: Minio, bucket: str) -> None:
    async with opened(minio, direct=True, connections=4) as store:
        await asyncio.gather(*(store.put(bucket, f"k/{n}", b"x") for n in range(60)))
        assert len(await every(store.list(bucket))) == 60
