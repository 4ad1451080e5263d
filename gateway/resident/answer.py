"""What a synchronous run gives back: how it ended, and the answer as it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from penstock.model import ItemResult

#: Time from the request to the answer's first byte, by what it was spent on, in seconds.
Parts = dict[str, float]


class Answer:
    """To be closed by whoever got it. `result.error` not None = the run failed, and what comes is its log's end."""

    def __init__(
        self,
        *,
        invocation: str,
        result: ItemResult,
        content_type: str,
        chunks: AsyncIterator[bytes],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self.invocation = invocation
        self.result = result
        self.content_type = content_type
        self._chunks = chunks
        self._close = close
        #: What the time until now went into: `wait_s` for a pod, `run_s` in it.
        self.parts: Parts = {}

    async def chunks(self) -> AsyncIterator[bytes]:
        """Raises Unavailable: the pod was lost in the middle of its answer."""
        async for chunk in self._chunks:
            yield chunk

    async def read(self) -> bytes:
        return b"".join([chunk async for chunk in self.chunks()])

    async def close(self) -> None:
        await self._close()
