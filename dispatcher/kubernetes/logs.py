"""The live output of a Job's script, through the API server, from the moment its container starts to its end.

History is not here: `output` archives each item's log in the object store, where it outlives the pod.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from dispatcher.kubernetes.board import Board
from dispatcher.kubernetes.client import JobApi
from dispatcher.kubernetes.entry import Entry
from dispatcher.kubernetes.manifest import USER
from dispatcher.kubernetes.status import End
from penstock.errors import InvalidInput, NotFound

_POLL_S = 0.25


class LogReader:
    def __init__(self, api: JobApi, board: Board) -> None:
        self._api = api
        self._board = board
        self._closed = False

    async def read(self, name: str, invocation: str, *, offset: int, follow: bool) -> AsyncIterator[bytes]:
        """From a byte offset. Raises NotFound (no such item in a Job here), Unavailable."""
        entry = self._board.entries.get(name)
        if entry is None or invocation not in {turn[0] for turn in entry.turns or ()}:
            raise NotFound(f"there is no item {invocation} in a Job {name} here")
        pod = await self._started(entry, wait=follow)
        if not pod:
            return
        skip = offset
        try:
            async with self._api.log(pod, USER, follow=follow) as chunks:
                async for chunk in chunks:
                    if len(chunk) > skip:
                        yield chunk[skip:]
                    skip = max(0, skip - len(chunk))
        except (NotFound, InvalidInput):
            return  # the pod went away, or its container never started: nothing was written

    async def _started(self, entry: Entry, *, wait: bool) -> str:
        """The name of its pod once the script's container has started; "" = it has not, or never will."""
        while not self._closed:
            pod = entry.pod
            if pod is not None:
                state = pod.container(USER)
                if state.running is not None or state.terminated is not None:
                    return pod.metadata.name
            forgotten = self._board.entries.get(entry.name) is not entry
            if not wait or forgotten or entry.over is not None or entry.standing.end is End.OVER:
                return ""
            await asyncio.sleep(_POLL_S)
        return ""

    def close(self) -> None:
        self._closed = True
