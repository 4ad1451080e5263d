"""Everything about one S3 store that somebody decides, each with its unit and the reason for its default."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from penstock.adapters.s3.endpoint import Style
from penstock.adapters.s3.sigv4 import Credentials

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class S3Config:
    """`credentials` may be a function, which is asked for each request, so that rotated keys are taken up at once."""

    #: `http[s]://HOST[:PORT]`.
    endpoint: str
    credentials: Credentials | Callable[[], Credentials]
    region: str = "us-east-1"
    style: Style = Style.PATH
    #: False = accept any certificate; a path = trust the authorities in this PEM file alone.
    verify: bool | Path = True
    #: Requests in flight at once, streams not counted. More than a store works on at once only queue there.
    connections: int = 64
    #: Seconds for one request and its answer; a body adds a second per MiB. Streams have `stall_s` instead.
    deadline_s: float = 60.0
    #: Seconds until a connection must stand.
    connect_s: float = 5.0
    #: Seconds without a byte after which a connection counts as lost.
    stall_s: float = 30.0
    #: Tries of a request that may be repeated; with the pauses between them (see `retrying`) eight last some 8 to 11 s,
    #: which outlives the restart of a store.
    attempts: int = 8
    #: The store takes every key that S3 does, `a` beside `a/b` too. False = MinIO's rules (see `names`) are kept.
    any_key: bool = False
    #: `create_bucket` turns versioning on, and `capabilities` say so.
    versioned: bool = False
    #: Compare what was fetched with an etag that is an MD5. Off for stores whose etags only look like one.
    verify_md5: bool = True
    #: Largest single PUT and smallest part of a multipart upload, in bytes (S3 wants 5 MiB at least).
    part_bytes: int = 8 * MIB
    #: Bytes of one upload in flight at once.
    window_bytes: int = 32 * MIB
    #: Seconds since the epoch, for signatures.
    clock: Callable[[], float] = time.time

    def account(self) -> Credentials:
        return self.credentials if isinstance(self.credentials, Credentials) else self.credentials()
