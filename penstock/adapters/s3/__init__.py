"""The production object store: MinIO and any other S3 endpoint, over a thin asynchronous client of our own.

Ready-made clients either start slowly or refuse keys that S3 allows (`a//b`, `..`, a newline); what is needed of S3 is
small enough to be written here strictly: signed requests, exact keys, typed errors, and nothing done twice.

The names below are loaded when they are asked for: the sidecars share the pure parts (signatures, endpoints, metadata,
errors) and must not pay for the asynchronous client that they do not use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.adapters.s3.config import S3Config
    from penstock.adapters.s3.endpoint import Style
    from penstock.adapters.s3.sigv4 import Credentials
    from penstock.adapters.s3.store import S3Store
    from penstock.adapters.s3.uploads import Written

__all__ = ["Credentials", "S3Config", "S3Store", "Style", "Written"]

_HOMES = {"Credentials": "sigv4", "S3Config": "config", "S3Store": "store", "Style": "endpoint", "Written": "uploads"}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
