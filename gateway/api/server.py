"""The listening socket and the server on it.

The socket is bound before anything else is opened, so that a taken port costs nothing and says so at once. The default
is loopback; an address that other machines can reach needs an explicit word, because the credential would travel in
clear.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from gateway.api.app import make_app
from gateway.api.context import Services
from gateway.api.gate import Gate
from penstock.errors import Conflict, Forbidden, InvalidInput, PenstockError, Unavailable
from penstock.settings import HttpSettings

BACKLOG = 128
#: An answer given before the body was read: so long the rest of the body is read away, so that the client sees it.
LINGER_S = 2.0
#: At a stop requests under way get so long.
STOP_S = 3.0


def parse_listen(text: str, *, where: str = "listen") -> tuple[str, int]:
    """HOST:PORT, with IPv6 in brackets. Raises InvalidInput."""
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65535):
        raise InvalidInput(f"give HOST:PORT such as 127.0.0.1:8080 or [::1]:8080, not {text[:60]!r}", where=where)
    return host, int(port)


def bind(listen: str, *, allow_remote: bool) -> socket.socket:
    """A listening socket. Raises InvalidInput, Forbidden (reachable from other machines), Conflict (port taken)."""
    family, address = check_listen(listen, allow_remote=allow_remote)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        # At once: two sockets may be bound to one port, but only one may listen.
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _refused(error, *parse_listen(listen)) from error
    sock.setblocking(False)
    return sock


def check_listen(
    listen: str, *, allow_remote: bool, where: str = "listen"
) -> tuple[socket.AddressFamily, tuple[object, ...]]:
    """The address to bind to; refuses what `bind` would refuse whatever else runs. Raises InvalidInput, Forbidden."""
    host, port = parse_listen(listen, where=where)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise InvalidInput(f"the host {host!r} has no address here: {error.strerror}", where=where) from error
    family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    if not allow_remote and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise Forbidden(
            f"{listen} can be reached from other machines, and without TLS the credential would travel in clear; "
            "listen on 127.0.0.1 behind a proxy that speaks TLS, or say --allow-remote (http.allow_remote)"
        )
    return family, address


def _refused(error: OSError, host: str, port: int) -> PenstockError:
    if error.errno == errno.EADDRINUSE:
        return Conflict(
            f"port {port} on {host} is taken by another program; stop that one, or choose another port with "
            f"--listen {host}:PORT (0 = any free one)"
        )
    if error.errno == errno.EACCES:
        return InvalidInput(
            f"port {port} needs administrator's rights; choose one above 1023 with --listen {host}:PORT", where="listen"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return InvalidInput(f"{host} is not an address of this machine", where="listen")
    return Unavailable(f"cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()}")


def address_of(sock: socket.socket) -> tuple[str, int]:
    """(URL, port) under which clients on this machine reach the socket."""
    host, port = sock.getsockname()[:2]
    if ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
        host = "127.0.0.1" if sock.family == socket.AF_INET else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}", port


class _GatedSite(web.SockSite):
    """A site whose connections come through the gate."""

    def __init__(self, runner: web.AppRunner, sock: socket.socket, gate: Gate, tls: ssl.SSLContext | None) -> None:
        super().__init__(runner, sock, backlog=BACKLOG, ssl_context=tls)
        self._gate = gate
        self._tls = tls

    async def start(self) -> None:
        await web.BaseSite.start(self)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._gate, sock=self._sock, backlog=BACKLOG, ssl=self._tls)


@asynccontextmanager
async def serving(services: Services, sock: socket.socket, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    """Serve on the socket, which is closed at the end, after requests under way had some seconds."""
    http: HttpSettings = services.settings.http
    gate = Gate(services.metrics, most=http.max_connections, patience_s=http.header_timeout_s)
    runner = web.AppRunner(
        make_app(services, gate),
        access_log=None,
        keepalive_timeout=http.keepalive_s,
        max_line_size=http.max_header_bytes,
        max_field_size=http.max_header_bytes,
        lingering_time=LINGER_S,
        # Bodies are what was sent: unpacking them would change a user's bytes and let a small body become a huge one.
        auto_decompress=False,
        shutdown_timeout=STOP_S,
    )
    await runner.setup()
    try:
        assert runner.server is not None
        gate.attach(runner.server)
        await _GatedSite(runner, sock, gate, tls).start()
        yield
    finally:
        services.changes.close()
        gate.close()
        await runner.cleanup()
