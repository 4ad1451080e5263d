"""Walks a bucket in the byte order of whole keys, without visiting folders that cannot hold a wanted key.

The order of names in a folder is not the order of keys: `a-b` < `a.b` < `a/b`. A folder therefore sorts as its name
with a trailing slash. Names of one folder are held at a time per level of depth; files are looked at page by page.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from penstock.adapters.directory import paths, trouble
from penstock.adapters.directory.names import UPLOAD_PREFIXES
from penstock.errors import InvalidInput
from penstock.model import ObjectInfo

PAGE = 1000

#: Tells of (folder descriptor, file name, key, status) whether the file is finished.
Finished = Callable[[int, str, str, os.stat_result], bool]


def pages(root: int, bucket: str, prefix: str, after: str, finished: Finished) -> Iterator[list[ObjectInfo]]:
    """Pages of at most PAGE objects. Raises NotFound (bucket), InvalidInput (not text).

    What cannot be read (Forbidden, Unavailable) is raised after everything else was yielded: one closed folder hides
    nothing beside it, and an incomplete listing does not look like a complete one.
    """
    page: list[ObjectInfo] = []
    troubles: list[tuple[OSError, str]] = []
    for folder, name, key in _walk(root, bucket, prefix, _bytes(after), troubles):
        try:
            status = paths.status_of(folder, name)
        except FileNotFoundError:
            continue  # deleted since its folder was read
        except OSError as error:
            troubles.append((error, key))
            continue
        if finished(folder, name, key, status):
            page.append(paths.info_of(bucket, key, status))
            if len(page) == PAGE:
                yield page
                page = []
    if page:
        yield page
    if troubles:
        first, key = troubles[0]
        raise trouble.translate(first, bucket, key, "listed") from first


def _bytes(text: str) -> bytes:
    try:
        return os.fsencode(text)
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{text!r} is not valid Unicode text, so no key can match it") from error


def _walk(
    root: int, bucket: str, prefix: str, after: bytes, troubles: list[tuple[OSError, str]]
) -> Iterator[tuple[int, str, str]]:
    """Yield (folder descriptor, file name, key) in order; folders that cannot be read are added to `troubles`."""
    *folders, start = prefix.split("/")
    _bytes(prefix)
    base = _open_base(root, bucket, folders)
    if base is None:
        return
    above = "".join(f"{name}/" for name in folders)
    rest = _remaining(after, os.fsencode(above))
    if rest is None:
        os.close(base)
        return
    #: One level per open folder: descriptor, key of the folder, names still to come (reversed), rest of `after`.
    levels: list[tuple[int, str, list[str], bytes]] = [(base, above, [], rest)]
    try:
        levels[0][2].extend(_names(base, above, start, rest, troubles))
        while levels:
            folder, key, names, rest = levels[-1]
            if not names:
                os.close(levels.pop()[0])
                continue
            name = names.pop()
            if not name.endswith("/"):
                yield folder, name, key + name
                continue
            try:
                below = paths.open_folder(folder, name[:-1])
            except (FileNotFoundError, NotADirectoryError):
                continue  # deleted or replaced since its parent was read
            except OSError as error:
                troubles.append((error, key + name))
                continue
            inner = _remaining(rest, os.fsencode(name)) or b""
            # On the stack before its names are read, so that it is closed whatever happens.
            levels.append((below, key + name, [], inner))
            levels[-1][2].extend(_names(below, key + name, "", inner, troubles))
    finally:
        for level in levels:
            os.close(level[0])


def _open_base(root: int, bucket: str, folders: list[str]) -> int | None:
    """Open the folder that the prefix names; None when there is none. Raises NotFound (bucket)."""
    try:
        base = paths.open_folder(root, bucket)
    except OSError as error:
        if error.errno in trouble.ABSENT:
            raise trouble.no_bucket(bucket) from error
        raise trouble.translate(error, bucket, "", "listed") from error
    for name in folders:
        if name in {"", ".", ".."} or "\0" in name:
            os.close(base)
            return None
        try:
            below = paths.open_folder(base, name)
        except OSError as error:
            if error.errno in trouble.ABSENT or error.errno == trouble.TOO_LONG:
                return None
            raise trouble.translate(error, bucket, "/".join(folders), "listed") from error
        finally:
            os.close(base)
        base = below
    return base


def _remaining(after: bytes, folder: bytes) -> bytes | None:
    """What `after` means inside a folder: a rest, b"" (everything counts), or None (all its keys come before)."""
    if after.startswith(folder):
        return after[len(folder) :]
    return b"" if after < folder else None


def _names(folder: int, key: str, start: str, after: bytes, troubles: list[tuple[OSError, str]]) -> list[str]:
    """Names in the folder that begin with `start` and are or hold something after `after`, last one first."""
    found: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(start):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    found.append(entry.name + "/")
                elif entry.is_file(follow_symlinks=False) and not entry.name.startswith(UPLOAD_PREFIXES):
                    found.append(entry.name)
    except OSError as error:
        troubles.append((error, key))
    if after:
        found = [name for name in found if _comes_after(os.fsencode(name), after)]
    # Code points sort as their UTF-8 bytes do, except for the surrogates that stand for undecodable bytes.
    found.sort(key=None if all(map(str.isascii, found)) else os.fsencode, reverse=True)
    return found


def _comes_after(name: bytes, after: bytes) -> bool:
    return name > after or (name.endswith(b"/") and after.startswith(name))
