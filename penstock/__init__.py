"""Penstock: every file that lands in a bucket becomes one inference job.

This package is the foundation that the four services (`watcher`, `dispatcher`, `scaler`, `gateway`) stand on: the
types that flow between them, how things are identified, and the ports to the outside. It imports none of them. Programs
that use a server find the client here: `penstock.Client`, `penstock.SyncClient`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.client import Client, Definition, SyncClient

__all__ = ["Client", "Definition", "SyncClient", "__version__", "version_text"]

__version__ = "0.1.0"


def version_text() -> str:
    """What every program of Penstock answers to `--version`."""
    return f"penstock {__version__}, Python {'.'.join(map(str, sys.version_info[:3]))}"


def __getattr__(name: str) -> object:
    """Load the client when it is first asked for: it costs half a second, and the services never need it."""
    if name in {"Client", "Definition", "SyncClient"}:
        from penstock import client  # noqa: PLC0415 - see above

        return getattr(client, name)
    raise AttributeError(f"module 'penstock' has no attribute {name!r}")
