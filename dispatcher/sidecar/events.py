"""What a script sees of the event: pure translation from a trigger to the input to stage and the event document.

OSCAR's scripts and clients rely on MinIO's notification document (in `EVENT`), on bodies being JSON or base64, and on
a few wrapped shapes. The reference classifies by looking for keys in whatever JSON it got, which crashes on scalars
and is fooled by users' own keys; here the bytes are classified once, into a type, and what cannot be run is refused
with a sentence.
"""

from __future__ import annotations

import base64
import binascii
import enum
import functools
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus, unquote_plus

import msgspec

from penstock.errors import InvalidInput
from penstock.identity import invocation_id
from penstock.model import SYSTEM_BUCKET, BucketEvent, JobItem, ObjectInfo, Submission

#: Bodies of these media types are files as they are; everything else that is not JSON is base64, as OSCAR's clients
#: send it.
_BINARY_TYPES = (
    "text/",
    "image/",
    "audio/",
    "video/",
    "application/octet-stream",
    "application/pdf",
    "application/zip",
)
#: OSCAR's Python client sends a dict as form text (`a=b&c=d`), and its label differs by version. What follows an `=`
#: tells it from base64, where padding comes last. It is never parsed: the script gets it as it is.
_FORM = re.compile(rb"[\w.~*+%-]*=[\w.~*+%-]*(?:&[\w.~*+%-]*=[\w.~*+%-]*)*", re.ASCII)
_MAX_WRAPPERS = 8
_SPACE = b" \t\r\n"


class ObjectRef(msgspec.Struct, frozen=True, kw_only=True):
    """An object of the own store to stage. `info` is the exact version, None = whatever is there now."""

    bucket: str
    key: str
    info: ObjectInfo | None = None
    #: To be tried when `key` is not there: some senders do not escape keys.
    raw_key: str = ""


class Shape(enum.StrEnum):
    """What kind of event it was; only `RAW` bodies get the synchronous answer from output files."""

    OBJECT = "object"
    RAW = "raw"


class ItemInput(msgspec.Struct, frozen=True, kw_only=True):
    """What one item needs before its script starts: exactly one of `object` and `payload` is set."""

    shape: Shape
    object: ObjectRef | None = None
    payload: bytes | None = None
    #: Name of the file in TMP_INPUT_DIR: one path component.
    file_name: str
    #: Content of `EVENT`.
    event: bytes = b""
    storage_object_key: str = ""
    event_time: str = ""
    #: `CONT_VAR_<q>` of API gateway events.
    variables: dict[str, str] = {}


class _Found(msgspec.Struct, frozen=True):
    """An intermediate result: a recognised object event, or bytes to put in a file."""

    object: ObjectRef | None
    payload: bytes
    event: bytes
    time: str = ""
    variables: dict[str, str] = {}


def iso_time(time_ms: int) -> str:
    """Milliseconds since the epoch as MinIO writes them: `2026-01-31T12:00:00.123Z`."""
    seconds, millis = divmod(time_ms, 1000)
    return f"{_whole_seconds(seconds)}.{millis:03d}Z"


@functools.lru_cache(maxsize=256)
def _whole_seconds(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def event_document(event: BucketEvent, *, owner: str = "") -> bytes:
    """The MinIO notification of this object version, as OSCAR's scripts parse it from `EVENT`."""
    time = iso_time(event.time_ms)
    described: dict[str, Any] = {
        "key": quote_plus(event.key, encoding="utf-8", errors="surrogateescape"),
        "size": event.size,
        "eTag": event.etag,
        "contentType": "application/octet-stream",
        "userMetadata": {},
        "sequencer": f"{event.time_ms:016X}",
    }
    if event.version_id is not None:
        described["versionId"] = event.version_id
    record = {
        "eventVersion": "2.0",
        "eventSource": "minio:s3",
        "awsRegion": "",
        "eventTime": time,
        "eventName": "s3:ObjectCreated:Put",
        "userIdentity": {"principalId": owner},
        "requestParameters": {"principalId": owner, "region": "", "sourceIPAddress": ""},
        "responseElements": {},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "Config",
            "bucket": {
                "name": event.bucket,
                "ownerIdentity": {"principalId": owner},
                "arn": f"arn:aws:s3:::{event.bucket}",
            },
            "object": described,
        },
        "source": {"host": "", "port": "", "userAgent": "penstock"},
    }
    path = f"{event.bucket}/{event.key}"
    document = {"EventName": "s3:ObjectCreated:Put", "Key": path, "Records": [record]}
    try:
        return _encode(document)
    except UnicodeEncodeError:  # a key that is no text: only its escaped form can stand in JSON
        return _encode(document | {"Key": quote_plus(path, safe="/", encoding="utf-8", errors="surrogateescape")})


