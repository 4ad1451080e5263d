"""Our signatures are those of botocore, for requests nobody thought of."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.adapters.s3.config import S3Config
from penstock.adapters.s3.endpoint import Endpoint, Style
from penstock.adapters.s3.presign import presigned_url
from penstock.adapters.s3.sigv4 import EMPTY_SHA256, UNSIGNED, Credentials, Scope, query_string, sign

auth: Any = pytest.importorskip("botocore.auth", reason="the oracle botocore is not installed (dev dependency)")
awsrequest: Any = pytest.importorskip("botocore.awsrequest")
credentials: Any = pytest.importorskip("botocore.credentials")

NOW = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
HEADERS = {"x-amz-meta-note": "two  words", "content-type": "a/b", "content-md5": "1B2M2Y8AsgTpgAmY7PhCfg=="}
texts = st.text(st.sampled_from("ab/.-_~ +%?#&=*'!()\n\\é漢😀") | st.characters(exclude_categories=["Cs"]), max_size=12)
keys = texts.filter(lambda key: key and "\0" not in key and key.strip())
queries = st.lists(st.tuples(st.sampled_from(["prefix", "uploads", "versionId", "a b"]), texts), max_size=3)
tokens = st.none() | st.just("session/token+1=")
styles = st.sampled_from(list(Style))


def frozen_clock() -> Any:
    """botocore asks the clock itself."""
    return mock.patch.object(auth, "get_current_datetime", return_value=NOW.replace(tzinfo=None))


@settings(max_examples=200, deadline=None)
@given(
    method=st.sampled_from(["GET", "PUT", "HEAD", "DELETE", "POST"]),
    key=keys,
    query=queries,
    token=tokens,
    style=styles,
    secure=st.booleans(),
)
def test_headers(
    *, method: str, key: str, query: list[tuple[str, str]], token: str | None, style: Style, secure: bool
) -> None:
    endpoint = Endpoint("https" if secure else "http", "store.example:9000", style)
    host, path = endpoint.place("bucket", key)
    text = query_string(dict(query).items())
    payload_hash = UNSIGNED if secure else EMPTY_SHA256
    ours = sign(
        Credentials("AKID", "secret", token),
        Scope("eu-west-1"),
        NOW.timestamp(),
        method=method,
        path=path,
        query=text,
        headers={"host": host, **HEADERS},
        payload_hash=payload_hash,
    )
    request = awsrequest.AWSRequest(
        method=method,
        url=f"{endpoint.scheme}://{host}{path}" + (f"?{text}" if text else ""),
        headers={"host": host, **HEADERS},
    )
    request.context["has_streaming_input"] = True
    with frozen_clock():
        signer = auth.S3SigV4Auth(credentials.Credentials("AKID", "secret", token), "s3", "eu-west-1")
        signer.add_auth(request)
    assert ours["x-amz-date"] == "20260203T040506Z"
    assert ours["authorization"] == request.headers["Authorization"]


@settings(max_examples=100, deadline=None)
@given(method=st.sampled_from(["GET", "PUT"]), key=keys, token=tokens, style=styles, expires=st.integers(1, 604800))
def test_presigned(method: str, key: str, token: str | None, style: Style, expires: int) -> None:
    config = S3Config(
        endpoint="https://store.example",
        credentials=Credentials("AKID", "secret", token),
        region="eu-west-1",
        style=style,
        any_key=True,
        clock=NOW.timestamp,
    )
    ours = presigned_url(config, method, "bucket", key, expires_s=expires)
    host, path = Endpoint("https", "store.example", style).place("bucket", key)
    request = awsrequest.AWSRequest(method=method, url=f"https://{host}{path}")
    with frozen_clock():
        account = credentials.Credentials("AKID", "secret", token)
        auth.S3SigV4QueryAuth(account, "s3", "eu-west-1", expires=expires).add_auth(request)
    theirs = request.url
    assert urlsplit(ours)[:3] == urlsplit(theirs)[:3]
    assert sorted(urlsplit(ours).query.split("&")) == sorted(urlsplit(theirs).query.split("&"))
