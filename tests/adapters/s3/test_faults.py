"""S3Store when wires break, answers are lost, servers die, clocks are wrong and keys are not accepted."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from penstock.adapters.s3 import Credentials, S3Config, S3Store
from penstock.errors import (
    AlreadyExists,
    Forbidden,
    NotFound,
    OutOfSpace,
    Superseded,
    Unavailable,
)
from tests.adapters.s3.relay import Faults, relay
from tests.adapters.s3.support import every, opened, pieces, uploads_left
from tests.testbed import Bed
from tests.testbed.links import Address, Cut
from tests.testbed.minio import Minio

pytestmark = pytest.mark.components
MIB = 1024 * 1024


@pytest.fixture
async def broken(minio: Minio) -> AsyncIterator[tuple[S3Store, Faults]]:
    """A store whose wire has faults."""
    async with relay(minio.direct) as (address, faults):
        store = at(minio, address)
        yield store, faults
        await store.close()


def at(minio: Minio, address: Address, **settings: object) -> S3Store:
    account = Credentials(minio.user, minio.password)
    return S3Store(S3Config(endpoint=f"http://{address}", credentials=account, **settings))  # type: ignore[arg-type]


# Broken downloads


async def test_a_cut_download_is_resumed_where_it_broke(
    store: S3Store, bucket: str, broken: tuple[S3Store, Faults], tmp_path: Path
) -> None:
    data = os.urandom(7 * MIB)
    info = await store.write(bucket, "k", data)
    cut_off, faults = broken
    faults.cut_down_after += [1 * MIB, 2 * MIB, 3 * MIB]
    await cut_off.fetch(info, tmp_path / "copy")
    assert faults.happened == ["cut down"] * 3
    assert hashlib.md5((tmp_path / "copy").read_bytes()).hexdigest() == info.etag
    faults.cut_down_after += [500_000]
    read = b"".join([chunk async for chunk in cut_off.read(bucket, "k", start=10, length=3 * MIB)])
    assert read == data[10 : 10 + 3 * MIB]


async def test_a_download_broken_while_the_object_is_replaced_is_no_mixture(
    store: S3Store, bucket: str, minio: Minio, tmp_path: Path
) -> None:
    info = await store.write(bucket, "k", b"a" * (4 * MIB))
    async with relay(minio.direct) as (address, faults):
        other = at(minio, address)
        faults.cut_down_after.append(2 * MIB)
        fetching = asyncio.create_task(other.fetch(info, tmp_path / "copy"))
        await faults.noticed.wait()
        await store.write(bucket, "k", b"b" * (4 * MIB))
        with pytest.raises(Superseded, match="replaced"):
            await fetching
        await other.close()
    assert not (tmp_path / "copy").exists()


async def test_the_same_bytes_written_while_they_are_copied_are_noticed(
    store: S3Store, bucket: str, minio: Minio, tmp_path: Path
) -> None:
    """Neither the etag nor the content tells: only the listing's time does."""
    info = await store.write(bucket, "k", b"a" * (4 * MIB))
    async with relay(minio.direct) as (address, faults):
        other = at(minio, address)
        faults.cut_down_after.append(2 * MIB)
        fetching = asyncio.create_task(other.fetch(info, tmp_path / "copy"))
        await faults.noticed.wait()
        await store.write(bucket, "k", b"a" * (4 * MIB))
        with pytest.raises(Superseded, match="replaced"):
            await fetching
        await other.close()
    assert not (tmp_path / "copy").exists()


async def test_a_cancelled_download_leaves_no_file(
    store: S3Store, bucket: str, fault_minio: Minio, tmp_path: Path
) -> None:
    async with opened(fault_minio) as slow:
        await slow.create_bucket("pictures")
        info = await slow.write("pictures", "k", bytes(4 * MIB))
        await fault_minio.cut(Cut.DROP)
        fetching = asyncio.create_task(slow.fetch(info, tmp_path / "copy"))
        await asyncio.wait([fetching], timeout=0.2)
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        await fault_minio.mend()
    assert not (tmp_path / "copy").exists()


# Lost answers


async def test_a_put_whose_answer_is_lost_is_one_version(
    store: S3Store, bucket: str, broken: tuple[S3Store, Faults]
) -> None:
    await store.enable_versioning(bucket)
    cut_off, faults = broken
    faults.lose_answer_to += [b"PUT /"]
    info = await cut_off.write(bucket, "k", b"data", metadata={"a": "b"})
    assert faults.happened == ["lost PUT /"]
    assert [one.identity for one in await every(store.list_versions(bucket))] == [info.identity]
    assert (await store.head(bucket, "k")).metadata == {"a": "b"}


async def test_a_put_that_never_arrived_is_sent_again(
    store: S3Store, bucket: str, broken: tuple[S3Store, Faults]
) -> None:
    await store.enable_versioning(bucket)
    await store.write(bucket, "k", b"old")
    cut_off, faults = broken
    data = os.urandom(6 * MIB)
    faults.cut_up_after += [2 * MIB]
    info = await cut_off.write(bucket, "k", data)
    assert faults.happened == ["cut up"]
    assert len(await every(store.list_versions(bucket))) == 2
    assert info.etag == hashlib.md5(data).hexdigest()


async def test_if_absent_with_a_lost_answer_is_still_ours(
    store: S3Store, bucket: str, broken: tuple[S3Store, Faults]
) -> None:
    cut_off, faults = broken
    faults.lose_answer_to += [b"PUT /"]
    info = await cut_off.write(bucket, "k", b"mine", if_absent=True)
    assert await store.head(bucket, "k") == info
    faults.lose_answer_to += [b"PUT /"]
    with pytest.raises(AlreadyExists):
        await cut_off.write(bucket, "k", b"mine", if_absent=True)
    assert await store.head(bucket, "k") == info


