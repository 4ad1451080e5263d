"""The small HTTP interface of a service that has no other: is it alive, can it do its work, what does it count.

`/health` answers 200 while the event loop turns; `/ready` answers 200 when the service can do its work and otherwise
503 with the reasons, one a line; `/metrics` is for Prometheus. Further routes (the watcher's webhook) are added by the
service itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from penstock import __version__
from penstock.collectors import ServiceCollector
from penstock.errors import AlreadyExists, InvalidInput, Unavailable

#: What a handler still under way gets at a stop.
_GRACE_S = 2.0


class _Snapshot(CollectorRegistry):
    """What the metrics were at one moment: read in the loop, whose own they are, and put into text in a thread, since
    that takes a tenth of a second where there are many functions.
    """

    def __init__(self, families: list[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def split_address(listen: str, *, where: str = "service.listen") -> tuple[str, int]:
    """`HOST:PORT` or `[IPv6]:PORT`. Raises InvalidInput."""
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise InvalidInput(f"{listen!r} is not HOST:PORT, for example 127.0.0.1:9090", where=where)
    return host.strip("[]"), int(port)


def add_probes(
    app: web.Application,
    *,
    registry: CollectorRegistry,
    waiting_for: Callable[[], Sequence[str]],
    service: str = "",
) -> None:
    """`waiting_for` gives the reasons why the service cannot do its work now; none = ready. With `service`, its name,
    the registry also tells readiness and version.
    """
    if service:
        registry.register(ServiceCollector(service, __version__, waiting_for))

    async def health(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(_: web.Request) -> web.Response:
        reasons = list(waiting_for())
        if reasons:
            return web.Response(status=503, text="".join(f"{reason}\n" for reason in reasons))
        return web.Response(text="ready\n")

    async def metrics(_: web.Request) -> web.Response:
        text = await asyncio.to_thread(generate_latest, _Snapshot(list(registry.collect())))
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app.router.add_get("/health", health)
    app.router.add_get("/ready", ready)
    app.router.add_get("/metrics", metrics)


@asynccontextmanager
async def serving(app: web.Application, listen: str) -> AsyncIterator[str]:
    """Serve until the block ends; gives `HOST:PORT` as bound. Raises InvalidInput, AlreadyExists (port taken),
    Unavailable.
    """
    host, port = split_address(listen)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_GRACE_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            if error.errno == 98:
                raise AlreadyExists(f"the address {listen} is in use by another program (service.listen)") from error
            raise Unavailable(f"cannot listen on {listen}: {error.strerror or error}") from error
        bound = runner.addresses[0]
        yield f"{bound[0]}:{bound[1]}"
    finally:
        await asyncio.shield(runner.cleanup())
