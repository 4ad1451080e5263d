"""Ready checks: one question to a server, answered yes or no, never an exception.

A server that does not answer yet is the normal case while it starts, so every failure to connect or to be understood
within a second means "not yet".
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from tests.testbed.links import Address

PATIENCE = aiohttp.ClientTimeout(total=2)


async def http_ok(url: str, *, headers: Mapping[str, str] | None = None, tls: ssl.SSLContext | None = None) -> bool:
    """Whether a GET is answered with a 2xx."""
    try:
        async with (
            aiohttp.ClientSession(timeout=PATIENCE) as session,
            session.get(url, headers=headers, ssl=tls if tls is not None else True) as response,
        ):
            return response.ok
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


async def connects(address: Address) -> bool:
    """Whether a connection is accepted."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(address.host, address.port), 1)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def log_has(log: Path, words: str, since: int = 0) -> bool:
    """Whether the log has the words after its first `since` bytes."""
    if not log.exists():
        return False
    with log.open("rb") as stream:
        stream.seek(since)
        return words.encode() in stream.read()
