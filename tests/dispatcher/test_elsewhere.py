from __future__ import annotations

from typing import Any

import pytest

from dispatcher.elsewhere import other_stores
from dispatcher.plan import make_plan
from penstock.model import Function, OtherStore, StorageIO
from tests.factories import make_function

KEYS = {"access_key": "a", "secret_key": "b"}


def function(providers: dict[str, Any], *outputs: str) -> Function:
    made = []
    for one in outputs:
        kind, _, identity = one.partition(".")
        made.append(StorageIO(provider=kind, provider_id=identity or "default", bucket="there"))
    return make_function(outputs=tuple(made), storage_providers=providers)


def test_a_minio_of_ones_own_needs_its_endpoint() -> None:
    far = {**KEYS, "endpoint": "https://far:9000", "region": "eu-1", "verify": False}
    assert other_stores(function({"minio": {"far": far}}, "minio.far")) == {
        "minio.far": OtherStore(
            endpoint="https://far:9000", region="eu-1", access_key="a", secret_key="b", verify=False
        )
    }
    assert other_stores(function({"minio": {"far": KEYS}}, "minio.far")) == {}


@pytest.mark.parametrize(
    ("region", "endpoint"),
    [
        ("", "https://s3.us-east-1.amazonaws.com"),
        ("eu-west-3", "https://s3.eu-west-3.amazonaws.com"),
        ("cn-north-1", "https://s3.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_amazon_is_found_by_its_region(region: str, endpoint: str) -> None:
    (store,) = other_stores(function({"s3": {"default": {**KEYS, "region": region}}}, "s3")).values()
    assert (store.endpoint, store.virtual) == (endpoint, True)


@pytest.mark.parametrize("given", [{}, {"access_key": "a"}, {"secret_key": "b", "access_key": ""}])
def test_without_both_keys_there_is_no_store(given: dict[str, Any]) -> None:
    assert other_stores(function({"s3": {"archive": given}}, "s3.archive")) == {}


def test_only_what_outputs_name_and_what_speaks_s3_is_told() -> None:
    providers = {
        "s3": {"used": KEYS, "unused": KEYS},
        "minio": {"default": {**KEYS, "endpoint": "https://own"}},
        "webdav": {"box": {"hostname": "box", "login": "l", "password": "p"}},
    }
    made = function(providers, "minio", "local", "s3.used", "s3.used", "webdav.box")
    assert list(other_stores(made)) == ["s3.used"]
    assert list(make_plan(made, []).stores) == ["s3.used"]
