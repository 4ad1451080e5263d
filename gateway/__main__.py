"""`python -m gateway [--edge]`: the interface of a cluster as a service.

With `--edge` it is watcher, dispatcher and gateway in one process, over a log in a file, for a small cluster of one
node. Nothing that is away at the start ends it: until everything is there, `/health` answers, and `/ready` says what it
waits for. Only settings that can never work, and faults that a person must mend, end it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry

from gateway.admin import tls_of
from gateway.api.server import address_of, bind, serving
from gateway.options import check
from gateway.probes import Probes
from gateway.production import Opened, open_edge, open_gateway
from penstock import __version__
from penstock.errors import Unavailable
from penstock.probes import add_probes
from penstock.probes import serving as serving_probes
from penstock.program import Program, Work, cut_short, until_signal
from penstock.settings import Settings, override
from penstock.tasks import Supervisor

log = structlog.get_logger("gateway")

RETRY_S = 3.0

PROGRAM = Program(
    module="gateway",
    description="Serves the REST interface of a cluster; with --edge, watcher and dispatcher too, in one process.",
    examples=(
        "python -m gateway --config /etc/penstock/penstock.toml",
        "python -m gateway --config penstock.toml --check",
        "python -m gateway --edge --config /etc/penstock/penstock.toml",
    ),
    pages="The interface: docs/reference/api.md. The edge profile: docs/how-to/edge.md.\n"
    "Settings: docs/reference/settings.md.",
)


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
                    "the gateway starts", action="start", version=__version__, address=self.address, probes=self.probes
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
                    async with cut_short(self._stopping):
                        opened = await attempt.enter_async_context(
                            self._open(self._settings, stopping=self._stopping.is_set)
                        )
                        stack.push_async_exit(attempt)
                        return opened
                except Unavailable as error:
                    self._waits = error.message
                    log.warning("a part is not there yet", action="start_delayed", error=error.message)
                    await self._pause()
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


async def serve(settings: Settings, *, edge: bool) -> None:
    """Run until SIGTERM or SIGINT, and answer what is under way; a second signal cuts that short."""
    service = Service(settings, edge=edge)
    await until_signal(service.run(), service.stop)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = PROGRAM.parser()
    parser.add_argument("--edge", action="store_true", help="watcher, dispatcher and gateway in one process")
    parser.add_argument("--listen", metavar="HOST:PORT", help="address of the interface (http.listen)")
    given = parser.parse_args(arguments)

    def prepare(loaded: Settings) -> Work:
        settings = override(loaded, "http", listen=given.listen)
        check(settings, edge=given.edge)
        return Work(serve=lambda: serve(settings, edge=given.edge))

    return PROGRAM.run(given, prepare)


if __name__ == "__main__":
    sys.exit(main())
