"""Turns raw bucket notifications of MinIO or S3 into events, or into a reason to put them aside.

Pure. Two records of one object version, pushed or listed, must get the same identity, so this is where escaping, times
and version ids are brought to the form that a listing has. What cannot be understood is never dropped and never guessed
at: it is returned as `Quarantined` with a sentence, and the caller keeps the original bytes.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

import msgspec

from penstock.model import BucketEvent, Origin
from penstock.model.objects import META_HOPS, META_TRACE
from penstock.tracing import parsed

#: `ObjectCreated:*` would also name tagging, retention and legal hold, which make no new object.
CREATING = frozenset({"Put", "Post", "Copy", "CompleteMultipartUpload"})

_HOPS, _TRACE = f"x-amz-meta-{META_HOPS}", f"x-amz-meta-{META_TRACE}"
_HEXADECIMAL = re.compile(r"[0-9A-Fa-f]{1,32}")
_MAX_HOPS = 1_000_000


class Quarantined(msgspec.Struct, frozen=True):
    """Why a record cannot become an event; `index` is its place among the body's records, None = the whole body."""

    why: str
    index: int | None = None


class Translation(msgspec.Struct, frozen=True):
    """`ignored` counts records that are understood and no news: deletions, tagging, folder markers."""

    events: tuple[BucketEvent, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    ignored: int = 0


class _Unusable(Exception):
    """A record that cannot be understood; stays inside this module."""


class _Object(msgspec.Struct):
    key: str
    size: int = 0
    eTag: str = ""  # noqa: N815 - S3's spelling
    versionId: str = ""  # noqa: N815
    sequencer: str = ""
    userMetadata: dict[str, str] | None = None  # noqa: N815


class _Bucket(msgspec.Struct):
    name: str


class _S3(msgspec.Struct):
    bucket: _Bucket
    object: _Object


class _Entry(msgspec.Struct):
    eventName: str  # noqa: N815
    s3: _S3


class _Envelope(msgspec.Struct):
    Records: list[msgspec.Raw]
    Key: str = ""


_envelope = msgspec.json.Decoder(_Envelope)
_entry = msgspec.json.Decoder(_Entry)


def translate(body: bytes, *, escaped: bool = True) -> Translation:
    """Translate one webhook body or Kafka value. `escaped` = False for MinIO's listen API, which sends keys raw.

    Never raises for any bytes.
    """
    try:
        envelope = _envelope.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Translation(quarantined=(Quarantined(f"not a bucket notification: {error}"),))
    events: list[BucketEvent] = []
    quarantined: list[Quarantined] = []
    ignored = 0
    for index, raw in enumerate(envelope.Records):
        try:
            entry = _decode(raw)
            key = _key(entry, envelope, escaped=escaped)
            if not _creates(entry.eventName) or key.endswith("/"):
                ignored += 1
            else:
                events.append(_event(entry, key))
        except _Unusable as error:
            quarantined.append(Quarantined(str(error), index))
    return Translation(tuple(events), tuple(quarantined), ignored)


def _decode(raw: msgspec.Raw) -> _Entry:
    try:
        return _entry.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _Unusable(f"not a bucket notification record: {error}") from error


def _creates(name: str) -> bool:
    """MinIO writes "s3:ObjectCreated:Put", AWS "ObjectCreated:Put"."""
    parts = name.removeprefix("s3:").split(":")
    return len(parts) == 2 and parts[0] == "ObjectCreated" and parts[1] in CREATING


def _key(entry: _Entry, envelope: _Envelope, *, escaped: bool) -> str:
    """The envelope's key is never escaped, but names one object only."""
    bucket, key = entry.s3.bucket.name, entry.s3.object.key
    if not bucket or not key:
        raise _Unusable("the record names no bucket or no key")
    if not escaped:
        return key
    if len(envelope.Records) == 1 and envelope.Key.startswith(f"{bucket}/") and len(envelope.Key) > len(bucket) + 1:
        return envelope.Key[len(bucket) + 1 :]
    try:
        return unquote_plus(key, errors="strict")
    except UnicodeDecodeError as error:
        raise _Unusable(f"the key {key[:200]!r} does not unescape to UTF-8 text") from error


def _event(entry: _Entry, key: str) -> BucketEvent:
    item = entry.s3.object
    if not item.eTag:
        raise _Unusable(f"the record of {key[:200]!r} has no eTag")
    if item.size < 0:
        raise _Unusable(f"the record of {key[:200]!r} has a negative size")
    modified_ms = _modified_ms(item, key)
    return BucketEvent(
        bucket=entry.s3.bucket.name,
        key=key,
        etag=item.eTag.strip('"'),
        size=item.size,
        time_ms=modified_ms,
        arrived_ms=modified_ms,
        # Versioning off or suspended: the store overwrites in place, so etag and time identify, as in its listing.
        version_id=item.versionId if item.versionId not in {"", "null"} else None,
        origin=Origin.PUSH,
        hops=_hops(item.userMetadata),
        trace=_trace(item.userMetadata),
    )


def _modified_ms(item: _Object, key: str) -> int:
    """The sequencer is the modification time in ns, in hexadecimal; a listing shows it cut to ms."""
    # int() alone would accept signs, blanks, underscores, "0x" and digits of other scripts.
    if not _HEXADECIMAL.fullmatch(item.sequencer):
        raise _Unusable(f"the record of {key[:200]!r} has no usable sequencer: {item.sequencer[:40]!r}")
    return int(item.sequencer, 16) // 1_000_000


def _hops(metadata: dict[str, str] | None) -> int | None:
    """None = the record does not say. Metadata without a count: no function made the object."""
    if metadata is None:
        return None
    return next((_number(value) for name, value in metadata.items() if name.lower() == _HOPS), 0)


def _trace(metadata: dict[str, str] | None) -> str:
    """The trace that the object was written with, "" = none."""
    return next((parsed(value) for name, value in (metadata or {}).items() if name.lower() == _TRACE), "")


def hops_of(metadata: dict[str, str]) -> int:
    """Hop count in an object's own metadata."""
    return _number(metadata.get(META_HOPS, ""))


def _number(text: str) -> int:
    """Anybody may write metadata: what is no number counts as no hops, a huge one as more than any limit."""
    if not (text.isascii() and text.isdigit()):
        return 0
    return int(text) if len(text) < len(str(_MAX_HOPS)) else _MAX_HOPS
