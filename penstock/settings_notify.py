"""The settings of how an object store tells the watcher of new objects.

Kept apart from `settings` only because of its length; the rules are the same. One target is configured in the object
store for the whole platform, at installation; from then on only the buckets' rules change.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from penstock.settings_production import ProductionGroup


class NotifyGroup(ProductionGroup):
    """How the object store tells of new objects, and what is done in case it does not."""

    webhook: bool = True
    """Receive events by HTTP, from the store's webhook target. The safest way with a `queue_dir` on a disk that stays:
    what cannot be delivered waits there."""
    listen: str = "127.0.0.1:9091"
    """Host and port of the webhook, apart from `service.listen` because others reach it. Loopback unless said
    otherwise: then a token is required."""
    path: str = "/events"
    """Path of the webhook's URL, as the store's target names it."""
    token: SecretStr = SecretStr("")
    """What the store sends as its token. Prefer `token_file`."""
    token_file: Path | None = None
    """File with the token, read again when it changes; wins over `token`."""
    arn: str = "arn:minio:sqs::PENSTOCK:webhook"
    """Name of the store's webhook target, for the buckets' rules."""
    quick_arn: str = ""
    """Name of a second webhook target whose URL is that of the first with `/quick` behind it, and which has no
    `queue_dir`: its events arrive within milliseconds, where a queue takes up to 3 s. Empty = there is none."""
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    """Bytes of one webhook body. 4 MiB: a thousand times a usual one. Of a larger one the beginning is put aside, since
    a refusal would stop everything behind it."""
    max_waiting: int = Field(default=1000, ge=1)
    """Requests that may wait for the log at once; further ones get 503, and the store keeps their events."""
    answer_s: float = Field(default=5.0, gt=0)
    """Seconds that a request waits for the log before it gets 503. Far above the milliseconds that it takes, and short
    enough that uploads which wait for it (`MINIO_API_SYNC_EVENTS`) are not held up for long."""
    kafka: bool = False
    """Read the topic that the store's Kafka target writes. Off: the webhook alone needs no second target."""
    kafka_arn: str = "arn:minio:sqs::PENSTOCK:kafka"
    """Name of the store's Kafka target, for the buckets' rules."""
    raw_topic: str = "penstock.raw"
    """The topic of that target, exactly as the store names it (`kafka.prefix` is not put before it)."""
    raw_partitions: int = Field(default=1, ge=1)
    """Partitions of that topic if it has to be made. One suffices: it is only copied from."""
    hint: bool = True
    """Also listen to the store over HTTP, where it can be listened to (MinIO, but no version of 2026: it holds the
    events back). What is lost on this way comes by the others."""
    rules: bool = True
    """Keep the buckets' notification rules: set, verified and repaired. Off where an administrator sets them."""
    rule_prefix: str = Field(default="penstock", pattern=r"^[A-Za-z0-9._-]{1,40}$")
    """The ids of our rules begin with this. Installations that share a store need different ones."""
    rules_check_s: float = Field(default=60.0, gt=0)
    """Seconds between two looks whether the rules are still there. One small request per bucket."""
    rules_renew_s: float = Field(default=3600.0, gt=0)
    """Seconds after which rules are written again although they are there: a store that failed to load them when it
    started shows them and does not follow them."""
    canary_s: float = Field(default=60.0, ge=0)
    """Seconds between two canary objects, which prove that events arrive. 0 = none."""
    canary_patience_s: float = Field(default=20.0, gt=0)
    """Seconds after which the event of a canary counts as lost. A `queue_dir` alone takes up to 3."""
    list_keys_per_minute: int = Field(default=60_000, ge=0)
    """Keys that routine listings may read per minute, over all buckets; 0 = no limit. 60,000 are a request a second. A
    listing after a sign of loss is not held back."""
    store_metrics: str = "/minio/v2/metrics/cluster"
    """Path of the store's metrics, whose counters of lost events are watched. Empty = they are not."""
    drain_s: float = Field(default=10.0, ge=0)
    """Seconds that requests under way get at a stop."""
