"""What a script learns of the request that it answers: OSCAR's watchdog gives `Http_*` variables, and scripts read
them.

Undocumented there, but reachable, so kept. What proves who the caller is stays with the gateway. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

#: Never shown to user code: they are the caller's, for the platform.
_SECRET = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key", "x-csrf-token", "x-xsrf-token"})
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
_MOST_BYTES = 64 * 1024
#: Media types that a browser would run rather than show: an answer is the script's and never a page of the platform's.
_LIVE = ("html", "xml", "svg", "script", "multipart")
_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(;[ -~]*)?")
PLAIN = "text/plain"


def http_variables(
    method: str, path: str, query: str, headers: Iterable[tuple[str, str]], length: int
) -> dict[str, str]:
    """Empty values are left out, and so is what comes after 64 KiB of them."""
    found = {
        "Http_Method": method,
        "Http_ContentLength": str(length),
        "Http_Content_Length": str(length),
        "Http_Path": path,
        "Http_Query": query,
    }
    for name, value in headers:
        if name.lower() in _SECRET or not _NAME.fullmatch(name):
            continue
        key = "Http_" + "_".join(part[:1].upper() + part[1:].lower() for part in name.split("-"))
        found.setdefault(key, value)
    kept: dict[str, str] = {}
    size = 0
    for key, value in found.items():
        size += len(key) + len(value.encode("utf-8", "surrogateescape"))
        if size > _MOST_BYTES:
            break
        if value and "\0" not in value:
            kept[key] = value
    return kept


def echoed_type(content_type: str) -> str:
    """The media type of an answer: the request's own, as the watchdog does it, unless a browser would run it."""
    if not _TYPE.fullmatch(content_type) or any(word in content_type.lower() for word in _LIVE):
        return PLAIN
    return content_type
