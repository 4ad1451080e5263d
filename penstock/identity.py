"""Identities: one pure place that decides when two sightings are the same thing.

Everything Penstock promises about "no object missed, none succeeds twice" rests on these functions. They are
total, stable across processes and versions, and free of separators that could collide: fields are length-prefixed
before they are hashed. Changing one of them changes what already ran, so tests pin known values.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable

#: Longest Job name: Kubernetes allows 63, its Job controller appends up to 11 to name pods.
JOB_NAME_LIMIT = 52
_JOB_DIGITS = 16

_NOT_DNS = re.compile(r"[^a-z0-9-]+")
_PLAIN_UID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def _digest(*fields: str) -> str:
    """Hash fields so that no two different lists of fields give the same bytes."""
    hasher = hashlib.sha256()
    for field in fields:
        # surrogateescape and surrogatepass keep object keys that are not valid text distinct instead of failing.
        data = field.encode("utf-8", "surrogatepass")
        hasher.update(b"%d:" % len(data))
        hasher.update(data)
    return hasher.hexdigest()


@functools.lru_cache(maxsize=2048)  # asked for several times on the way of each input
def object_identity(bucket: str, key: str, *, version_id: str | None, etag: str, modified_ms: int) -> str:
    """Return the 64 hex digits that name one version of one object.

    Where the store keeps versions, the version id decides alone; otherwise etag and modification time do, the latter in
    milliseconds since the epoch at the precision of the store's *listing*. A pushed event and a listing of the same
    version give the same identity.
    """
    if version_id is not None:
        return _digest("version", bucket, key, version_id)
    return _digest("object", bucket, key, etag.strip('"'), str(modified_ms))


def payload_identity(function_uid: str, submission: str) -> str:
    """Return the identity of a body posted to a function: each accepted submission is its own thing."""
    return _digest("payload", function_uid, submission)


def function_folder(function_uid: str) -> str:
    """Return the folder name under which everything of one function lies in the platform's bucket, up to 65 characters.

    It is the uid, as each registry gives it, and a digest of any other text. No two uids share one, also where capital
    letters are not told from small ones; followed by a slash, none is the beginning of another; none has a character
    that a store's policy reads as a pattern. The uid and not the name: a name may be given to a new function, which
    must not find what is left of the old one.
    """
    if _PLAIN_UID.fullmatch(function_uid):
        return function_uid
    return f"~{_digest('function', function_uid)}"


def invocation_id(function_uid: str, identity: str) -> str:
    """Return the 40 hex digits of the invocation of one function on one input.

    The generation is deliberately absent: deploying a new version of a function does not run its history again, while
    deleting and creating it anew (a new uid) does.
    """
    return _digest("invocation", function_uid, identity)[:40]


def job_id(items: Iterable[tuple[str, int]]) -> str:
    """Return the 64 hex digits of the ordered list of (invocation id, attempt)."""
    fields: list[str] = ["job"]
    for invocation, attempt in items:
        fields += (invocation, str(attempt))
    return _digest(*fields)


def job_name(function: str, job: str) -> str:
    """Return a DNS-1123 name of at most 52 characters from the function's name and the job id."""
    stem = _NOT_DNS.sub("-", function.lower())[: JOB_NAME_LIMIT - _JOB_DIGITS - 1].strip("-") or "job"
    return f"{stem}-{job[:_JOB_DIGITS]}"
