"""Where an invocation stands in a trace: W3C trace context, worked out and never stored.

One upload is one trace: its id comes from the object's identity, unless the object (its metadata) or the request (its
header) brings a context along, which is then continued. An invocation is one span in it, whose id comes from the
invocation's. So the watcher, the dispatcher, the sidecars and whoever reads the history say the same without telling
each other, also after a crash, and an output that carries the context on makes a chain of functions one trace.

Pure; imported by the types and by the sidecars, so it needs nothing beyond the standard library.
"""

from __future__ import annotations

import hashlib
import re

#: The header's name, and the key in an object's metadata. Variables are the same in capitals.
TRACEPARENT = "traceparent"

#: version-trace id-parent id-flags. A higher version may have more behind it, which is not for us.
_FORM = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def parsed(text: str) -> str:
    """The context in a header or in metadata, "" for none and for what is none: anybody can write there."""
    found = _FORM.fullmatch(text.strip())
    if found is None or (found[4] and text.strip().startswith("00-")):
        return ""
    return f"00-{found[1]}-{found[2]}-{found[3]}"


def trace_id(parent: str, identity: str) -> str:
    """32 hex digits. `parent` = the context that the input came with, "" = none; `identity` = the input's."""
    return parent[3:35] if parent else _digits(f"trace/{identity}", 32)


def span_id(invocation: str, part: str = "") -> str:
    """16 hex digits for an invocation, or for a part of it."""
    return _digits(f"span/{invocation}/{part}" if part else f"span/{invocation}", 16)


def traceparent(parent: str, identity: str, invocation: str) -> str:
    """What the script sees and what its outputs carry: this invocation, in the trace of its input. Whether it is
    sampled is as the parent says; without one it is.
    """
    return f"00-{trace_id(parent, identity)}-{span_id(invocation)}-{parent[-2:] or '01'}"


def _digits(text: str, length: int) -> str:
    digits = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:length]
    return digits if digits.strip("0") else "1".zfill(length)  # all zeros would mean "none"
