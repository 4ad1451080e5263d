"""Which bucket names are allowed: one rule for every store, so that a function moves between them unchanged."""

from __future__ import annotations

import re

from penstock.errors import InvalidInput

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")
_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+\Z")


def legal_bucket(bucket: str) -> bool:
    return bool(_BUCKET.match(bucket)) and ".." not in bucket and not _ADDRESS.match(bucket)


def check_bucket(bucket: str) -> None:
    """Raise InvalidInput for a name that S3 would refuse too."""
    if not legal_bucket(bucket):
        raise InvalidInput(
            f"the bucket name {bucket!r} is not allowed: use 3 to 63 lower-case letters, digits, dots and hyphens, "
            "beginning and ending with a letter or digit, and not the form of an IP address"
        )
