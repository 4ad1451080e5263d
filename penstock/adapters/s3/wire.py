"""The XML and header forms of S3's answers, parsed into values. Pure.

Answers come from a server that is trusted with the data but not with our process: document types, from which entity
bombs are made, are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET

from penstock.adapters.s3.etags import version_of
from penstock.errors import Corrupt
from penstock.model import ObjectInfo

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
#: MinIO reports some full disks as an internal error, with the system's words as its cause.
_NO_SPACE = b"no space left on device"
FULL = "XMinioStorageFull"
_CODE = re.compile(r"[A-Za-z0-9.]{1,64}\Z")


@dataclass(frozen=True)
class Page:
    """One page of a listing, and how to ask for the next; None = this was the last."""

    objects: list[ObjectInfo]
    next: tuple[tuple[str, str], ...] | None


@dataclass(frozen=True)
class Seen:
    """What a HEAD tells: the time in whole seconds, the metadata, and the number of the write that made it."""

    etag: str
    size: int
    modified_s: int
    version_id: str | None
    metadata: dict[str, str]
    write: str
    #: The store's clock when it answered, in whole seconds.
    answered_s: int


def parse(body: bytes) -> ET.Element:
    """Raises Corrupt for what is not the XML of an S3 answer."""
    try:
        if b"<!DOCTYPE" in body[:1024]:
            raise Corrupt("the object store answered with a document type, which no S3 answer has")
        return ET.fromstring(body)  # noqa: S314 - no document type, so nothing to expand
    except ET.ParseError as error:
        raise Corrupt("the object store's answer is not XML; is the endpoint that of an S3 store?") from error


def document(root: ET.Element) -> bytes:
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def local(tag: str) -> str:
    """An element's name without its namespace, which stores write or leave out."""
    return tag.rpartition("}")[2]


def children(element: ET.Element) -> Iterator[tuple[str, ET.Element]]:
    for child in element:
        yield local(child.tag), child


def texts(element: ET.Element) -> dict[str, str]:
    """The texts of an element's children by name; the last of several counts."""
    return {child.tag.rpartition("}")[2]: child.text or "" for child in element}


def error_code(body: bytes) -> str:
    """The code of an error answer; empty where the body is no S3 error (a proxy's page, say)."""
    if b"<Error" not in body:
        return ""
    if _NO_SPACE in body:
        return FULL
    try:
        return tame_code(texts(parse(body)).get("Code", ""))
    except Corrupt:
        return ""


def tame_code(code: str) -> str:
    """The code where it is a plain word, as it goes into sentences; else empty."""
    return code if _CODE.match(code) else ""


def time_ms(text: str) -> int:
    """Milliseconds since the epoch of a listing's time, cut, not rounded. Raises Corrupt."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment - _EPOCH) // _MS
    except (ValueError, TypeError) as error:
        raise Corrupt(f"the object store wrote a time that cannot be read: {text[:40]!r}") from error


@lru_cache(maxsize=64)
def http_time_s(text: str | None) -> int:
    """Seconds since the epoch of a header's time; 0 where there is none that can be read."""
    try:
        return int(parsedate_to_datetime(text).timestamp()) if text else 0
    except (ValueError, TypeError):
        return 0


def objects_page(bucket: str, body: bytes) -> Page:
    """Parse a ListObjectsV2 answer."""
    root = parse(body)
    top = texts(root)
    encoded = top.get("EncodingType") == "url"
    found = [_object(bucket, texts(child), encoded) for name, child in children(root) if name == "Contents"]
    if top.get("IsTruncated") != "true":
        return Page(found, None)
    token = top.get("NextContinuationToken")
    if not token:
        raise Corrupt("the object store cut a listing short without saying how to go on")
    return Page(found, (("continuation-token", token),))


def versions_page(bucket: str, body: bytes, *, latest: bool) -> Page:
    """Parse a ListObjectVersions answer, delete markers left out; `latest` = only the current version of each key."""
    root = parse(body)
    top = texts(root)
    encoded = top.get("EncodingType") == "url"
    found = []
    for name, child in children(root):
        if name == "Version":
            fields = texts(child)
            if not latest or fields.get("IsLatest") == "true":
                found.append(_object(bucket, fields, encoded))
    if top.get("IsTruncated") != "true":
        return Page(found, None)
    key, version = top.get("NextKeyMarker"), top.get("NextVersionIdMarker")
    if not key:
        raise Corrupt("the object store cut a listing of versions short without saying how to go on")
    marker = unquote_plus(key) if encoded else key
    return Page(found, (("key-marker", marker), *((("version-id-marker", version),) if version else ())))


def _object(bucket: str, fields: dict[str, str], encoded: bool) -> ObjectInfo:
    try:
        key = fields["Key"]
        modified = time_ms(fields["LastModified"])
        return ObjectInfo(
            bucket=bucket,
            key=unquote_plus(key) if encoded else key,
            etag=fields["ETag"].strip('"'),
            size=int(fields["Size"]),
            modified_ms=modified,
            arrived_ms=modified,
            version_id=version_of(fields.get("VersionId")),
        )
    except (KeyError, ValueError) as error:
        raise Corrupt("the object store's listing lacks a key, time, etag or size of an object") from error


def bucket_names(body: bytes) -> tuple[list[str], str | None]:
    """Parse a ListBuckets answer: names, and the token of the next page."""
    root = parse(body)
    names = [
        texts(bucket).get("Name", "")
        for name, group in children(root)
        if name == "Buckets"
        for _, bucket in children(group)
    ]
    return names, texts(root).get("ContinuationToken") or None
