"""The pure half: targets are read exactly once, refusals agree with the store, errors are well-formed."""

from __future__ import annotations

from urllib.parse import quote
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.s3 import rclone, rules
from gateway.s3.access import S3Access, s3_access_of
from gateway.s3.rules import Refusal, refusal, target_of
from penstock.adapters.directory.names import split_key
from penstock.errors import Unsupported

KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(KEYS)
def test_a_key_is_decoded_exactly_once(key: str) -> None:
    target = target_of(f"/bucket/{quote(key, safe='/')}?versions&prefix=a%2Fb")
    assert target is not None
    assert (target.bucket, target.key) == ("bucket", key)
    assert target.query == {"versions": "", "prefix": "a/b"}


@given(KEYS)
def test_what_the_store_cannot_hold_is_refused_and_nothing_else(key: str) -> None:
    target = target_of(f"/bucket/{quote(key, safe='/')}")
    try:
        split_key(key)
    except Unsupported:
        told = refusal("PUT", target)
        assert told is not None
        assert (told.status, told.code) == (400, "InvalidArgument")
    else:
        assert refusal("PUT", target) is None
    assert refusal("GET", target) is None


@pytest.mark.parametrize("raw", ["*", "http://elsewhere/x", "/bucket/%ff%fe"])
def test_what_is_no_path_is_refused(raw: str) -> None:
    assert refusal("GET", target_of(raw)) is not None


@pytest.mark.parametrize(
    ("method", "raw", "code"),
    [
        ("PUT", "/Bad_Name", "InvalidBucketName"),
        ("GET", "/.penstock-tmp/x", "NoSuchBucket"),
        ("GET", "/penstock-system/logs", "AccessDenied"),
        ("GET", "/%70enstock-system/logs", "AccessDenied"),
        ("POST", "/bucket", "NotImplemented"),
    ],
)
def test_buckets_that_are_none(method: str, raw: str, code: str) -> None:
    told = refusal(method, target_of(raw))
    assert told is not None
    assert told.code == code


def test_several_deletions_in_one_request_pass() -> None:
    assert refusal("POST", target_of("/bucket?delete")) is None
    assert refusal("POST", target_of("/bucket/key?uploads")) is None


@given(st.text(max_size=60), st.text(max_size=60))
def test_errors_are_xml_whatever_stands_in_them(message: str, resource: str) -> None:
    read = ET.fromstring(rules.document(Refusal(400, "InvalidArgument", message), resource))
    assert read.findtext("Code") == "InvalidArgument"


def test_the_checksum_of_the_whole_is_withheld_from_parts_alone() -> None:
    assert not rules.passed_back("x-amz-checksum-crc32", part=True)
    assert rules.passed_back("x-amz-checksum-crc32", part=False)
    assert not rules.passed_back("Transfer-Encoding", part=False)
    assert not rules.passed_on("Expect")


def test_the_key_pair_is_in_the_environment_and_nowhere_else(tmp_path: object) -> None:
    access = S3Access(endpoint="http://x", access_key="ACCESS", secret_key="s3cret")
    assert "s3cret" not in repr(access)
    environ = rclone.environment({"PATH": "/bin", "RCLONE_READ_ONLY": "true", "LISTEN_FDS": "9"}, access)
    assert environ == {"PATH": "/bin", "RCLONE_AUTH_KEY": '"ACCESS,s3cret"'}


def test_no_endpoint_no_access() -> None:
    class Keys:
        s3_access_key = "a"
        s3_secret_key = "b"

    assert s3_access_of("", Keys()) is None
    assert s3_access_of("http://x", Keys()) == S3Access(endpoint="http://x", access_key="a", secret_key="b")
