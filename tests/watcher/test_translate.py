"""Raw notifications against what a listing of the same object gives: one version, one identity."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.model import BucketEvent, ObjectInfo, Origin
from watcher.translate import Translation, hops_of, translate

text = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("+%/ &=?#é\n"), min_size=1, max_size=40)
keys = (text | st.sampled_from(["a b+c%2F/ü", "%", "+", "100%25", "a%20b", "x+y z"])).filter(
    lambda key: not key.endswith("/")
)
versions = st.sampled_from(["", "null"]) | st.uuids().map(str)
moments = st.integers(0, 2**63 - 1)


def record(
    name: str, /, *, bucket: str = "in", event: str = "s3:ObjectCreated:Put", modified_ns: int = 10**18, **fields: Any
) -> dict[str, Any]:
    """As MinIO sends it to a webhook: the key escaped, slashes included."""
    item = {"key": quote_plus(name), "size": 3, "eTag": "e1", "sequencer": f"{modified_ns:X}", **fields}
    return {"eventName": event, "s3": {"bucket": {"name": bucket}, "object": item}}


def envelope(*records: dict[str, Any], key: str = "") -> bytes:
    return json.dumps({"EventName": "s3:ObjectCreated:Put", "Key": key, "Records": list(records)}).encode()


def only(translation: Translation) -> BucketEvent:
    assert not translation.quarantined
    (event,) = translation.events
    return event


@given(key=keys, version=versions, modified_ns=moments, escape=st.sampled_from([quote_plus, quote]))
def test_event_and_listing_have_one_identity(key: str, version: str, modified_ns: int, escape: Any) -> None:
    """However the key was escaped (MinIO escapes slashes and turns blanks into plus, others do not)."""
    item = {"key": escape(key), "versionId": version, "eTag": '"e1"'}
    raw = record(key, modified_ns=modified_ns, **item)
    listed = ObjectInfo(
        bucket="in",
        key=key,
        etag="e1",
        size=3,
        modified_ms=modified_ns // 1_000_000,
        arrived_ms=modified_ns // 1_000_000,
        version_id=version if version not in {"", "null"} else None,
    )
    event = only(translate(envelope(raw, key=f"in/{key}")))
    assert event == BucketEvent.of(listed, Origin.PUSH)
    assert event.identity == listed.identity
    # Without the envelope's key, and with two records in one body, the escaped key alone tells the same.
    assert only(translate(envelope(raw))) == event
    two = translate(envelope(raw, record("other"), key="in/misleading"))
    assert [found.key for found in two.events] == [key, "other"]


@given(key=keys)
def test_the_listen_interface_sends_keys_raw(key: str) -> None:
    assert only(translate(envelope(record("x", key=key), key="in/x"), escaped=False)).key == key


@given(st.binary() | st.recursive(st.none() | st.integers() | text, st.lists).map(lambda v: json.dumps(v).encode()))
def test_no_bytes_make_it_raise(body: bytes) -> None:
    translation = translate(body)
    assert translation.quarantined
    assert not translation.events


@given(
    st.dictionaries(
        st.sampled_from(["key", "size", "eTag", "sequencer", "versionId", "userMetadata"]), st.none() | text
    )
)
def test_a_damaged_record_never_disturbs_its_neighbour(fields: dict[str, Any]) -> None:
    translation = translate(envelope(record("good"), record("k", **fields)))
    assert translation.events[0].key == "good"
    assert len(translation.events) + len(translation.quarantined) + translation.ignored == 2
    assert all(found.index == 1 for found in translation.quarantined)


@pytest.mark.parametrize("name", ["Put", "Post", "Copy", "CompleteMultipartUpload"])
def test_what_makes_objects(name: str) -> None:
    assert only(translate(envelope(record("k", event=f"s3:ObjectCreated:{name}")))).key == "k"
    assert only(translate(envelope(record("k", event=f"ObjectCreated:{name}")))).key == "k"


@pytest.mark.parametrize(
    "name",
    [
        "s3:ObjectCreated:PutTagging",
        "s3:ObjectCreated:PutRetention",
        "s3:ObjectCreated:PutLegalHold",
        "s3:ObjectCreated:DeleteTagging",
        "s3:ObjectRemoved:Delete",
        "s3:ObjectAccessed:Put",
        "s3:ObjectCreated",
        "s3:ObjectCreated:Put:more",
        "",
    ],
)
def test_what_makes_none_is_ignored(name: str) -> None:
    assert translate(envelope(record("k", event=name))) == Translation(ignored=1)


def test_folder_markers_are_ignored() -> None:
    assert translate(envelope(record("a/b/"), record("c/"))) == Translation(ignored=2)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"sequencer": ""}, "sequencer"),
        ({"sequencer": "0x1F"}, "sequencer"),
        ({"sequencer": "-1"}, "sequencer"),
        ({"sequencer": "1_0"}, "sequencer"),
        ({"sequencer": "\u0661"}, "sequencer"),
        ({"sequencer": "F" * 33}, "sequencer"),
        ({"eTag": ""}, "eTag"),
        ({"size": -1}, "size"),
        ({"size": "3"}, "record"),
        ({"key": "%FF"}, "UTF-8"),
        ({"key": ""}, "no key"),
    ],
)
def test_what_cannot_be_understood_is_put_aside_with_a_reason(fields: dict[str, Any], why: str) -> None:
    translation = translate(envelope(record("k", **fields)))
    assert not translation.events
    (quarantined,) = translation.quarantined
    assert quarantined.index == 0
    assert why in quarantined.why


@pytest.mark.parametrize(
    ("metadata", "hops"),
    [
        (None, None),
        ({}, 0),
        ({"X-Amz-Meta-Penstock-Hops": "3", "content-type": "x"}, 3),
        ({"x-amz-meta-penstock-hops": "12"}, 12),
        ({"X-Amz-Meta-Penstock-Hops": "-1"}, 0),
        ({"X-Amz-Meta-Penstock-Hops": "many"}, 0),
        ({"X-Amz-Meta-Penstock-Hops": "²"}, 0),
        ({"X-Amz-Meta-Penstock-Hops": "9" * 5000}, 1_000_000),
    ],
)
def test_hop_count(metadata: dict[str, str] | None, hops: int | None) -> None:
    fields: dict[str, Any] = {} if metadata is None else {"userMetadata": metadata}
    assert only(translate(envelope(record("k", **fields)))).hops == hops
    if metadata:
        own = {name.lower().removeprefix("x-amz-meta-"): value for name, value in metadata.items()}
        assert hops_of(own) == hops


def test_an_envelope_of_another_bucket_does_not_name_the_key() -> None:
    assert only(translate(envelope(record("a b"), key="inner/a b"))).key == "a b"
    assert only(translate(envelope(record("a b"), key="in/"))).key == "a b"
