"""Which bucket names and keys can be asked for at all, decided before any request is made. Pure.

Some of these checks keep worse than an error away. An empty key in a path would address the bucket itself: a DELETE
would delete it. And MinIO, which stores keys as folders, drops a leading slash without a word, so `/a` would be written
as `a`, and takes `a/b` beside `a`, but never shows it in a listing again.
"""

from __future__ import annotations

import os

MAX_KEY_BYTES = 1024
#: MinIO stores each part between slashes as the name of a folder.
MAX_PART_BYTES = 255


def is_text(text: str) -> bool:
    """Whether this can be written as UTF-8, as S3 wants it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def objection(key: str, *, any_key: bool) -> str:
    """Why the store cannot hold this key, or an empty string. `any_key` = it takes what S3 itself takes."""
    if not key:
        return "it is empty; give the object a name"
    if "\0" in key:
        return "it holds a NUL character; leave it out"
    if not is_text(key):
        return "it is not valid Unicode text, which object stores want; rename it"
    size = len(key.encode())
    if size > MAX_KEY_BYTES:
        return f"it is {size} bytes long; {MAX_KEY_BYTES} are possible"
    return "" if any_key else _folder_objection(key.removesuffix("/").split("/"))


def _folder_objection(parts: list[str]) -> str:
    if not all(parts):
        return "it begins with a slash or has two slashes in a row; name every folder"
    if "." in parts or ".." in parts:
        return "'.' and '..' are not names; give the path without them"
    longest = max(len(part.encode()) for part in parts)
    if longest > MAX_PART_BYTES:
        return f"one of its parts is {longest} bytes long; {MAX_PART_BYTES} are possible"
    return ""


def parents(key: str) -> list[str]:
    """The keys that would be folders of this one: `a` and `a/b` for `a/b/c`."""
    parts = key.removesuffix("/").split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]


def byte_order(key: str) -> bytes:
    """What listings are ordered by; total even for names that are no text."""
    return os.fsencode(key) if is_text(key) or _escaped_only(key) else key.encode("utf-8", "surrogatepass")


def _escaped_only(key: str) -> bool:
    try:
        os.fsencode(key)
    except UnicodeEncodeError:
        return False
    return True


def listing_start(prefix: str, after: str) -> str | None:
    """The marker with which to ask for keys that begin with `prefix` and come after `after`; None = there are none.

    MinIO answers with nothing when a marker does not begin with the prefix, although keys may follow, so such a marker
    is never sent: it either lies before all of the prefix's keys, or behind them.
    """
    if not is_text(prefix) or "\0" in prefix:
        return None
    if not after or byte_order(after) < byte_order(prefix):
        return ""
    if not after.startswith(prefix):
        return None
    # What precedes a marker that cannot be sent is smaller too; the rest is left out as it arrives.
    start = _sendable(after)
    return start if start.startswith(prefix) else ""


def _sendable(marker: str) -> str:
    """The longest beginning of a marker that every store takes: MinIO refuses one that could be no key of its own."""
    end = next((n for n, letter in enumerate(marker) if letter == "\0" or not is_text(letter)), len(marker))
    parts = marker[:end].split("/")
    for count, part in enumerate(parts):
        if part in {".", ".."} or (not part and count < len(parts) - 1):
            return "".join(f"{one}/" for one in parts[:count])
    return marker[:end]
