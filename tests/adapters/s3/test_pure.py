"""The parts that decide without a store: names, metadata, places, pauses, and what an answer means."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.adapters.s3 import etags, metadata, names, sources, wire
from penstock.adapters.s3.endpoint import Style, parse_endpoint
from penstock.adapters.s3.notifications import Rule, parse_rules, with_rules
from penstock.adapters.s3.retrying import LONGEST_ASKED_S, LONGEST_S, pause_s, retry_after_s
from penstock.adapters.s3.tags import format_tags, parse_tags
from penstock.adapters.s3.trouble import Failure, Target, Wish, translate
from penstock.errors import (
    AlreadyExists,
    Conflict,
    Corrupt,
    Forbidden,
    InvalidInput,
    NotFound,
    OutOfSpace,
    PenstockError,
    Superseded,
    Unavailable,
    Unsupported,
)

# Names


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("", "empty"),
        ("a\0b", "NUL"),
        ("\udcff", "Unicode"),
        ("é" * 513, "1026 bytes"),
        ("/a", "slash"),
        ("a//b", "slashes"),
        ("a/../b", "not names"),
        (".", "not names"),
        ("x" * 256, "256 bytes"),
    ],
)
def test_impossible_keys_have_a_reason(key: str, why: str) -> None:
    assert why in names.objection(key, any_key=False)


@pytest.mark.parametrize("key", ["/a", "a//b", "..", "a/../b", "x" * 1024, "a\nb", "+ %#?", "é" * 512, "a/"])
def test_a_store_that_takes_any_key_is_asked(key: str) -> None:
    assert names.objection(key, any_key=True) == ""


def test_folders_of_a_key() -> None:
    assert names.parents("a/b/c") == ["a", "a/b"]
    assert names.parents("a/b/") == ["a"]
    assert names.parents("a") == []


@pytest.mark.parametrize(
    ("prefix", "after", "start"),
    [
        ("", "", ""),
        ("b", "a", ""),  # before all of them
        ("b", "b", "b"),
        ("b", "bc", "bc"),
        ("b", "c", None),  # behind all of them
        ("é", "z", ""),  # by bytes, not by letters of any alphabet
        ("", "a\udcff", "a"),
        ("", "a/../b", "a/"),
        ("", "a//b", "a/"),
        ("", ".", ""),
        ("a/b", "a/b/./c", "a/b/"),
        ("\udcff", "", None),
    ],
)
def test_where_a_listing_starts(prefix: str, after: str, start: str | None) -> None:
    assert names.listing_start(prefix, after) == start


@given(
    keys=st.sets(st.text("ab./é\udcff", max_size=4)),
    prefix=st.text("ab/.", max_size=2),
    after=st.text("ab./é", max_size=4),
)
def test_no_key_is_lost_by_the_marker_that_is_sent(keys: set[str], prefix: str, after: str) -> None:
    start = names.listing_start(prefix, after)
    for key in keys:
        if names.is_text(key) and key.startswith(prefix) and os.fsencode(key) > os.fsencode(after):
            assert start is not None
            assert key.encode() > start.encode()


# Metadata

values = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.sampled_from(["", " a", "a  b", "=?x?="])


@given(
    st.dictionaries(st.from_regex(r"\A[a-z0-9._-]{1,10}\Z").filter(lambda n: n != metadata.WRITE), values, max_size=4)
)
def test_any_text_survives_in_a_header(given_metadata: dict[str, str]) -> None:
    headers = metadata.encode(given_metadata, "17")
    for value in headers.values():
        assert value == " ".join(value.split())
        assert value.isascii()
        assert value.isprintable()
    assert metadata.decode(headers) == given_metadata
    assert headers["x-amz-meta-penstock-write"] == "17"


def test_metadata_of_other_programs_is_understood() -> None:
    headers = {"X-Amz-Meta-Note": "=?utf-8?Q?caf=C3=A9_au_lait?=", "x-amz-meta-raw": "caf\udcc3\udca9", "Date": "x"}
    assert metadata.decode(headers) == {"note": "café au lait", "raw": "café"}
    assert metadata.decode_value("=?utf-8?b?!!?=") == "=?utf-8?b?!!?="


@pytest.mark.parametrize(
    "bad", [{"Upper": "x"}, {"a b": "x"}, {"": "x"}, {"k": "\udcff"}, {"k": "x" * 2048}, {"penstock-write": "1"}]
)
def test_metadata_that_cannot_be_kept_is_refused(bad: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match="metadata"):
        metadata.encode(bad, "17")


# Places


@pytest.mark.parametrize(
    ("url", "style", "bucket", "key", "host", "path"),
    [
        ("http://127.0.0.1:9000", Style.PATH, "b", "a//b/../c d", "127.0.0.1:9000", "/b/a//b/../c%20d"),
        ("http://[::1]:9000/", Style.PATH, "b", "", "[::1]:9000", "/b"),
        ("https://S3.example:443", Style.PATH, "", "", "s3.example", "/"),
        ("https://s3.example/store/", Style.PATH, "b", "k", "s3.example", "/store/b/k"),
        ("https://s3.example", Style.VIRTUAL, "b", "/k\n", "b.s3.example", "//k%0A"),
        ("https://s3.example:8443", Style.VIRTUAL, "b", "", "b.s3.example:8443", "/"),
        ("https://s3.example", Style.VIRTUAL, "", "", "s3.example", "/"),
    ],
)
def test_places(*, url: str, style: Style, bucket: str, key: str, host: str, path: str) -> None:
    assert parse_endpoint(url, style).place(bucket, key) == (host, path)


@pytest.mark.parametrize("url", ["", "s3.example", "ftp://x", "http://", "http://x:99999", "http://x?y", "http://[::1"])
def test_what_is_no_endpoint_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="endpoint"):
        parse_endpoint(url)


def test_keys_in_an_endpoint_are_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_endpoint("http://me:hidden@host")
    assert "hidden" not in str(caught.value)


# Pauses


@given(attempt=st.integers(1, 1000), chance=st.floats(0, 1, exclude_max=True), asked=st.none() | st.floats(0, 1e9))
def test_pauses_are_bounded_and_as_long_as_asked(attempt: int, chance: float, asked: float | None) -> None:
    pause = pause_s(attempt, chance, asked)
    assert 0.05 <= pause <= LONGEST_ASKED_S
    if asked is not None:
        assert pause >= min(asked, LONGEST_ASKED_S)
    else:
        assert pause <= LONGEST_S


@pytest.mark.parametrize(
    ("text", "seconds"), [("3", 3.0), ("0", 0.0), (None, None), ("Fri, 31 Dec 1999 23:59:59 GMT", None), ("-1", None)]
)
def test_retry_after(text: str | None, seconds: float | None) -> None:
    assert retry_after_s(text) == seconds


def test_eight_tries_outlive_a_restart() -> None:
    assert 4 < sum(pause_s(attempt, 0.0) for attempt in range(1, 8)) < 12


# What an answer means

READ = Target(Wish.READ, "b", "k")
WRITE = Target(Wish.WRITTEN, "b", "k")
VERSION = Target(Wish.READ, "b", "k", "v1")


@pytest.mark.parametrize(
    ("failure", "target", "expected", "words"),
    [
        (Failure(404, "NoSuchKey"), READ, NotFound, "no object 'k'"),
        (Failure(404, "NoSuchBucket"), WRITE, NotFound, "no bucket 'b'"),
        (Failure(404), READ, NotFound, "no object 'k'"),
        (Failure(404, "NoSuchVersion"), VERSION, NotFound, "'v1'"),
        (Failure(400, "InvalidArgument"), VERSION, NotFound, "'v1'"),
        (Failure(405, "MethodNotAllowed"), VERSION, NotFound, "'v1'"),
        (Failure(400, "InvalidArgument"), READ, InvalidInput, "InvalidArgument"),
        (Failure(403, "AccessDenied"), READ, Forbidden, "AccessDenied"),
        (Failure(403, "InvalidAccessKeyId"), READ, Forbidden, "account"),
        (Failure(401), READ, Forbidden, "refused"),
        (Failure(403, "RequestTimeTooSkewed"), READ, Unavailable, "clocks"),
        (Failure(400, "QuotaExceeded"), WRITE, OutOfSpace, "quota"),
        (Failure(507, "XMinioStorageFull"), WRITE, OutOfSpace, "full"),
        (Failure(507), WRITE, OutOfSpace, "full"),
        (Failure(500, "InternalError"), READ, Unavailable, "later"),
        (Failure(503, "SlowDown"), WRITE, Unavailable, "SlowDown"),
        (Failure(412, "PreconditionFailed"), WRITE, AlreadyExists, "already"),
        (Failure(412, "PreconditionFailed"), READ, Superseded, "replaced"),
        (Failure(409, "BucketNotEmpty"), Target(Wish.DELETED, "b"), Conflict, "not empty"),
        (Failure(409, "BucketAlreadyExists"), Target(Wish.WRITTEN, "b"), AlreadyExists, "another account"),
        (Failure(400, "XMinioInvalidObjectName"), WRITE, Unsupported, "cannot be stored"),
        (Failure(400, "XMinioInvalidObjectName"), READ, NotFound, "impossible"),
        (Failure(501, "NotImplemented"), WRITE, Unsupported, "cannot do it"),
        (Failure(400, "MetadataTooLarge"), WRITE, InvalidInput, "metadata"),
        (Failure(301, "PermanentRedirect"), READ, InvalidInput, "301 PermanentRedirect"),
    ],
)
def test_errors(failure: Failure, target: Target, expected: type[PenstockError], words: str) -> None:
    error = translate(failure, target)
    assert type(error) is expected
    assert words in error.message
    assert "\n" not in error.message
    assert failure.busy == (expected is Unavailable)


# Documents


def test_a_listing_is_parsed_exactly() -> None:
    body = (
        b'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        b"<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>t/=</NextContinuationToken>"
        b"<Contents><Key>a+b%2Bc%0A%C3%A9</Key><LastModified>2026-02-03T04:05:06.789Z</LastModified>"
        b'<ETag>"abc-2"</ETag><Size>7</Size><Owner><ID>x</ID></Owner></Contents></ListBucketResult>'
    )
    page = wire.objects_page("b", body)
    (info,) = page.objects
    assert (info.key, info.etag, info.size, info.modified_ms) == ("a b+c\né", "abc-2", 7, 1770091506789)
    assert info.version_id is None
    assert page.next == (("continuation-token", "t/="),)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>",
        b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
        b'<!DOCTYPE x [<!ENTITY a "b">]><ListBucketResult/>',
        b"<L><Contents><Key>a</Key><LastModified>soon</LastModified><ETag>x</ETag><Size>1</Size></Contents></L>",
    ],
)
def test_what_is_no_listing_is_never_an_empty_one(body: bytes) -> None:
    with pytest.raises(Corrupt):
        wire.objects_page("b", body)


def test_error_codes_of_any_body() -> None:
    assert wire.error_code(b"<Error><Code>SlowDown</Code></Error>") == "SlowDown"
    assert wire.error_code(b"<html>502 Bad Gateway</html>") == ""
    assert wire.error_code(b"<Error><Code>") == ""
    assert wire.error_code(b"<Error><Code>two\nlines</Code></Error>") == ""
    full = b"<Error><Code>InternalError</Code><Message>cause(open: no space left on device)</Message></Error>"
    assert wire.error_code(full) == "XMinioStorageFull"


def test_times_are_cut_and_etags_are_md5_only_when_they_are() -> None:
    assert wire.time_ms("1970-01-01T00:00:00.999999Z") == 999
    assert wire.http_time_s("Thu, 01 Jan 1970 00:00:05 GMT") == 5
    assert wire.http_time_s("yesterday") == 0
    md5 = "d41d8cd98f00b204e9800998ecf8427e"
    assert etags.plain_md5(md5, {}) == md5
    assert etags.plain_md5(f"{md5}-2", {}) is None
    assert etags.plain_md5(md5, {"x-amz-server-side-encryption": "aws:kms"}) is None


prefixes = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)


@given(st.lists(st.builds(Rule, id=prefixes, arn=st.just("arn:x"), prefix=prefixes, suffix=prefixes), max_size=3))
def test_rules_survive_their_document_and_leave_others_alone(rules: list[Rule]) -> None:
    topic = "<TopicConfiguration><Id>t</Id><Topic>arn:t</Topic><Event>e</Event></TopicConfiguration>"
    start = f'<N xmlns="urn:x">{topic}<QueueConfiguration><Queue>old</Queue></QueueConfiguration></N>'.encode()
    document = with_rules(start, rules)
    assert parse_rules(document) == rules
    assert topic.encode() in document
    assert parse_rules(with_rules(document, [])) == []


@given(st.dictionaries(prefixes, prefixes, max_size=4))
def test_tags_survive_their_document(tags: dict[str, str]) -> None:
    assert parse_tags(format_tags(tags)) == tags


# Parts


@given(size=st.integers(1, 5 * 1024**4))
def test_a_file_of_any_size_has_few_enough_parts(size: int) -> None:
    step = sources.file_part_bytes(size, 8 * 1024**2)
    assert -(-size // step) <= sources.MAX_PARTS
    assert step >= 8 * 1024**2


def test_parts_of_a_stream_reach_the_largest_object() -> None:
    total = sum(sources.stream_part_bytes(number, 8 * 1024**2) for number in range(1, sources.MAX_PARTS + 1))
    assert total > 5 * 1024**4


async def test_a_stream_is_cut_exactly() -> None:
    async def data() -> AsyncIterator[bytes]:
        for piece in (b"ab", b"", b"cdefg", b"h"):
            yield piece

    stream = sources.Stream(data())
    assert [await stream.take(3), await stream.take(1), await stream.more(), await stream.take(9)] == [
        b"abc",
        b"d",
        True,
        b"efgh",
    ]
    assert (await stream.more(), stream.taken) == (False, 8)
