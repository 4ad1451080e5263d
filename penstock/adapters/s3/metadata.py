"""User metadata as headers: any text goes in and comes out unchanged, although headers carry one line of ASCII.

What a header cannot hold is written as an RFC 2047 word, which is also how S3 itself shows such values. Each write
carries a number of its own under a name that readers of metadata never see: when the answer to a PUT is lost, it tells
whether the object that lies there now is ours.
"""

from __future__ import annotations

import base64
import quopri
import re
from collections.abc import Mapping

from penstock.errors import InvalidInput

PREFIX = "x-amz-meta-"
#: The number of the write that made a version.
WRITE = "penstock-write"
MAX_METADATA_BYTES = 2048

_NAME = re.compile(r"[a-z0-9_.-]+\Z")
_PLAIN = re.compile(r"[!-~](?: ?[!-~])*\Z")
_WORD = re.compile(r"=\?utf-8\?([bq])\?([^?]*)\?=", re.IGNORECASE)


def encode(metadata: Mapping[str, str] | None, write: str) -> dict[str, str]:
    """Headers of a write. Raises InvalidInput for names that S3 would change, for no text, and above 2 KiB."""
    headers: dict[str, str] = {}
    size = 0
    for name, value in (metadata or {}).items():
        if not _NAME.match(name) or name == WRITE:
            raise InvalidInput(
                f"the object metadata name {name!r} is not possible: use lower-case letters, digits, '-', '_' and '.'"
                f"{f', and not {WRITE}' if name == WRITE else ''}"
            )
        headers[PREFIX + name] = encoded = _encode_value(name, value)
        size += len(name) + len(encoded)
    if size > MAX_METADATA_BYTES:
        raise InvalidInput(f"object metadata takes {size} bytes; {MAX_METADATA_BYTES} are possible")
    headers[PREFIX + WRITE] = write
    return headers


def _encode_value(name: str, value: str) -> str:
    if _PLAIN.match(value) and "=?" not in value:
        return value
    try:
        raw = value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"the object metadata {name!r} must be valid Unicode text") from error
    return f"=?UTF-8?B?{base64.b64encode(raw).decode()}?="


def decode(headers: Mapping[str, str]) -> dict[str, str]:
    """User metadata among the headers of an answer, with lower-case names."""
    found = {}
    for name, value in headers.items():
        lower = name.lower()
        if lower.startswith(PREFIX) and lower != PREFIX + WRITE:
            found[lower[len(PREFIX) :]] = decode_value(value)
    return found


def decode_value(value: str) -> str:
    """Decode the RFC 2047 words of UTF-8 in a value; what cannot be decoded stays as it is."""
    if "=?" not in value:
        return _readable(value)
    return _WORD.sub(_decode_word, value)


def _readable(value: str) -> str:
    """Other clients send raw UTF-8, which arrives with one surrogate for each byte that is not ASCII."""
    return value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _decode_word(word: re.Match[str]) -> str:
    kind, text = word.groups()
    try:
        raw = (
            base64.b64decode(text, validate=True)
            if kind in "bB"
            else quopri.decodestring(text.encode("ascii"), header=True)
        )
        return raw.decode()
    except ValueError:
        return word.group()