def of_item(item: JobItem, body: bytes | None = None) -> ItemInput:
    """What to stage for an item. `body` is the content of `Submission.body_key` where that is set.

    Raises InvalidInput: nothing to run, with the reason.
    """
    trigger = item.trigger
    if isinstance(trigger, BucketEvent):
        return _of_object(trigger)
    return of_submission(trigger, item.invocation, trigger.body if body is None else body)


def _of_object(event: BucketEvent) -> ItemInput:
    info = ObjectInfo(
        bucket=event.bucket,
        key=event.key,
        etag=event.etag,
        size=event.size,
        modified_ms=event.time_ms,
        arrived_ms=event.arrived_ms,
        version_id=event.version_id,
    )
    return ItemInput(
        shape=Shape.OBJECT,
        object=ObjectRef(bucket=event.bucket, key=event.key, info=info),
        file_name=local_name(event.key),
        event=event_document(event),
        storage_object_key=event.key,
        event_time=iso_time(event.time_ms),
    )


def of_submission(submission: Submission, invocation: str, body: bytes) -> ItemInput:
    """Classify a posted body. Raises InvalidInput: neither JSON nor base64, or an event that cannot be served here."""
    found = classify(body, submission.content_type)
    if found.object is None:
        return ItemInput(
            shape=Shape.RAW,
            payload=found.payload,
            file_name=f"event-file-{invocation or invocation_id(submission.function_uid, submission.identity)}",
            event=body,
            variables=found.variables,
        )
    return ItemInput(
        shape=Shape.OBJECT,
        object=found.object,
        file_name=local_name(found.object.key),
        event=found.event,
        storage_object_key=found.object.key,
        event_time=found.time,
        variables=found.variables,
    )


def local_name(key: str) -> str:
    """The object's basename. Raises InvalidInput for a folder marker and for names that lead out of the folder."""
    name = key.rpartition("/")[2]
    if name in {"", ".", ".."} or "\0" in name:
        raise InvalidInput(f"the object key {key!r} does not end in a file name", where="event")
    return name


def classify(body: bytes, content_type: str = "") -> _Found:
    """Tell a body's shape from its bytes: JSON object or array, file as it is (by media type), base64, form text."""
    document = _json(body)
    if document is not None:
        return _dispatch(document, body, content_type, 0)
    return _Found(None, _file_bytes(body, content_type), body)


def is_plain_file(head: bytes, content_type: str) -> bool | None:
    """For bodies too large for memory: True = file as it is, False = base64 text, None = JSON perhaps, also a file."""
    start = head.lstrip(_SPACE)[:1]
    if start in {b"{", b"["}:
        return None
    return _declared_binary(content_type) or not head.isascii() or _begins_as_form(head)


def decode_base64(text: bytes) -> bytes:
    """Decode base64 with line breaks and missing padding allowed. Raises InvalidInput."""
    compact = text.translate(None, _SPACE)
    try:
        return base64.b64decode(compact + b"=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(
            "the body is neither a JSON object nor base64 text; encode it in base64, or send a Content-Type such as "
            "text/plain or application/octet-stream to have it taken as it is",
            where="body",
        ) from error


def _declared_binary(content_type: str) -> bool:
    return content_type.strip().lower().startswith(_BINARY_TYPES)


def _file_bytes(body: bytes, content_type: str) -> bytes:
    if _declared_binary(content_type) or not body.isascii():
        return body
    try:
        return decode_base64(body)
    except InvalidInput:
        if _FORM.fullmatch(body):
            return body
        raise


def _begins_as_form(head: bytes) -> bool:
    """Whether more than padding follows the first `=`; the last pair of a beginning may be cut."""
    return _FORM.match(head) is not None and bool(head.partition(b"=")[2].strip(b"=" + _SPACE))


def _json(body: bytes) -> dict[str, Any] | list[Any] | None:
    """A top-level object or array, or None: scalars such as 1234 or null are base64 text in OSCAR's world."""
    if body.lstrip(_SPACE)[:1] not in {b"{", b"["}:
        return None
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return document if isinstance(document, dict | list) else None


def _encode(value: Any) -> bytes:
    return msgspec.json.encode(value)


