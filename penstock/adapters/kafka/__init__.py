"""The production event log over Kafka. Needs the extra `penstock[kafka]`."""

from penstock.adapters.kafka.event_log import Health, KafkaEventLog
from penstock.adapters.kafka.partitioner import partition_of
from penstock.adapters.kafka.settings import COMPACTED, KafkaSettings

__all__ = ["COMPACTED", "Health", "KafkaEventLog", "KafkaSettings", "partition_of"]
