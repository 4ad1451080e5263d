"""Single questions to the brokers: offsets, group positions, topics, deletion; each bounded by one deadline.

aiokafka's consumers and its admin client would do, at the price of a connection per group, of commits that are tried
for ever, and of metadata requests that create a topic just by asking for it. Its plain client has none of these.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

from aiokafka import AIOKafkaClient, TopicPartition  # type: ignore[import-untyped,unused-ignore]
from aiokafka import errors as kafka
from aiokafka.client import CoordinationType  # type: ignore[import-untyped,unused-ignore]
from aiokafka.protocol.admin import (  # type: ignore[import-untyped,unused-ignore]
    CreateTopicsRequest,
    DeleteRecordsRequest,
    DescribeConfigsRequest,
)
from aiokafka.protocol.commit import (  # type: ignore[import-untyped,unused-ignore]
    OffsetCommitRequest,
    OffsetFetchRequest,
)
from aiokafka.protocol.metadata import MetadataRequest  # type: ignore[import-untyped,unused-ignore]
from aiokafka.protocol.offset import OffsetRequest  # type: ignore[import-untyped,unused-ignore]

from penstock.adapters.kafka.diagnosis import refusal
from penstock.adapters.kafka.settings import KafkaSettings
from penstock.adapters.kafka.trouble import passing, translated, words
from penstock.errors import Closed, Unavailable

T = TypeVar("T")

#: In place of a time in a question for offsets.
LATEST = -1
EARLIEST = -2
_TOPIC_RESOURCE = 2
_READ_COMMITTED = 1


class Cluster:
    """Topics are named as in the cluster, prefix included. Every method raises what `translated` makes, and
    Unavailable after the deadline.
    """

    def __init__(self, settings: KafkaSettings, options: Mapping[str, Any]) -> None:
        self._settings = settings
        self._options = options
        self._client: Any = None
        self._opening = asyncio.Lock()
        self._coordinators: dict[str, int] = {}
        self._closed = False

    async def partitions(self, topic: str) -> int:
        """How many partitions the topic has; 0 = there is no such topic. Never creates it."""

        async def ask(client: Any) -> int:
            request = MetadataRequest([topic], allow_auto_topic_creation=False)
            answer = await client.send(client.get_random_node(), request)
            for code, _, _, partitions in (found[:4] for found in answer.topics):
                if code == kafka.UnknownTopicOrPartitionError.errno:
                    return 0
                _check(code, topic)
                return len(partitions)
            return 0

        return await self._ask(f"asking for the topic {topic}", ask)

    async def config(self, topic: str) -> dict[str, str]:
        """The settings in force for a topic."""

        async def ask(client: Any) -> dict[str, str]:
            request = DescribeConfigsRequest([(_TOPIC_RESOURCE, topic, None)])
            answer = await client.send(client.get_random_node(), request)
            ((code, text, _, _, entries, *_),) = answer.resources
            _check(code, text or topic)
            return {name: value for name, value, *_ in entries if value is not None}

        return await self._ask(f"reading the settings of the topic {topic}", ask)

    async def create(self, topic: str, partitions: int, replication: int, config: Mapping[str, str]) -> None:
        """Make a topic, unless it is there."""
        wanted: list[Any] = [(topic, partitions, replication, [], list(config.items()))]

        async def ask(client: Any) -> None:
            if client.cluster.controller is None:
                await client.force_metadata_update()
            if client.cluster.controller is None:
                raise kafka.NotControllerError
            request = CreateTopicsRequest(wanted, int(self._settings.request_s * 1000), validate_only=False)
            answer = await client.send(client.cluster.controller.nodeId, request)
            for _, code, *text in answer.topic_errors:
                if code != kafka.TopicAlreadyExistsError.errno:
                    _check(code, text[0] if text and text[0] else topic)

        await self._ask(f"creating the topic {topic}", ask)

    async def offsets(self, topic: str, times: Mapping[int, int], *, committed: bool = False) -> dict[int, int]:
        """Per partition the first offset at or after a time (ms), LATEST or EARLIEST; -1 = nothing is that young.
        `committed` = the end as readers of committed entries see it.
        """

        async def ask(client: Any) -> dict[int, int]:
            found: dict[int, int] = {}
            for node, asked in (await _by_leader(client, topic, times)).items():
                isolation = _READ_COMMITTED if committed else 0
                request = OffsetRequest(-1, isolation, [(topic, [(p, times[p]) for p in asked])])
                answer = await client.send(node, request)
                for _, partitions in answer.topics:
                    for partition, code, _, offset in partitions:
                        _check(code, topic)
                        found[partition] = offset
            return found

        return await self._ask(f"asking for offsets of {topic}", ask) if times else {}

    async def committed(self, group: str, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """A group's positions, where it has any."""
        wanted = [(topic, list(partitions))]

        async def ask(client: Any) -> dict[int, int]:
            answer = await client.send(await self._coordinator(client, group), OffsetFetchRequest(group, wanted))
            _check(getattr(answer, "error_code", 0), group)
            found: dict[int, int] = {}
            for _, stored in answer.topics:
                for partition, offset, _, code in stored:
                    _check(code, group)
                    if offset >= 0:
                        found[partition] = offset
            return found

        return await self._ask(f"reading the positions of {group}", ask, group)

    async def commit(self, group: str, topic: str, positions: Mapping[int, int]) -> None:
        """Store positions of a group that nobody has joined."""
        data = [(topic, [(partition, offset, "") for partition, offset in positions.items()])]
        request = OffsetCommitRequest(
            group,
            OffsetCommitRequest.DEFAULT_GENERATION_ID,
            "",
            OffsetCommitRequest.DEFAULT_RETENTION_TIME,
            data,
        )

        async def ask(client: Any) -> None:
            answer = await client.send(await self._coordinator(client, group), request)
            for _, stored in answer.topics:
                for _, code in stored:
                    _check(code, group)

        await self._ask(f"storing the positions of {group}", ask, group)

    async def delete_below(self, topic: str, positions: Mapping[int, int]) -> dict[int, int]:
        """Delete entries below the positions. Returns the first offset left, per partition."""

        async def ask(client: Any) -> dict[int, int]:
            left: dict[int, int] = {}
            for node, asked in (await _by_leader(client, topic, positions)).items():
                doomed = [(topic, [(partition, positions[partition]) for partition in asked])]
                answer = await client.send(node, DeleteRecordsRequest(doomed, int(self._settings.request_s * 1000)))
                for name_and_partitions in answer.topics:
                    for partition, low, code in (found[:3] for found in name_and_partitions[1]):
                        _check(code, topic)
                        left[partition] = low
            return left

        return await self._ask(f"deleting entries of {topic}", ask)

    async def close(self) -> None:
        self._closed = True
        async with self._opening:
            if self._client is not None:
                await self._client.close()

    async def _ask(self, what: str, ask: Callable[[Any], Awaitable[T]], group: str = "") -> T:
        """Ask until there is an answer that is not a passing error, within the deadline."""
        last: kafka.KafkaError | None = None
        try:
            async with asyncio.timeout(self._settings.deadline_s):
                while True:
                    try:
                        return await ask(await self._connected())
                    except kafka.KafkaError as error:
                        if not passing(error):
                            raise translated(error, what) from error
                        last = error
                    self._coordinators.pop(group, None)
                    await asyncio.sleep(self._settings.backoff_ms / 1000)
                    if (client := self._client) is not None:
                        await client.force_metadata_update()
        except TimeoutError:
            # The client knows only the addresses it has learnt; the next one asks the servers that were named.
            client, self._client = self._client, None
            if client is not None:
                await within(self._settings.request_s, client.close())
            seconds = self._settings.deadline_s
            raise Unavailable(f"{what}: no broker answered within {seconds:g} s ({words(last)})") from last

    async def _connected(self) -> Any:
        if self._closed:
            raise Closed("the log is closed")
        if self._client is not None:
            return self._client
        async with self._opening:
            if self._client is None:
                client = AIOKafkaClient(**self._options)
                try:
                    await client.bootstrap()
                except kafka.KafkaConnectionError as error:
                    await client.close()
                    said = await refusal(self._options)
                    if isinstance(said, kafka.KafkaError) and not passing(said):
                        raise said from error
                    raise kafka.KafkaConnectionError(words(said or error)) from error
                except BaseException:
                    await client.close()
                    raise
                self._client = client
        return self._client

    async def _coordinator(self, client: Any, group: str) -> int:
        node = self._coordinators.get(group)
        if node is None:
            node = self._coordinators[group] = await client.coordinator_lookup(CoordinationType.GROUP, group)
        return node


