"""etcd filled up to its quota, and emptied again.

A cluster's store does not fail by running out of disk (then it dies at once) but by its quota: it raises an alarm and
refuses every write until somebody makes room and disarms it. That is the state brought about here, over etcd's HTTP
gateway, with keys that no API server looks at.
"""

from __future__ import annotations

import base64
from typing import Any

import aiohttp

from tests.testbed.errors import BedError

PREFIX = b"/penstock-testbed-ballast/"
PIECES = (1 << 19, 1 << 16, 1 << 12)
FULL = "database space exceeded"


def _coded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


class EtcdQuota:
    """The quota of one etcd server."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def fill(self) -> None:
        """Write until the alarm is raised; ever smaller pieces, so that a large one does not end it early."""
        async with aiohttp.ClientSession(self._url) as session:
            for size in PIECES:
                number = 0
                while await self._put(session, PREFIX + f"{size}/{number}".encode(), bytes(size)):
                    number += 1

    async def drain(self) -> None:
        """Delete what was written, give the room back, and disarm the alarm."""
        async with aiohttp.ClientSession(self._url) as session:
            end = PREFIX[:-1] + bytes([PREFIX[-1] + 1])
            deleted = await self._ask(session, "kv/deleterange", key=_coded(PREFIX), range_end=_coded(end))
            header = deleted["header"]
            await self._ask(session, "kv/compaction", revision=header["revision"], physical=True)
            await self._ask(session, "maintenance/defragment")
            raised = await self._ask(session, "maintenance/alarm", action="GET")
            for alarm in raised.get("alarms", ()):
                await self._ask(session, "maintenance/alarm", action="DEACTIVATE", **alarm)

    async def _put(self, session: aiohttp.ClientSession, key: bytes, value: bytes) -> bool:
        async with session.post("/v3/kv/put", json={"key": _coded(key), "value": _coded(value)}) as response:
            text = await response.text()
            if not response.ok and FULL not in text:
                raise BedError(f"etcd did not take ballast: {text[:300]}")
            return response.ok

    async def _ask(self, session: aiohttp.ClientSession, what: str, **body: Any) -> dict[str, Any]:
        async with session.post(f"/v3/{what}", json=body) as response:
            if not response.ok:
                raise BedError(f"etcd refused {what}: {(await response.text())[:300]}")
            answer: dict[str, Any] = await response.json(content_type=None)
            return answer
