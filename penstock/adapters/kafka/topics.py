"""One look at a topic that somebody else made, before a log is opened over it: the port wants the number of partitions,
which for our own topics is a setting and for this one a fact.
"""

from __future__ import annotations

from penstock.adapters.kafka.cluster import Cluster
from penstock.adapters.kafka.settings import KafkaSettings


async def partitions_of(settings: KafkaSettings, topic: str) -> int:
    """How many partitions the topic has; 0 = there is no such topic. Raises Unavailable, Forbidden."""
    cluster = Cluster(settings, settings.client_options())
    try:
        return await cluster.partitions(settings.name(topic))
    finally:
        await cluster.close()
