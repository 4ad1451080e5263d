"""Which events of a bucket a store sends where: read, compare and replace a bucket's notification rules.

Rules of other kinds of targets (topics and cloud functions) are kept as they were when ours are replaced.
"""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree import ElementTree as ET

import msgspec

from penstock.adapters.s3 import wire
from penstock.adapters.s3.body import of_bytes
from penstock.adapters.s3.client import Ask, Client
from penstock.adapters.s3.trouble import Target, Wish

#: The four ways in which content arrives. `ObjectCreated:*` would include tagging, which changes no content.
CREATED = (
    "s3:ObjectCreated:Put",
    "s3:ObjectCreated:Post",
    "s3:ObjectCreated:Copy",
    "s3:ObjectCreated:CompleteMultipartUpload",
)
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_QUEUE = "QueueConfiguration"


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """Events of keys with this prefix and suffix go to the queue target `arn`."""

    id: str
    arn: str
    events: tuple[str, ...] = CREATED
    prefix: str = ""
    suffix: str = ""


class Notifications:
    """Of all buckets of one store. Methods raise NotFound (bucket), Forbidden, InvalidInput (unknown target)."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def get(self, bucket: str) -> list[Rule]:
        return parse_rules(await self._raw(bucket))

    async def put(self, bucket: str, rules: Iterable[Rule]) -> None:
        """Make these the bucket's rules for queue targets; an empty list ends them."""
        document = with_rules(await self._raw(bucket), rules)
        body = await of_bytes(document, secure=self._client.endpoint.secure)
        target = Target(Wish.CHANGED, bucket)
        await self._client.call(Ask("PUT", target, query=(("notification", ""),), body=body))

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
