"""`python -m gateway [--edge] [SETTINGS.toml]`: the interface of a cluster as a service.

With `--edge` it is watcher, dispatcher and gateway in one process, over a log in a file, for a small cluster of one
node. Nothing that is away at the start ends it: until everything is there, `/health` answers, and `/ready` says what it
waits for. It exits with 0 after SIGTERM or SIGINT, with 1 when only a person can mend what is wrong, and with 2 for
settings that cannot work.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry

from gateway.admin import tls_of
from gateway.api.server import address_of, bind, serving
from gateway.probes import Probes
from gateway.production import Opened, open_edge, open_gateway
from penstock import __version__
from penstock.errors import InvalidInput, PenstockError, Unavailable
from penstock.observability import configure_logging
from penstock.probes import add_probes
from penstock.probes import serving as serving_probes
from penstock.settings import Settings, load
from penstock.tasks import Supervisor

log = structlog.get_logger("gateway")

RETRY_S = 3.0


class Service:
    """The process: its probes from the first moment on, its parts as they become available."""

    def __init__(self, settings: Settings, *, edge: bool) -> None:
        self._settings = settings
        self._open = open_edge if edge else open_gateway
        self._stopping = asyncio.Event()
        self._waits = "it is starting"
        self._probes = Probes("edge" if edge else "gateway", lambda: self._waits)
        #: http[s]://HOST:PORT once it listens.
        self.address = ""
        #: HOST:PORT of the probes and metrics, once they are served.
        self.probes = ""
        self.serving = asyncio.Event()

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        """Until `stop`. Raises InvalidInput (settings), and what only a person can mend."""
        http, tls = self._settings.http, tls_of(self._settings.gateway)
        with contextlib.closing(bind(http.listen, allow_remote=http.allow_remote or tls is not None)) as sock:
            self.address = address_of(sock)[0].replace("http://", "https://" if tls else "http://", 1)
            async with AsyncExitStack() as stack:
                probes = serving_probes(self._probes.app(), self._settings.service.listen)
                self.probes = await stack.enter_async_context(probes)
                log.info(
                    "gateway starts", action="start", version=__version__, address=self.address, probes=self.probes
                )
                opened = await self._opened(sock, stack)
                if opened is None:
                    return
                supervisor = Supervisor()
                stack.push_async_callback(supervisor.close)
                for name, loop in opened.loops.items():
                    supervisor.start(name, loop)
                async with serving(opened.services, sock, tls=tls):
                    self._probes.services = opened.services
                    self.serving.set()
                    await self._until_stopped(supervisor)
        log.info("gateway has stopped", action="stopped")

    async def _until_stopped(self, supervisor: Supervisor) -> None:
        stop = asyncio.create_task(self._stopping.wait(), name="stop")
        stop.add_done_callback(lambda _: supervisor.stop())
        try:
            await supervisor.run()
        finally:
            stop.cancel()

    async def _opened(self, sock: socket.socket, stack: AsyncExitStack) -> Opened | None:
        """The composed parts, however long one of them is away; None = it is time to stop."""
        async with self._waiting_room(sock):
            while not self._stopping.is_set():
                attempt = AsyncExitStack()
                try:
                    opened = await attempt.enter_async_context(
                        self._open(self._settings, stopping=self._stopping.is_set)
                    )
                except Unavailable as error:
                    self._waits = error.message
                    log.warning("a part is not there yet", action="start_delayed", error=error.message)
                    await self._pause()
                else:
                    stack.push_async_exit(attempt)
                    return opened
            return None

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RETRY_S):
                await self._stopping.wait()

    @asynccontextmanager
    async def _waiting_room(self, sock: socket.socket) -> AsyncIterator[None]:
        """Probes alone, on the same socket, until the real server takes over. With TLS nothing is answered before."""
        if self._settings.gateway.tls_cert is not None:
            yield
            return
        app = web.Application()
        add_probes(app, registry=CollectorRegistry(), waiting_for=lambda: [self._waits])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.SockSite(runner, sock.dup()).start()
            yield
        finally:
            await runner.cleanup()


async def _serve(make: Callable[[], Service]) -> None:
    service = make()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.stop)
    await service.run()


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m gateway", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--edge", action="store_true", help="watcher, dispatcher and gateway in one process")
    parser.add_argument("settings", nargs="?", type=Path, help="settings file (TOML)")
    options = parser.parse_args(arguments)
    try:
        settings = load(options.settings)
        configure_logging(settings.log)
        asyncio.run(_serve(lambda: Service(settings, edge=options.edge)))
    except InvalidInput as error:
        print(f"error: {error.message}", file=sys.stderr)  # noqa: T201 - the log may not be set up yet
        return 2
    except PenstockError as error:
        log.error("the gateway cannot go on", action="failed", error=error.message, kind=error.code)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
