"""Outputs to other S3 stores: with the keys that the user supplied, beside or without outputs to the own store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from dispatcher.sidecar.elsewhere import OtherStores, read_stores
from penstock.errors import InvalidInput, NotFound
from penstock.model import ErrorClass, ItemResult, OtherStore, StorageIO
from tests.sidecar.pods import LocalPod, Shop, started

FAR = OtherStore(endpoint="https://far.example.org", region="us-east-1", access_key="a", secret_key="b" * 20)
COPY = 'cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/"'


def archive(shop: Shop, **changes: Any) -> dict[str, OtherStore]:
    told = OtherStore(
        endpoint=shop.minio.url, region="us-east-1", access_key=shop.minio.user, secret_key=shop.minio.password
    )
    return {"minio.archive": msgspec.structs.replace(told, **changes)}


async def ran(shop: Shop, folder: Path, **changes: Any) -> ItemResult:
    """One item that leaves its input in all outputs."""
    name = f"{shop.pictures}-job"
    plan = shop.plan(await shop.put("pic.txt", b"picture"), name=name, **changes)
    with started(LocalPod(folder / "pod", shop, plan, COPY)) as pod:
        pod.end()
        return await pod.result()


def places(shop: Shop) -> tuple[StorageIO, ...]:
    far = StorageIO(provider="minio", provider_id="archive", bucket=f"{shop.results}-far", folder="kept")
    return (StorageIO(provider="minio", bucket=shop.results, folder="out"), far)


@pytest.mark.components
async def test_an_output_goes_to_both_stores_and_the_bucket_there_is_made(shop: Shop, tmp_path: Path) -> None:
    result = await ran(shop, tmp_path, outputs=places(shop), stores=archive(shop))
    assert result.error is None, result.message
    assert [(output.provider, output.key) for output in result.outputs] == [
        ("minio.default", "out/pic.txt"),
        ("minio.archive", "kept/pic.txt"),
    ]
    assert await shop.get(f"{shop.results}-far", "kept/pic.txt") == b"picture"
    info = await shop.store.head(f"{shop.results}-far", "kept/pic.txt")
    assert info.metadata["penstock-hops"] == "1", "it carries where it comes from"


@pytest.mark.components
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"secret_key": "not this one at all"}, "SignatureDoesNotMatch"),
        ({"endpoint": "ftp://nowhere"}, "is not the URL of an object store"),
        ({"endpoint": "https://127.0.0.1:1", "verify": "/no/such.pem"}, "storage_providers.minio.archive.verify"),
    ],
)
async def test_a_store_that_refuses_is_named_and_the_own_one_has_its_output(
    shop: Shop, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    result = await ran(shop, tmp_path, outputs=places(shop), stores=archive(shop, **changes))
    assert result.error is ErrorClass.PUBLISH
    assert f"minio.archive:{shop.results}-far/kept/pic.txt" in result.message
    assert says in result.message
    assert shop.minio.password not in result.message
    assert "not this one" not in result.message
    assert await shop.keys() == ["out/pic.txt"]


@pytest.mark.components
async def test_a_store_without_keys_is_refused_by_name(shop: Shop, tmp_path: Path) -> None:
    result = await ran(shop, tmp_path, outputs=places(shop))
    assert result.error is ErrorClass.PUBLISH
    assert "storage_providers.minio.archive" in result.message
    with pytest.raises(NotFound):
        await shop.get(f"{shop.results}-far", "kept/pic.txt")


def test_keys_that_cannot_be_read_are_refused_without_their_text(tmp_path: Path) -> None:
    (tmp_path / "stores.json").write_bytes(b'{"s3.archive": {"secret_key": "hush"}}')
    with pytest.raises(InvalidInput) as refused:
        read_stores(str(tmp_path))
    assert "hush" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_without_a_mount_there_is_no_other_store(tmp_path: Path) -> None:
    assert not read_stores(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("virtual", "bucket", "host"),
    [
        (False, "books", "far.example.org"),
        (True, "books", "books.far.example.org"),
        (True, "books.old", "far.example.org"),
    ],
)
def test_a_bucket_with_a_dot_is_never_a_host(virtual: bool, bucket: str, host: str) -> None:
    told = {"s3.archive": msgspec.structs.replace(FAR, virtual=virtual)}
    stores = OtherStores(told, 1)
    store = stores.store("s3.archive", bucket)
    assert store._endpoint.place(bucket, "key")[0] == host
    assert stores.store("s3.archive", bucket) is store
