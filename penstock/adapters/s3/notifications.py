"""Which events of a bucket a store sends where: read and replace a bucket's notification rules, and listen by HTTP.

Rules of other kinds of targets (topics and cloud functions) are kept as they were when ours are replaced. Listening is
MinIO's own addition to S3: one endless answer with an event a line, which is lost when the connection is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from xml.etree import ElementTree as ET

import aiohttp
import msgspec

from penstock.adapters.s3 import wire
from penstock.adapters.s3.body import of_bytes
from penstock.adapters.s3.client import Ask, Client
from penstock.adapters.s3.trouble import Target, Wish, code_of
from penstock.errors import InvalidInput, Unavailable, Unsupported

#: The four ways in which content arrives. `ObjectCreated:*` would include tagging, which changes no content.
CREATED = (
    "s3:ObjectCreated:Put",
    "s3:ObjectCreated:Post",
    "s3:ObjectCreated:Copy",
    "s3:ObjectCreated:CompleteMultipartUpload",
)
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_QUEUE = "QueueConfiguration"
#: A longer line is no event: keys and metadata are far shorter.
_MAX_LINE = 8 * 1024 * 1024
#: Seconds of silence that are too many: a sign of life is asked for each second.
SILENCE_S = 10.0
#: So many signs of life show that the store sends what it has at once.
_TRUSTED = 3
#: The store's sign of life.
_PING = b'{"Records":null}'
_HELD_BACK = (
    "the object store does not tell at once what happens, as some versions of MinIO do not; for quick events give it a "
    "second webhook target without a queue_dir (notify.quick_arn)"
)


class UnknownTarget(InvalidInput):
    """A rule names a target that the store does not have (or, at some stores, a filter that it does not take)."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """Events of keys with this prefix and suffix go to the queue target `arn`."""

    id: str
    arn: str
    events: tuple[str, ...] = CREATED
    prefix: str = ""
    suffix: str = ""


class Notifications:
    """Of all buckets of one store. Methods raise NotFound (bucket), Forbidden, Unavailable, UnknownTarget."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def get(self, bucket: str) -> list[Rule]:
        return parse_rules(await self._raw(bucket))

    async def put(self, bucket: str, rules: Iterable[Rule]) -> None:
        """Make these the bucket's rules for queue targets; an empty list ends them."""
        rules = list(rules)
        document = with_rules(await self._raw(bucket), rules)
        body = await of_bytes(document, secure=self._client.endpoint.secure)
        target = Target(Wish.CHANGED, bucket)
        try:
            await self._client.call(Ask("PUT", target, query=(("notification", ""),), body=body))
        except InvalidInput as error:
            if code_of(error) != "InvalidArgument":
                raise
            arns = ", ".join(sorted({rule.arn for rule in rules}))
            raise UnknownTarget(
                f"the object store has no notification target {arns}: configure it there, restart the store once, and "
                "give its ARN here"
            ) from error

    async def listen(self, bucket: str = "", *, events: Iterable[str] = CREATED) -> AsyncIterator[bytes]:
        """Documents about what happens from now on, in one bucket or (empty) in all; b"" is a sign of life, the first
        of which comes once the store listens. Keys are not escaped. Never ends: raises Unavailable when the store ends
        it or is gone, Forbidden, and InvalidInput or Unsupported where the store knows no listening, or holds back
        what it has to tell until there is more (MinIO of 2026 does: it lacks a flush).
        """
        query = (*(("events", event) for event in events), ("ping", "1"))
        try:
            async with asyncio.timeout(SILENCE_S):
                response = await self._client.open(Ask("GET", Target(Wish.LISTED, bucket), query=query))
        except TimeoutError as error:
            raise Unsupported(_HELD_BACK) from error
        signs = 0
        try:
            rest = b""
            while True:
                try:
                    async with asyncio.timeout(SILENCE_S):
                        chunk = await response.content.readany()
                except TimeoutError as error:
                    if signs < _TRUSTED:
                        raise Unsupported(_HELD_BACK) from error
                    raise
                if not chunk:
                    break
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > _MAX_LINE:
                    raise Unavailable("what the object store sends while listening is no list of events")
                rest = rest.lstrip()
                found = [line.strip() for line in lines]
                signs += found.count(_PING)
                found = [line for line in found if line not in {b"", _PING}]
                for line in found:
                    yield line
                if not found:
                    yield b""
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(
                f"listening to the object store broke off: {str(error) or type(error).__name__}"
            ) from error
        finally:
            response.close()
        raise Unavailable("the object store ended the listening")

    async def _raw(self, bucket: str) -> bytes:
        answer = await self._client.call(Ask("GET", Target(Wish.READ, bucket), query=(("notification", ""),)))
        return answer.body


def parse_rules(document: bytes) -> list[Rule]:
    """The rules for queue targets, in order. Raises Corrupt."""
    return [_rule(child) for name, child in wire.children(wire.parse(document)) if name == _QUEUE]


def _rule(element: ET.Element) -> Rule:
    fields = wire.texts(element)
    events, filters = [], {}
    for name, child in wire.children(element):
        if name == "Event":
            events.append(child.text or "")
        elif name == "Filter":
            for part in child.iter():
                if wire.local(part.tag) == "FilterRule":
                    pair = wire.texts(part)
                    filters[pair.get("Name", "").lower()] = pair.get("Value", "")
    return Rule(
        id=fields.get("Id", ""),
        arn=fields.get("Queue", ""),
        events=tuple(events),
        prefix=filters.get("prefix", ""),
        suffix=filters.get("suffix", ""),
    )


def with_rules(document: bytes, rules: Iterable[Rule]) -> bytes:
    """The document with its rules for queue targets replaced. Raises Corrupt."""
    root = ET.Element("NotificationConfiguration", xmlns=_NAMESPACE)
    for name, child in wire.children(wire.parse(document)):
        if name != _QUEUE:
            root.append(_plain(child))
    for rule in rules:
        queue = ET.SubElement(root, _QUEUE)
        for name, text in (("Id", rule.id), ("Queue", rule.arn), *(("Event", event) for event in rule.events)):
            ET.SubElement(queue, name).text = text
        filters = [(name, value) for name, value in (("prefix", rule.prefix), ("suffix", rule.suffix)) if value]
        if filters:
            key = ET.SubElement(ET.SubElement(queue, "Filter"), "S3Key")
            for name, value in filters:
                part = ET.SubElement(key, "FilterRule")
                ET.SubElement(part, "Name").text = name
                ET.SubElement(part, "Value").text = value
    return wire.document(root)


def _plain(element: ET.Element) -> ET.Element:
    """The same element without namespaces, which the root declares once for all."""
    copy = ET.Element(wire.local(element.tag))
    copy.text = element.text
    copy.extend(_plain(child) for child in element)
    return copy
