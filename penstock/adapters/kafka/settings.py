"""Everything about a Kafka cluster that somebody decides, each with its unit and the reason for its default."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from penstock.errors import InvalidInput

Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

#: Topics that hold a state per key; all others hold events, which age out.
COMPACTED = frozenset({"penstock.records", "penstock.demand", "penstock.dead"})
DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, kw_only=True)
class KafkaSettings:
    """One cluster as one process uses it."""

    #: `HOST:PORT`, one or several with commas between; the rest of the cluster is learnt from the first that answers.
    servers: str
    #: Stands before the name of every topic, group and transactional id, so that installations can share a cluster.
    prefix: str = ""
    #: Partitions of each topic. Fixed at installation: another number would move keys, and with them their order.
    partitions: int = 8
    #: Copies of each partition. With three or more an entry is acknowledged once two have it, so that one may be lost.
    replication: int = 1
    #: Sync to disk before acknowledging. None = only with a single copy: several copies outlive a power cut together
    #: far more cheaply than each can alone.
    sync: bool | None = None
    #: Milliseconds that entries of topics outside `compacted` are kept at least. The ledger holds the backlog, so this
    #: only bounds how far back a reader that was away can catch up.
    retention_ms: int = 7 * DAY_MS
    #: Topics (without prefix) that keep the newest entry of each key for ever.
    compacted: frozenset[str] = COMPACTED
    #: Further settings of topics that are created, by Kafka's own names; they win over ours.
    topic_config: Mapping[str, str] = field(default_factory=dict)
    #: The single active writer's name. A successor of the same name fences this one, which then gets `Fenced`.
    transactional_id: str | None = None
    #: Milliseconds after which the broker gives up an open transaction. Readers wait behind an open one, so short; but
    #: a broker's restart must fit in.
    transaction_ms: int = 60_000
    #: Hide what a writer has not committed. Off only for readers of topics that no transaction writes to.
    read_committed: bool = True
    #: Seconds after which a call gives up with `Unavailable`. Above the few seconds of a change of leader.
    deadline_s: float = 15.0
    #: Seconds for one request and its answer, after which the connection counts as lost.
    request_s: float = 5.0
    #: Milliseconds between tries.
    backoff_ms: int = 100
    #: Bytes of one batch, and so of the largest entry with its key; `message.max.bytes` (1 MiB) is the broker's limit.
    batch_bytes: int = 1_000_000
    #: Bytes that a reader fetches ahead per partition.
    fetch_bytes: int = 1024 * 1024
    #: Seconds without a successful fetch or verified end after which `health` says no.
    stalled_s: float = 30.0
    #: Seconds after which a reader that nobody used is closed.
    idle_s: float = 60.0
    tls: bool = False
    #: Authorities to trust in place of the system's, PEM.
    ca_file: Path | None = None
    mechanism: Mechanism = "PLAIN"
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse what cannot work. Raises InvalidInput."""
        for name in ("partitions", "replication", "batch_bytes", "fetch_bytes"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"must be at least 1, not {getattr(self, name)}", where=f"kafka.{name}")
        if not self.servers.strip():
            raise InvalidInput("names no broker: give HOST:PORT, several with commas between", where="kafka.servers")
        if (self.username is None) != (self.password is None):
            raise InvalidInput("user name and password go together: give both or neither", where="kafka.username")
        if self.ca_file is not None and not self.tls:
            raise InvalidInput("a file of authorities is of use only with tls", where="kafka.ca_file")

    def name(self, topic: str) -> str:
        """A topic's, group's or transactional id's name in the cluster."""
        return self.prefix + topic

    def config_of(self, topic: str) -> dict[str, str]:
        """Kafka's settings for a topic that is created."""
        sync = self.replication == 1 if self.sync is None else self.sync
        config = {
            # The broker's clock: one clock for all writers, and times that grow, which trimming relies on.
            "message.timestamp.type": "LogAppendTime",
            "min.insync.replicas": "2" if self.replication >= 3 else "1",
            **({"flush.messages": "1"} if sync else {}),
        }
        if topic in self.compacted:
            # `delete` with no limit beside `compact`, or the broker refuses to trim on request.
            config |= {"cleanup.policy": "compact,delete", "retention.ms": "-1", "retention.bytes": "-1"}
        else:
            config |= {"cleanup.policy": "delete", "retention.ms": str(self.retention_ms)}
        return config | dict(self.topic_config)

    def client_options(self) -> dict[str, Any]:
        """What every aiokafka client gets. Reads the files named. Raises InvalidInput."""
        options: dict[str, Any] = {
            "bootstrap_servers": [server.strip() for server in self.servers.split(",") if server.strip()],
            "client_id": f"penstock-{self.transactional_id}" if self.transactional_id else "penstock",
            "request_timeout_ms": int(self.request_s * 1000),
            "retry_backoff_ms": self.backoff_ms,
            "security_protocol": ("SASL_" if self.username else "") + ("SSL" if self.tls else "PLAINTEXT"),
        }
        if not self.username and not self.tls:
            return options
        if self.tls:
            options["ssl_context"] = self._ssl_context()
        if self.username:
            options |= {
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password,
            }
        return options

    def _ssl_context(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise InvalidInput(
                f"{self.ca_file} holds no certificates in PEM that can be read: {error}", where="kafka.ca_file"
            ) from error
