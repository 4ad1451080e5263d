"""One HTTP/1.1 connection, as little of it as an object store needs, over a plain socket.

The standard library's client brings the whole of `email` along, which would be a quarter of a sidecar's start-up time.
Here are requests with a known length and answers with a length, in chunks or until the end; everything else is refused.
"""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Iterator, Mapping

import msgspec

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl

#: Bytes moved at once.
CHUNK = 256 * 1024
_LONGEST_LINE = 16 * 1024
_MOST_HEADERS = 200
#: Longest body that is read whole: answers in XML.
_LONGEST_BODY = 8 * 1024 * 1024


class Broken(Exception):
    """The connection failed, or what came over it was no HTTP. `sent` = the request may have been carried out."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class FilePart(msgspec.Struct, frozen=True):
    """A piece of an open file as a request's body."""

    descriptor: int
    start: int
    length: int


class Peer(msgspec.Struct, frozen=True):
    """Who is spoken to. `tls` None = in the clear."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    connect_s: float = 5.0
    #: Seconds without a byte after which a connection counts as lost.
    stall_s: float = 30.0


class Answer:
    """Status and headers (lower-case names); the body is read from it once."""

    def __init__(self, stream: io.BufferedReader, status: int, headers: Mapping[str, str], *, empty: bool) -> None:
        self.status = status
        self.headers = headers
        self._stream = stream
        self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        length = headers.get("content-length", "")
        self._length = int(length) if length.isdigit() else None
        self._empty = empty or status in {204, 304}
        self.finished = self._empty
        #: The whole body, once `body` was called.
        self.content = b""

    @property
    def length(self) -> int | None:
        """Bytes of the body, None = not told."""
        return 0 if self._empty else self._length

    def chunks(self) -> Iterator[bytes]:
        """The body in pieces. Raises Broken: the connection ended before it did."""
        if self._empty:
            return
        if self._chunked:
            yield from self._pieces()
        elif self._length is None:
            while data := _read(self._stream, CHUNK):
                yield data
            return  # the connection is used up, so it does not count as finished
        else:
            yield from self._exactly(self._length)
        self.finished = True

    def _exactly(self, length: int) -> Iterator[bytes]:
        while length:
            data = _read(self._stream, min(CHUNK, length))
            if not data:
                raise Broken("the connection ended in the middle of an answer", sent=True)
            length -= len(data)
            yield data

    def _pieces(self) -> Iterator[bytes]:
        while True:
            size = _line(self._stream).split(b";")[0].strip()
            try:
                length = int(size, 16)
            except ValueError as error:
                raise Broken("the answer's chunks cannot be read", sent=True) from error
            if not length:
                break
            yield from self._exactly(length)
            _line(self._stream)
        while _line(self._stream):
            pass

    def body(self) -> bytes:
        """All of it, kept as `content`. Raises Broken."""
        parts: list[bytes] = []
        size = 0
        for part in self.chunks():
            size += len(part)
            if size > _LONGEST_BODY:
                raise Broken("the answer is longer than any that was asked for", sent=True)
            parts.append(part)
        self.content = b"".join(parts)
        return self.content


class Connection:
    """Keeps one connection open between requests. Not for several threads at once."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._socket: socket.socket | None = None
        self._stream: io.BufferedReader | None = None
        self._answer: Answer | None = None

    def request(self, method: str, target: str, headers: Mapping[str, str], body: bytes | FilePart = b"") -> Answer:
        """`headers` without a length. Raises Broken. The answer before must have been read, else a new connection is
        made.
        """
        length = body.length if isinstance(body, FilePart) else len(body)
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        if length or method in {"PUT", "POST"}:
            lines.append(f"content-length: {length}")
        head = "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")
        fresh = self._ready()
        try:
            answer = self._exchange(method, head, body)
        except (OSError, Broken) as error:
            self.close()
            # A store closes idle connections when it likes. What changes something is not sent again unasked.
            if fresh or method not in {"GET", "HEAD"}:
                raise error if isinstance(error, Broken) else Broken(_words(error), sent=True) from error
            self._ready()
            try:
                answer = self._exchange(method, head, body)
            except OSError as again:
                self.close()
                raise Broken(_words(again), sent=True) from again
        self._answer = answer
        return answer

    def _ready(self) -> bool:
        """Have a connection; True = a new one. Raises Broken."""
        if self._answer is not None and (
            not self._answer.finished or self._answer.headers.get("connection", "").lower() == "close"
        ):
            self.close()
        self._answer = None
        if self._socket is not None:
            return False
        peer = self._peer
        try:
            opened = socket.create_connection((peer.host, peer.port), timeout=peer.connect_s)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if peer.tls is not None:
                opened = peer.tls.wrap_socket(opened, server_hostname=peer.host)
            opened.settimeout(peer.stall_s)
        except OSError as error:
            raise Broken(_words(error), sent=False) from error
        self._socket = opened
        self._stream = opened.makefile("rb")
        return True

    def _exchange(self, method: str, head: bytes, body: bytes | FilePart) -> Answer:
        assert self._socket is not None
        assert self._stream is not None
        try:
            if isinstance(body, FilePart):
                self._socket.sendall(head)
                _send_file(self._socket, body)
            else:
                self._socket.sendall(head + body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # a refusal may have been sent before all of the body was: it is read below
        return _answer(self._stream, method)

    def close(self) -> None:
        for part in (self._stream, self._socket):
            if part is not None:
                part.close()
        self._socket = self._stream = self._answer = None


def _send_file(to: socket.socket, body: FilePart) -> None:
    position, end = body.start, body.start + body.length
    while position < end:
        data = os.pread(body.descriptor, min(CHUNK, end - position), position)
        if not data:
            raise Broken("the file became shorter while it was sent", sent=False)
        to.sendall(data)
        position += len(data)


def _words(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _read(stream: io.BufferedReader, length: int) -> bytes:
    try:
        return stream.read(length)
    except OSError as error:
        raise Broken(_words(error), sent=True) from error


def _line(stream: io.BufferedReader) -> bytes:
    try:
        line = stream.readline(_LONGEST_LINE)
    except OSError as error:
        raise Broken(_words(error), sent=True) from error
    if not line.endswith(b"\n"):
        raise Broken("the connection ended in the middle of an answer", sent=True)
    return line.rstrip(b"\r\n")


def _answer(stream: io.BufferedReader, method: str) -> Answer:
    while True:
        first = stream.readline(_LONGEST_LINE)
        if not first:
            raise Broken("the connection was closed before an answer came", sent=True)
        words = first.split(None, 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
            raise Broken("what answers is no object store", sent=True)
        status = int(words[1])
        headers: dict[str, str] = {}
        while line := _line(stream):
            name, _, value = line.partition(b":")
            text = value.strip().decode("utf-8", "surrogateescape")
            headers[name.strip().decode("latin-1").lower()] = text
            if len(headers) > _MOST_HEADERS:
                raise Broken("the answer has too many headers", sent=True)
        if status >= 200:
            return Answer(stream, status, headers, empty=method == "HEAD")
