"""Which requests the S3 server refuses before they reach rclone, and the words of S3's errors. Pure.

Rclone answers 500 to a key that a folder cannot hold, which every client takes for a passing fault and tries again for
half a minute; and it would take `a/` for `a`. Here such a key gets 400 and a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, unquote_to_bytes
from xml.sax.saxutils import escape

from penstock.adapters.directory.names import split_key
from penstock.errors import Unsupported
from penstock.model.buckets import legal_bucket
from penstock.model.objects import SYSTEM_BUCKET

#: Headers that browsers' S3 clients send.
ALLOWED_HEADERS = (
    "authorization, content-type, content-md5, content-encoding, range, if-match, if-none-match, x-amz-date, "
    "x-amz-content-sha256, x-amz-user-agent, x-amz-checksum-crc32, x-amz-checksum-crc64nvme, "
    "x-amz-sdk-checksum-algorithm, x-amz-checksum-mode, x-amz-copy-source, x-amz-decoded-content-length, "
    "x-amz-acl, x-amz-security-token, amz-sdk-invocation-id, amz-sdk-request"
)
CORS: Mapping[str, str] = {
    # Every request is signed by a key that no browser sends by itself, so any page may try.
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, HEAD, PUT, POST, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": ALLOWED_HEADERS,
    "Access-Control-Expose-Headers": "ETag, Content-Length, Content-Range, Last-Modified, x-amz-request-id",
    "Access-Control-Max-Age": "600",
}


class Refusal(NamedTuple):
    """An answer that is an error: HTTP status, S3's code, one sentence."""

    status: int
    code: str
    message: str


UNAVAILABLE = Refusal(503, "ServiceUnavailable", "The S3 server is being started again; try once more in a moment.")


class Target(NamedTuple):
    """What a request is about. Bucket "" = the list of buckets, key "" = the bucket itself."""

    bucket: str
    key: str
    query: Mapping[str, str]


def target_of(raw: str) -> Target | None:
    """Read a request's target as it came over the wire, decoded exactly once. None = no path, or not UTF-8."""
    path, _, query = raw.partition("?")
    if not path.startswith("/"):
        return None
    bucket, _, key = path[1:].partition("/")
    try:
        decoded = unquote_to_bytes(key).decode("utf-8")
    except UnicodeDecodeError:
        return None
    return Target(unquote(bucket), decoded, dict(parse_qsl(query, keep_blank_values=True)))


def refusal(method: str, target: Target | None) -> Refusal | None:
    """Return why a request must not reach rclone; None = it may."""
    if target is None:
        return Refusal(400, "InvalidURI", "The request's path must begin with a slash and be UTF-8, percent-encoded.")
    if not target.bucket:
        return None
    if target.bucket == SYSTEM_BUCKET:
        return Refusal(403, "AccessDenied", f"The bucket {SYSTEM_BUCKET} belongs to Penstock itself.")
    if not legal_bucket(target.bucket):
        if method == "PUT" and not target.key:
            text = "A bucket's name has 3 to 63 lower-case letters, digits, dots and hyphens."
            return Refusal(400, "InvalidBucketName", text)
        return Refusal(404, "NoSuchBucket", f"There is no bucket {target.bucket[:63]!r}.")
    if method == "POST" and not target.key and "delete" not in target.query:
        return Refusal(501, "NotImplemented", "Uploads from HTML forms are not supported; use PUT.")
    if target.key and method in {"PUT", "POST"}:
        try:
            split_key(target.key)
        except Unsupported as error:
            return Refusal(400, "InvalidArgument", f"{error.message[:1].upper()}{error.message[1:]}.")
    return None


def document(refused: Refusal, resource: str) -> bytes:
    """S3's body of an error."""
    fields = (("Code", refused.code), ("Message", refused.message), ("Resource", resource))
    # What XML 1.0 cannot hold at all becomes a question mark.
    lines = "".join(f"<{name}>{escape(_printable(text))}</{name}>" for name, text in fields)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{lines}</Error>'.encode("utf-8", "replace")


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


#: Never passed on: they are about one connection, or the forwarding client sets them itself.
_HOP = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect", "proxy-connection"}
)


def passed_on(name: str) -> bool:
    """Whether a header of a request goes on to rclone."""
    return name.lower() not in _HOP


def passed_back(name: str, *, part: bool) -> bool:
    """Whether a header of rclone's answer goes back to the client; `part` = a range was asked for."""
    lower = name.lower()
    if part and lower.startswith("x-amz-checksum-"):
        # Rclone repeats the whole object's checksum for a part of it; clients that check it would give the part up.
        return False
    return lower not in _HOP and not lower.startswith("access-control-")
