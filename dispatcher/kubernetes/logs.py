"""The output of a Job's script: live through the API server from the moment its container starts to its end, and after
that from the archive, where `output` put it and where it outlives the pod.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

from dispatcher.kubernetes.archive import archived_log
from dispatcher.kubernetes.board import Board
from dispatcher.kubernetes.client import JobApi
from dispatcher.kubernetes.entry import Entry
from dispatcher.kubernetes.manifest import USER
from dispatcher.kubernetes.status import End
from penstock.errors import InvalidInput, NotFound
from penstock.model.objects import log_key
from penstock.ports import ObjectStore

_POLL_S = 0.25


async def written(log: AbstractAsyncContextManager[AsyncIterator[bytes]], offset: int) -> AsyncIterator[bytes]:
    """A container's output from a byte offset. Nothing when the pod went away, or its container never started. Raises
    Unavailable.
    """
    skip = offset
    try:
        async with log as chunks:
            async for chunk in chunks:
                if len(chunk) > skip:
                    yield chunk[skip:]
                skip = max(0, skip - len(chunk))
    except (NotFound, InvalidInput):
        return


class LogReader:
    def __init__(self, api: JobApi, board: Board, archive: ObjectStore | None = None) -> None:
        self._api = api
        self._board = board
        self._archive = archive
        self._closed = False

    async def read(self, name: str, invocation: str, *, offset: int, follow: bool) -> AsyncIterator[bytes]:
        """From a byte offset. Raises NotFound (no such item here), Unavailable."""
        entry = self._board.entries.get(name)
        if entry is None or (attempt := dict(entry.turns or ()).get(invocation)) is None:
            raise NotFound(f"there is no item {invocation} in a Job {name} here")
        if self._archive is not None and entry.over is not None:
            key = log_key(entry.function_uid, invocation, attempt)
            with contextlib.suppress(NotFound):
                async for chunk in archived_log(self._archive, key, offset=offset):
                    yield chunk
                return
        pod = await self._started(entry, wait=follow)
        if not pod:
            return
        async for chunk in written(self._api.log(pod, USER, follow=follow), offset):
            yield chunk

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