def _dispatch(document: dict[str, Any] | list[Any], body: bytes, content_type: str, depth: int) -> _Found:
    """First match wins, in the order of the data-plane contract."""
    raw = _Found(None, body, body)
    if not isinstance(document, dict) or depth > _MAX_WRAPPERS:
        return raw
    if "httpMethod" in document:
        return _api_gateway(document, body, content_type, depth)
    if _is_dcache(document):
        raise _elsewhere("dCache", "WebDAV")
    if isinstance(document.get("payload"), dict) and "event_type" in document:
        if {"scope", "name"} <= document["payload"].keys():
            raise _elsewhere("Rucio", "Rucio")
        return raw
    if "event" in document:
        return _delegated(document, content_type, depth) or raw
    return _records(document, body) or raw


def _elsewhere(sender: str, store: str) -> InvalidInput:
    return InvalidInput(
        f"this is an event of {sender}, whose data lies in {store}: only objects of the product's own store can be "
        "staged here; copy the file into an input bucket, or post its content",
        where="body",
    )


def _is_dcache(document: Mapping[str, Any]) -> bool:
    event = document.get("event")
    return isinstance(event, dict) and "subscription" in document and "name" in event and "mask" in event


def _api_gateway(document: dict[str, Any], body: bytes, content_type: str, depth: int) -> _Found:
    inner = document.get("body")
    query = document.get("queryStringParameters")
    variables = {f"CONT_VAR_{name}": str(value) for name, value in query.items()} if isinstance(query, dict) else {}
    if isinstance(inner, dict | list):
        found = _dispatch(inner, _encode(inner), content_type, depth + 1)
    elif isinstance(inner, str) and inner:
        data = inner.encode("utf-8", "surrogatepass")
        parsed = _json(data)
        if parsed is None:
            found = _Found(None, _file_bytes(data, content_type), body)
        else:
            found = _dispatch(parsed, data, content_type, depth + 1)
    else:
        found = _Found(None, b"", body)
    return msgspec.structs.replace(found, variables=variables | found.variables)


def _delegated(document: dict[str, Any], content_type: str, depth: int) -> _Found | None:
    """A job handed over by another cluster. A user's own key `event` is no wrapper: it needs a `storage_provider`
    beside it, or an event inside that is recognised itself.
    """
    inner = document["event"]
    declared = isinstance(document.get("storage_provider"), str)
    if isinstance(inner, str):
        data = inner.encode("utf-8", "surrogatepass")
        parsed = _json(data)
    elif isinstance(inner, dict):
        data, parsed = _encode(inner), inner
    else:
        return None
    if parsed is None:
        return _Found(None, _file_bytes(data, content_type), data) if declared else None
    found = _dispatch(parsed, data, content_type, depth + 1)
    return found if declared or found.object is not None else None


def _records(document: dict[str, Any], body: bytes) -> _Found | None:
    """Storage notifications. One submission is one job, so several records are refused (the gateway splits them)."""
    records = document.get("Records")
    if not isinstance(records, list) or not records or not isinstance(records[0], dict):
        return None
    record = records[0]
    source = record.get("eventSource")
    if source == "OneTrigger":
        raise _elsewhere("Onedata", "Onedata")
    if source == "aws:s3":
        raise _elsewhere("Amazon S3", "S3")
    if source != "minio:s3":
        return None
    if len(records) > 1:
        raise InvalidInput(f"the event has {len(records)} records; post one event per record", where="body")
    try:
        bucket, key = record["s3"]["bucket"]["name"], record["s3"]["object"]["key"]
    except (KeyError, TypeError) as error:
        raise InvalidInput("the storage event names no s3.bucket.name and s3.object.key", where="body") from error
    if not (isinstance(bucket, str) and isinstance(key, str) and bucket and key):
        raise InvalidInput("s3.bucket.name and s3.object.key of the storage event must be text", where="body")
    if bucket == SYSTEM_BUCKET:
        raise InvalidInput(f"objects of the platform's own bucket {bucket} cannot be inputs", where="body")
    decoded = unquote_plus(key, errors="surrogateescape")
    time = record.get("eventTime")
    reference = ObjectRef(bucket=bucket, key=decoded, raw_key=key if key != decoded else "")
    return _Found(reference, b"", body, time if isinstance(time, str) else "")


def split_records(body: bytes) -> list[bytes]:
    """One body per storage record: what the gateway turns into one submission each. Anything else comes back as it
    is.
    """
    document = _json(body)
    if not isinstance(document, dict):
        return [body]
    records = document.get("Records")
    if not isinstance(records, list) or len(records) < 2:
        return [body]
    return [_encode({**document, "Records": [record]}) for record in records]
