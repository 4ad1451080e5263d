"""What an answer's headers say about a version: its id, and the MD5 of its content where the etag is one. Pure, and
light enough for the sidecars.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_PLAIN_MD5 = re.compile(r"[0-9a-f]{32}\Z")


def plain_md5(etag: str, headers: Mapping[str, str]) -> str | None:
    """The MD5 of an object's content where its etag is one: not after a multipart upload nor under a customer's key."""
    if headers.get("x-amz-server-side-encryption-customer-algorithm") or headers.get(
        "x-amz-server-side-encryption", "AES256"
    ).startswith("aws:"):
        return None
    return etag if _PLAIN_MD5.match(etag) else None


def version_of(text: str | None) -> str | None:
    """`null` is the version of an object written while versioning was off, and is overwritten: no identity."""
    return text if text and text != "null" else None
