"""Which bucket names and keys a folder can hold, decided before any path is touched.

Pure text rules. What only the file system can tell (`a` beside `a/b`, symbolic links) is decided where it is met. A
file name that is not valid UTF-8 is a key with surrogate escapes, so it can be listed, read and deleted like any other.
"""

from __future__ import annotations

import os

from penstock.errors import Unsupported

MAX_PART_BYTES = 255
#: As S3: also keeps every path well below PATH_MAX.
MAX_KEY_BYTES = 1024

#: Below the root, outside every bucket (no bucket name may begin with a dot).
HIDDEN_FOLDER = ".penstock-tmp"

#: Files that `rclone serve s3` is still writing; it renames them when they are whole. They are never objects: a file
#: that a killed rclone left behind is half of one.
UPLOAD_PREFIXES = (".rclone_temp_", ".rclone_multipart_upload_")


def split_key(key: str) -> list[str]:
    """Split a key into the names of its folders and file. Raises Unsupported for what no folder can hold."""
    parts = key.split("/")
    why = _objection(key, parts)
    if why:
        raise Unsupported(f"the key {key[:200]!r} cannot be stored in a folder: {why}")
    return parts


def _objection(key: str, parts: list[str]) -> str:
    if not key:
        return "it is empty; give the object a name"
    if "\0" in key:
        return "it holds a NUL character; leave it out"
    if not all(parts):
        return "it begins or ends with a slash or has two slashes in a row; name every folder"
    if "." in parts or ".." in parts:
        return "'.' and '..' are not names; give the path without them"
    if parts[-1].startswith(UPLOAD_PREFIXES):
        return f"names that begin with {' or '.join(UPLOAD_PREFIXES)} are kept for unfinished uploads"
    try:
        total = len(os.fsencode(key))
    except UnicodeEncodeError:
        return "it holds half of a surrogate pair, which is not text; use valid Unicode"
    if total > MAX_KEY_BYTES:
        return f"it is {total} bytes long; {MAX_KEY_BYTES} are possible"
    if total > MAX_PART_BYTES:
        longest = max(len(os.fsencode(part)) for part in parts)
        if longest > MAX_PART_BYTES:
            return f"one of its parts is {longest} bytes long; {MAX_PART_BYTES} are possible"
    return ""
