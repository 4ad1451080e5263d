"""Identities never change and never collide: they decide what already ran."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from penstock.identity import (
    JOB_NAME_LIMIT,
    function_folder,
    invocation_id,
    job_id,
    job_name,
    object_identity,
    payload_identity,
)
from penstock.model import BucketEvent, ObjectInfo, Origin
from tests.factories import NOW

KEYS = st.one_of(
    st.text(min_size=1),
    st.sampled_from(["a+b", "a%2Bb", "a b", "a/b", "ñ.png", "n\u0303.png", "日本", "\udcff.bin", "a\nb", "..a"]),
)


def test_known_values_stay_as_they_are() -> None:
    """Everything that ever ran is remembered under these."""
    identity = object_identity("photos", "in/a b+c%.png", version_id=None, etag="abc", modified_ms=NOW)
    assert identity == "2fe0a1f2b300dbfc8243f0fc4fdc3b40d6d5675d4169de17bb7501633e0e033d"
    assert object_identity("b", "k", version_id="v1", etag="x", modified_ms=1) == (
        "333d77c78c9fb199fa3250f471e0db68ffa47315de1e80561fe7ca9e2c19ff2e"
    )
    assert payload_identity("u", "s1") == "9893866caf57a3059aca751dc49d5300994ccd348cfcbf9fa1993d3770aa1896"
    assert invocation_id("u", identity) == "17a48ab46f6f7b4a140c82dbbf5102bebd8307c0"
    assert job_id([("a", 1), ("b", 2)]) == "5c382b91b37476b611590c7659209fba66bba3c5020bf50b9e8f0d9555772f08"
    assert function_folder("0123456789abcdef0123456789abcdef") == "0123456789abcdef0123456789abcdef"
    assert function_folder("a/b") == "~0e2ceefbe732391e487b8bb25cbc04649a253d8efa7712020704b05bc51330a0"


@given(KEYS, KEYS, st.text(), st.text())
def test_fields_cannot_run_into_each_other(bucket: str, key: str, etag: str, tail: str) -> None:
    whole = object_identity(bucket, key, version_id=None, etag=etag, modified_ms=1)
    if tail:
        assert whole != object_identity(bucket + tail, key, version_id=None, etag=etag, modified_ms=1)
        assert whole != object_identity(bucket, key + tail, version_id=None, etag=etag, modified_ms=1)
        moved = object_identity(bucket + key[:1], key[1:], version_id=None, etag=etag, modified_ms=1)
        assert whole != moved or not key


@given(KEYS, st.integers(0, 2**41), st.text("0123456789abcdef", min_size=1))
def test_event_and_listing_of_one_version_have_one_identity(key: str, modified_ms: int, etag: str) -> None:
    info = ObjectInfo(bucket="b", key=key, etag=etag, size=3, modified_ms=modified_ms, arrived_ms=modified_ms + 5)
    pushed = BucketEvent(
        bucket="b", key=key, etag=f'"{etag}"', size=3, time_ms=modified_ms, arrived_ms=modified_ms, origin=Origin.PUSH
    )
    assert BucketEvent.of(info, Origin.LISTING).identity == info.identity == pushed.identity


@given(KEYS, st.integers(0, 2**41), st.integers(0, 2**41))
def test_a_version_id_decides_alone_and_without_one_time_and_etag_do(key: str, first: int, second: int) -> None:
    def identity(version: str | None, etag: str, modified_ms: int) -> str:
        return object_identity("b", key, version_id=version, etag=etag, modified_ms=modified_ms)

    assert identity("v", "e", first) == identity("v", "f", second)
    assert identity("v", "e", first) != identity("w", "e", first)
    assert identity(None, "e", first) != identity(None, "f", first)
    assert (identity(None, "e", first) == identity(None, "e", second)) == (first == second)
    assert identity(None, "e", first) != identity("", "e", first), "no version is not an empty one"


def test_functions_and_submissions_keep_apart() -> None:
    identity = payload_identity("u", "s1")
    assert identity != payload_identity("u", "s2")
    assert identity != payload_identity("us", "1")
    assert invocation_id("u1", identity) != invocation_id("u2", identity)
    assert len(invocation_id("u1", identity)) == 40


@given(st.lists(st.tuples(st.text("ab", min_size=1), st.integers(1, 9)), min_size=1, max_size=5))
def test_a_job_is_its_ordered_list(items: list[tuple[str, int]]) -> None:
    assert job_id(items) == job_id(list(items))
    assert job_id(items) != job_id([*items, ("a", 1)])
    later = [(items[0][0], items[0][1] + 1), *items[1:]]
    assert job_id(items) != job_id(later)
    if items != items[::-1]:
        assert job_id(items) != job_id(items[::-1])


@given(st.text(), st.text("0123456789abcdef", min_size=64, max_size=64))
def test_job_names_are_dns_labels_of_bounded_length(function: str, job: str) -> None:
    name = job_name(function, job)
    assert len(name) <= JOB_NAME_LIMIT
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)


def test_long_names_of_functions_still_give_different_jobs() -> None:
    assert job_name("f" * 80, "a" * 64) != job_name("f" * 80, "b" * 64)


#: As registries make them, and everything that could be made to look like another one.
UIDS = st.one_of(
    st.uuids().map(lambda uid: uid.hex),
    st.text(),
    st.text("aA-./*?$~", max_size=4),
    st.text(max_size=4).map(function_folder),
    st.text("ab", min_size=62, max_size=65),
)


@given(UIDS, UIDS)
def test_two_functions_never_share_a_folder(one: str, other: str) -> None:
    first, second = function_folder(one), function_folder(other)
    # Also where the store does not tell capital letters from small ones.
    assert (first.lower() == second.lower()) == (one == other)
    assert not f"{first}/".startswith(f"{second}/") or one == other


@given(UIDS)
def test_a_functions_folder_is_plain_for_stores_file_systems_and_policies(uid: str) -> None:
    folder = function_folder(uid)
    assert re.fullmatch(r"[a-z0-9-]{1,63}|~[0-9a-f]{64}", folder)