async def test_a_complete_whose_answer_is_lost_is_one_version(
    store: S3Store, bucket: str, broken: tuple[S3Store, Faults]
) -> None:
    await store.enable_versioning(bucket)
    cut_off, faults = broken
    faults.lose_answer_to += [b"?uploadId="]
    data = os.urandom(17 * MIB)
    info = await cut_off.write(bucket, "k", pieces(data))
    assert faults.happened == ["lost ?uploadId="]
    assert [one.identity for one in await every(store.list_versions(bucket))] == [info.identity]
    assert (info.size, await uploads_left(store, bucket, "k")) == (len(data), 0)


async def test_a_cut_upload_of_many_parts_goes_on(
    store: S3Store, bucket: str, broken: tuple[S3Store, Faults], tmp_path: Path
) -> None:
    cut_off, faults = broken
    data = os.urandom(30 * MIB)
    (tmp_path / "source").write_bytes(data)
    faults.cut_up_after += [4 * MIB, 15 * MIB, 25 * MIB]
    info = await cut_off.publish(tmp_path / "source", bucket, "k")
    assert faults.happened == ["cut up"] * 3
    await store.fetch(info, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert await uploads_left(store, bucket, "k") == 0


async def test_a_refusal_is_heard_although_the_body_is_large(store: S3Store) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        await store.put("nowhere", "k", bytes(8 * MIB))
    with pytest.raises(NotFound, match="nowhere"):
        await store.write("nowhere", "k", pieces(bytes(9 * MIB)))


# Servers


@pytest.fixture
async def fault_minio(fault_bed: Bed) -> Minio:
    await fault_bed.start("minio")
    return fault_bed.minio


async def test_a_server_restarted_in_the_middle_of_an_upload(fault_minio: Minio, tmp_path: Path) -> None:
    data = os.urandom(40 * MIB)
    async with opened(fault_minio, window_bytes=8 * MIB, attempts=12) as store:
        await store.create_bucket("pictures")
        handed = asyncio.Event()
        going = asyncio.Event()

        async def source() -> AsyncIterator[bytes]:
            yield data[: 24 * MIB]
            handed.set()
            await going.wait()
            yield data[24 * MIB :]

        writing = asyncio.create_task(store.write("pictures", "k", source()))
        await handed.wait()
        await fault_minio.kill()
        going.set()
        await fault_minio.start()
        info = await writing
        await store.fetch(info, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == data
        assert await uploads_left(store, "pictures", "k") == 0


async def test_a_dead_server_is_unavailable_and_a_living_one_works_again(fault_minio: Minio) -> None:
    async with opened(fault_minio, attempts=2) as store:
        await store.create_bucket("pictures")
        await fault_minio.kill()
        with pytest.raises(Unavailable, match="cannot be reached"):
            await store.head("pictures", "k")
        with pytest.raises(Unavailable, match="cannot be reached"):
            await store.write("pictures", "k", b"x")
        await fault_minio.start()
        await store.write("pictures", "k", b"x")


async def test_a_silent_server_is_given_up_at_the_deadline(fault_minio: Minio) -> None:
    async with opened(fault_minio, attempts=2, deadline_s=0.3) as store:
        await store.create_bucket("pictures")
        await fault_minio.stop()
        began = time.monotonic()
        with pytest.raises(Unavailable, match="did not answer in time"):
            await store.head("pictures", "k")
        assert time.monotonic() - began < 5
        await fault_minio.resume()


async def test_a_full_disk_is_out_of_space_and_not_tried_again(fault_minio: Minio) -> None:
    if fault_minio.bed.disk_mb is None:
        pytest.skip("a small disk is a mount, and to mount takes root")
    async with opened(fault_minio, attempts=2) as store:
        await store.create_bucket("pictures")
        await fault_minio.fill()
        with pytest.raises(OutOfSpace, match="full"):
            await store.write("pictures", "k", bytes(MIB))
        with pytest.raises(OutOfSpace, match="full"):
            await store.write("pictures", "k", pieces(bytes(9 * MIB)))
        assert await every(store.list("pictures")) == []
        await fault_minio.drain()


# Accounts and clocks


async def test_wrong_keys_are_forbidden_and_never_shown(minio: Minio, bucket: str) -> None:
    for account in (Credentials(minio.user, "wrong-secret"), Credentials("NOSUCHKEY", "wrong-secret")):
        store = S3Store(S3Config(endpoint=f"http://{minio.direct}", credentials=account))
        try:
            for attempt in (store.buckets(), store.head(bucket, "k"), store.write(bucket, "k", b"x")):
                with pytest.raises(Forbidden) as caught:
                    await attempt
                told = f"{caught.value} {caught.value.__cause__}"
                assert account.access_key not in told
                assert "wrong-secret" not in told
                assert "Signature=" not in told
        finally:
            await store.close()


@pytest.mark.parametrize("off_s", [-3 * 3600.0, 86_400.0])
async def test_a_wrong_clock_is_corrected_by_that_of_the_store(minio: Minio, bucket: str, off_s: float) -> None:
    async with opened(minio, direct=True, clock=lambda: time.time() + off_s) as store:
        info = await store.write(bucket, f"k{off_s}", b"x")
        assert await store.head(bucket, info.key) == info
