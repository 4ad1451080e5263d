"""Settings: what cannot work is refused in one sentence, and no secret is shown."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from penstock.adapters.kafka import KafkaSettings
from penstock.errors import InvalidInput


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"servers": " "}, "kafka.servers"),
        ({"partitions": 0}, "kafka.partitions"),
        ({"replication": 0}, "kafka.replication"),
        ({"batch_bytes": 0}, "kafka.batch_bytes"),
        ({"username": "someone"}, "kafka.username"),
        ({"password": "hush"}, "kafka.username"),
        ({"ca_file": Path("ca.pem")}, "kafka.ca_file"),
    ],
)
def test_what_cannot_work_is_refused(given: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        KafkaSettings(**{"servers": "broker:9092", **given})
    assert refused.value.where == where


def test_a_password_is_never_shown() -> None:
    assert "hush" not in repr(KafkaSettings(servers="broker:9092", username="someone", password="hush"))


@pytest.mark.parametrize(
    ("tls", "user", "protocol"),
    [
        (False, None, "PLAINTEXT"),
        (True, None, "SSL"),
        (False, "someone", "SASL_PLAINTEXT"),
        (True, "someone", "SASL_SSL"),
    ],
)
def test_the_protocol_follows_from_what_is_given(tls: bool, user: str | None, protocol: str) -> None:
    settings = KafkaSettings(
        servers="one:1, two:2", tls=tls, username=user, password=user and "hush", mechanism="SCRAM-SHA-512"
    )
    options = settings.client_options()
    assert options["security_protocol"] == protocol
    assert options["bootstrap_servers"] == ["one:1", "two:2"]
    assert isinstance(options.get("ssl_context"), ssl.SSLContext) is tls
    assert (options.get("sasl_mechanism") == "SCRAM-SHA-512") is (user is not None)


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_of_authorities_that_holds_none_is_named(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InvalidInput, match=r"ca\.pem holds no certificates"):
        KafkaSettings(servers="broker:9092", tls=True, ca_file=file).client_options()


def test_states_are_compacted_for_ever_and_events_age_out() -> None:
    settings = KafkaSettings(servers="broker:9092", retention_ms=1000, topic_config={"segment.ms": "5"})
    records, events = settings.config_of("penstock.records"), settings.config_of("penstock.events")
    assert (records["cleanup.policy"], records["retention.ms"]) == ("compact,delete", "-1")
    assert (events["cleanup.policy"], events["retention.ms"]) == ("delete", "1000")
    assert records["segment.ms"] == events["segment.ms"] == "5"


@pytest.mark.parametrize(
    ("replication", "sync", "flushed", "in_sync"),
    [(1, None, True, "1"), (3, None, False, "2"), (3, True, True, "2"), (1, False, False, "1")],
)
def test_a_single_copy_is_synced_to_disk(replication: int, sync: bool | None, flushed: bool, in_sync: str) -> None:
    config = KafkaSettings(servers="broker:9092", replication=replication, sync=sync).config_of("penstock.events")
    assert (config.get("flush.messages") == "1") is flushed
    assert config["min.insync.replicas"] == in_sync
