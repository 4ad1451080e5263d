"""Labels of a bucket, by which the platform recognises what belongs to it."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree as ET

from penstock.adapters.s3 import wire
from penstock.adapters.s3.body import of_bytes
from penstock.adapters.s3.client import Ask, Client
from penstock.adapters.s3.trouble import Target, Wish, code_of
from penstock.errors import NotFound

_QUERY = (("tagging", ""),)


class BucketTags:
    """Of all buckets of one store. Methods raise NotFound (bucket), Forbidden, InvalidInput (a refused tag)."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def get(self, bucket: str) -> dict[str, str]:
        try:
            answer = await self._client.call(Ask("GET", Target(Wish.READ, bucket), query=_QUERY))
        except NotFound as error:
            if code_of(error) != "NoSuchTagSet":
                raise
            await self._client.call(Ask("HEAD", Target(Wish.READ, bucket)))  # MinIO says so of a missing bucket too
            return {}
        return parse_tags(answer.body)

    async def put(self, bucket: str, tags: Mapping[str, str]) -> None:
        """Make these the bucket's only tags; none at all removes them."""
        target = Target(Wish.CHANGED, bucket)
        if not tags:
            await self._client.call(Ask("DELETE", target, query=_QUERY))
            return
        body = await of_bytes(format_tags(tags), secure=self._client.endpoint.secure)
        await self._client.call(Ask("PUT", target, query=_QUERY, body=body))


def parse_tags(document: bytes) -> dict[str, str]:
    """Raises Corrupt."""
    tags = {}
    for element in wire.parse(document).iter():
        if wire.local(element.tag) == "Tag":
            pair = wire.texts(element)
            tags[pair.get("Key", "")] = pair.get("Value", "")
    return tags


def format_tags(tags: Mapping[str, str]) -> bytes:
    root = ET.Element("Tagging", xmlns="http://s3.amazonaws.com/doc/2006-03-01/")
    group = ET.SubElement(root, "TagSet")
    for key, value in tags.items():
        tag = ET.SubElement(group, "Tag")
        ET.SubElement(tag, "Key").text = key
        ET.SubElement(tag, "Value").text = value
    return wire.document(root)