def _check(code: int, about: str) -> None:
    if code:
        raise kafka.for_code(code)(about)


async def _by_leader(client: Any, topic: str, partitions: Iterable[int]) -> dict[int, list[int]]:
    """Which broker to ask for which partitions. Call only for topics that exist: it may create others."""
    if client.cluster.partitions_for_topic(topic) is None:
        await client.add_topic(topic)
    leaders: dict[int, list[int]] = defaultdict(list)
    for partition in partitions:
        leader = client.cluster.leader_for_partition(TopicPartition(topic, partition))
        if leader is None or leader < 0:
            raise kafka.LeaderNotAvailableError(topic)
        leaders[leader].append(partition)
    return leaders


async def cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks of our own and wait until they have ended."""
    ending = set(tasks)
    for task in ending:
        task.cancel()
    if ending:
        await asyncio.wait(ending)


async def within(seconds: float, doing: Coroutine[Any, Any, object]) -> bool:
    """Whether `doing` ends by itself in that time; what it raises from Kafka does not matter. In a task of its own,
    since aiokafka lets the cancellation of its own tasks escape from its `stop` methods, as if the caller were meant.
    """
    task = asyncio.create_task(doing, name="kafka-stop")
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not done:
        task.cancel()
        await asyncio.wait({task}, timeout=seconds)
        return False
    if task.cancelled():
        return False
    error = task.exception()
    if error is not None and not isinstance(error, kafka.KafkaError):
        raise error
    return True
