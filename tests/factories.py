"""Small valid values for tests; every field that a test cares about is named by the test."""

from __future__ import annotations

from typing import Any

from penstock.model import BucketEvent, Function, StorageIO

NOW = 1_800_000_000_000


def make_event(key: str = "in/a.png", **changes: Any) -> BucketEvent:
    fields: dict[str, Any] = {
        "bucket": "photos",
        "key": key,
        "etag": "e1",
        "size": 10,
        "time_ms": NOW,
        "arrived_ms": NOW,
        "hops": 0,
    }
    return BucketEvent(**(fields | changes))


def make_function(name: str = "thumbs", **changes: Any) -> Function:
    fields: dict[str, Any] = {
        "name": name,
        "uid": f"uid-{name}",
        "script": "true\n",
        "inputs": (StorageIO(provider="local", bucket="photos", folder="in"),),
        "outputs": (StorageIO(provider="local", bucket="photos", folder="out"),),
        "token": "0" * 64,
    }
    return Function(**(fields | changes))
