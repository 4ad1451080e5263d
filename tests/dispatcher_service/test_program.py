"""The program's own judgement of its settings, without any server; what it shares with others is in tests/services."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.services.programs import run, usable


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        (
            {"PENSTOCK_KAFKA_SERVERS": ""},
            "kafka.servers: names no broker: services that are processes of their own meet",
        ),
        ({"PENSTOCK_S3_ENDPOINT": "minio"}, "s3.endpoint: 'minio' is not the URL of an object store"),
    ],
)
def test_settings_that_cannot_work_are_one_sentence(tmp_path: Path, variables: dict[str, str], says: str) -> None:
    told = run("dispatcher", "--check", **usable(tmp_path) | variables)
    assert told.returncode == 2
    assert told.stderr.startswith(f"error: {says}")
    assert len(told.stderr.splitlines()) == 1
