"""The same client without `await`, for scripts and notebooks: the same names, the same arguments, the same errors.

An event loop of its own runs in a thread of its own, so it works where a loop runs already (a notebook), and from
several threads at once. Ctrl-C ends the call and not the client.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from penstock.client.core import Authorization
from penstock.client.work import Client
from penstock.errors import Closed

P = ParamSpec("P")
T = TypeVar("T")


class _Loop:
    """A thread that runs an event loop until it is told to stop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon: a program that ends without closing its client must end.
        self._thread = threading.Thread(target=self._loop.run_forever, name="penstock client", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            if not future.done():  # Ctrl-C here: what was asked for is broken off there
                future.cancel()
                concurrent.futures.wait([future], timeout=5)
            raise

    def stop(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=5)
            self._loop.close()


def _blocking(
    method: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SyncClient, P], T]:
    @wraps(method)
    def call(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._call(method(self._client, *args, **kwargs))

    return call


def _iterating(
    method: Callable[Concatenate[Client, P], AsyncIterator[T]],
) -> Callable[Concatenate[SyncClient, P], Iterator[T]]:
    @wraps(method)
    def call(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        async def begun() -> AsyncIterator[T]:
            return method(self._client, *args, **kwargs)

        return self._iterate(self._call(begun()))

    return call


class SyncClient:
    """A server, with a credential; blocking. Close it, or use it as a context manager."""

    def __init__(
        self,
        server: str | None = None,
        token: str = "",
        *,
        authorization: Authorization | None = None,
        ca: str | Path | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        """As `Client`."""
        self._client = Client(server, token, authorization=authorization, ca=ca, timeout_s=timeout_s)
        self._loop = _Loop()
        self._end = weakref.finalize(self, _close, self._loop, self._client)
        self._call(self._client.__aenter__())

    @property
    def server(self) -> str:
        return self._client.server

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections and the thread. Idempotent; done by itself when the program ends."""
        self._end()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        if not self._end.alive:
            work.close()
            raise Closed("this client is closed")
        return self._loop.call(work)

    def _iterate(self, source: AsyncIterator[T]) -> Iterator[T]:
        async def following() -> tuple[T] | None:
            try:
                return (await anext(source),)
            except StopAsyncIteration:
                return None

        async def ended() -> None:
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()

        try:
            while (item := self._call(following())) is not None:
                yield item[0]
        finally:
            if self._end.alive:
                self._call(ended())

    status = _blocking(Client.status)

    def ask(
        self, method: str, path: str, kind: type[T], *, params: Mapping[str, str] | None = None, body: object = None
    ) -> T:
        """As `Client.ask`."""
        return self._call(self._client.ask(method, path, kind, params=params, body=body))

    apply = _blocking(Client.apply)
    deploy = _blocking(Client.deploy)
    functions = _blocking(Client.functions)
    function = _blocking(Client.function)
    delete_function = _blocking(Client.delete_function)
    pause = _blocking(Client.pause)
    resume = _blocking(Client.resume)
    backfill = _blocking(Client.backfill)
    replay = _blocking(Client.replay)
    submit = _blocking(Client.submit)
    run = _blocking(Client.run)
    invocations = _blocking(Client.invocations)
    invocation = _blocking(Client.invocation)
    cancel = _blocking(Client.cancel)
    log = _iterating(Client.log)
    logs = _iterating(Client.logs)
    wait = _blocking(Client.wait)
    map = _iterating(Client.map)
    dead = _blocking(Client.dead)
    dead_letter = _blocking(Client.dead_letter)
    retry_dead = _blocking(Client.retry_dead)
    drop_dead = _blocking(Client.drop_dead)
    buckets = _blocking(Client.buckets)
    create_bucket = _blocking(Client.create_bucket)
    objects = _blocking(Client.objects)
    put = _blocking(Client.put)
    upload = _blocking(Client.upload)
    read = _blocking(Client.read)
    download = _blocking(Client.download)
    delete_object = _blocking(Client.delete_object)
    list_functions = _blocking(Client.list_functions)
    list_invocations = _blocking(Client.list_invocations)
    list_objects = _blocking(Client.list_objects)

    @contextmanager
    def get(self, bucket: str, key: str) -> Iterator[tuple[int | None, Iterator[bytes]]]:
        """Open an object: its size (None = not told) and its bytes."""
        opened = self._client.get(bucket, key)
        size, chunks = self._call(opened.__aenter__())
        try:
            yield size, self._iterate(chunks)
        finally:
            if self._end.alive:
                self._call(opened.__aexit__(None, None, None))

    @contextmanager
    def changes(self) -> Iterator[Iterator[Any]]:
        """Subscribe to every change of phase; the iterator ends when the server stops."""
        opened = self._client.changes()
        changes = self._call(opened.__aenter__())
        try:
            yield self._iterate(changes)
        finally:
            if self._end.alive:
                self._call(opened.__aexit__(None, None, None))


def _close(loop: _Loop, client: Client) -> None:
    try:
        loop.call(client.close())
    finally:
        loop.stop()
