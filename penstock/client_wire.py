"""The pure parts of the client: addresses, paths, JSON and the feed of changes, as they go over the wire."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator
from typing import TypeVar
from urllib.parse import quote

import msgspec
from yarl import URL

from penstock import errors

T = TypeVar("T")


def base_address(server: str) -> str:
    """Return the address without its last slash. Raises InvalidInput."""
    try:
        url = URL(server)
        fine = url.scheme in {"http", "https"} and bool(url.host) and url.port is not None and url.user is None
    except ValueError:
        fine = False
    if not fine or "?" in server or "#" in server or not server.isprintable() or " " in server:
        # With a user in it a password is, too, which no message may repeat.
        named = "this" if "@" in server else repr(server)
        raise errors.InvalidInput(
            f"{named} is no address: it must look like http://127.0.0.1:8080, the credential apart from it"
        )
    return server.rstrip("/")


def object_path(bucket: str, key: str) -> str:
    """Return the path of one object, each byte of the key percent-encoded once, slashes kept.

    Bytes that are no text (surrogate escapes, as names on disk may have them) are sent as they are. Raises InvalidInput
    for half characters that no disk and no store can hold.
    """
    segments = [quoted(segment) for segment in key.split("/")]
    # A segment of dots would be taken for a relative path by anything between here and the store.
    dotted = [segment.replace(".", "%2E") if segment in {".", ".."} else segment for segment in segments]
    return f"/v1/buckets/{quoted(bucket)}/objects/{'/'.join(dotted)}"


def quoted(text: str) -> str:
    """Percent-encode all that is not a plain letter. Raises InvalidInput for half a character."""
    try:
        return quote(text, safe="", errors="surrogateescape")
    except UnicodeEncodeError as error:
        raise errors.InvalidInput(f"{text!r} holds half a character, which no name can") from error


def encoded(value: object) -> bytes:
    """Return JSON. A name on disk that is no text becomes an escaped half of a pair, which JSON permits."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value), separators=(",", ":")).encode("ascii")


def decoded(text: bytes, kind: type[T]) -> T:
    """Read JSON, such escaped halves too. Raises msgspec.DecodeError (a ValueError)."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError as error:
        try:
            return msgspec.convert(json.loads(text), type=kind)
        except ValueError:
            raise error from None


async def server_sent_events(lines: AsyncIterable[bytes]) -> AsyncIterator[tuple[str, bytes]]:
    """Yield (event, data) of a stream of server-sent events; comments and empty messages are passed over."""
    event, data = "message", list[bytes]()
    async for line in lines:
        field, _, value = line.rstrip(b"\r\n").partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            event = value.decode("utf-8", "replace")
        elif field == b"data":
            data.append(value)
        elif not field and not value:  # an empty line ends the message
            if data or event == "gap":
                yield event, b"\n".join(data)
            event, data = "message", []
