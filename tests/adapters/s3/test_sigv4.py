"""Signature Version 4 against the values that its specification publishes."""

from __future__ import annotations

import calendar
import time
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.adapters.s3.sigv4 import (
    EMPTY_SHA256,
    UNSIGNED,
    Credentials,
    Scope,
    canonical_request,
    escape,
    escape_path,
    presign,
    query_string,
    sign,
    signature,
    string_to_sign,
    timestamp,
)

# The general test suite: service "service", 2015-08-30T12:36:00Z.
SUITE = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
SUITE_SCOPE = Scope("us-east-1", "service")
SUITE_STAMP = "20150830T123600Z"
SUITE_HEADERS = {"host": "example.amazonaws.com", "x-amz-date": SUITE_STAMP}

# The examples of "Authenticating Requests" for S3: 2013-05-24T00:00:00Z.
S3_KEYS = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
S3_NOW = float(calendar.timegm(time.strptime("20130524T000000Z", "%Y%m%dT%H%M%SZ")))
S3_HOST = "examplebucket.s3.amazonaws.com"


@pytest.mark.parametrize(
    ("method", "path", "query", "expected"),
    [
        ("GET", "/", "", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", "/", "", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        (
            "GET",
            "/",
            query_string([("Param2", "value2"), ("Param1", "value1")]),
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        ("GET", escape_path("/ሴ"), "", "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"),
    ],
    ids=["get-vanilla", "post-vanilla", "get-vanilla-query-order-key-case", "get-utf8"],
)
def test_general_vectors(method: str, path: str, query: str, expected: str) -> None:
    canonical, names = canonical_request(method, path, query, SUITE_HEADERS, EMPTY_SHA256)
    assert names == "host;x-amz-date"
    text = string_to_sign(canonical, SUITE_STAMP, SUITE_SCOPE)
    assert signature(SUITE, SUITE_SCOPE, SUITE_STAMP, text) == expected


def test_header_values_are_trimmed_as_published() -> None:
    headers = {**SUITE_HEADERS, "my-header1": " value1 ", "my-header2": ' "a   b   c" '}
    canonical, names = canonical_request("GET", "/", "", headers, EMPTY_SHA256)
    assert names == "host;my-header1;my-header2;x-amz-date"
    text = string_to_sign(canonical, SUITE_STAMP, SUITE_SCOPE)
    expected = "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"
    assert signature(SUITE, SUITE_SCOPE, SUITE_STAMP, text) == expected


@pytest.mark.parametrize(
    ("method", "path", "query", "headers", "payload_hash", "expected"),
    [
        (
            "GET",
            "/test.txt",
            "",
            {"range": "bytes=0-9"},
            EMPTY_SHA256,
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "PUT",
            escape_path("/test$file.text"),
            "",
            {"date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
            "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        (
            "GET",
            "/",
            query_string([("lifecycle", "")]),
            {},
            EMPTY_SHA256,
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "GET",
            "/",
            query_string([("prefix", "J"), ("max-keys", "2")]),
            {},
            EMPTY_SHA256,
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
    ids=["get-range", "put", "get-lifecycle", "list"],
)
def test_s3_examples(
    *, method: str, path: str, query: str, headers: dict[str, str], payload_hash: str, expected: str
) -> None:
    signed = sign(
        S3_KEYS,
        Scope(),
        S3_NOW,
        method=method,
        path=path,
        query=query,
        headers={"Host": S3_HOST, **headers},
        payload_hash=payload_hash,
    )
    assert signed["x-amz-date"] == "20130524T000000Z"
    assert signed["x-amz-content-sha256"] == payload_hash
    assert signed["authorization"].startswith(
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, SignedHeaders="
    )
    assert signed["authorization"].endswith(f", Signature={expected}")


def test_presigned_example() -> None:
    query = presign(
        S3_KEYS, Scope(), S3_NOW, method="GET", path="/test.txt", query=[], headers={"host": S3_HOST}, expires_s=86400
    )
    fields = dict(parse_qsl(query))
    assert fields["X-Amz-Signature"] == "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    assert fields["X-Amz-Credential"] == "AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request"
    assert fields["X-Amz-Expires"] == "86400"


def test_a_session_token_is_signed_and_no_secret_is_shown() -> None:
    keys = Credentials("AKID", "the-secret", "the-token")
    assert "the-secret" not in repr(keys)
    assert "the-token" not in repr(keys)
    signed = sign(
        keys, Scope(), 0.0, method="GET", path="/", query="", headers={"host": "h"}, payload_hash=EMPTY_SHA256
    )
    assert signed["x-amz-security-token"] == "the-token"
    assert "SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token," in signed["authorization"]
    query = presign(keys, Scope(), 0.0, method="GET", path="/", query=[], headers={"host": "h"}, expires_s=60)
    assert ("X-Amz-Security-Token", "the-token") in parse_qsl(query)


def test_times_are_cut_to_seconds() -> None:
    assert timestamp(0) == "19700101T000000Z"
    signed = sign(
        S3_KEYS, Scope(), 86399.999, method="GET", path="/", query="", headers={"host": "h"}, payload_hash=UNSIGNED
    )
    assert signed["x-amz-date"] == "19700101T235959Z"


def test_only_unreserved_letters_stay() -> None:
    assert escape("AZaz09-._~") == "AZaz09-._~"
    assert escape(" +/=&%#?*'é\n") == "%20%2B%2F%3D%26%25%23%3F%2A%27%C3%A9%0A"
    assert escape_path("a//b/../c d") == "a//b/../c%20d"
    with pytest.raises(UnicodeEncodeError):
        escape("\udcff")


@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=6))
def test_a_query_is_ordered_by_its_escaped_bytes_and_loses_nothing(query: list[tuple[str, str]]) -> None:
    encodable = [(n, v) for n, v in query if (n + v).isprintable() and n]
    text = query_string(encodable)
    pairs = [tuple(part.split("=")) for part in text.split("&")] if text else []
    assert pairs == sorted(pairs)
    assert sorted(parse_qsl(text, keep_blank_values=True)) == sorted(encodable)
