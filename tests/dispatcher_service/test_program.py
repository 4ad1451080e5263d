"""The program's own arguments, without any server."""

from __future__ import annotations

import subprocess
import sys


def dispatcher(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dispatcher", *words]
    return subprocess.run(command, env={"PATH": "/usr/bin:/bin", **env}, capture_output=True, text=True, check=False)


def test_help_has_examples_and_exit_codes() -> None:
    told = dispatcher("--help")
    assert told.returncode == 0
    assert "examples:" in told.stdout
    assert "exit codes:" in told.stdout


def test_settings_that_cannot_work_are_one_sentence() -> None:
    told = dispatcher("--check")
    assert told.returncode == 2
    assert told.stderr == "error: kafka.servers: names no broker: give HOST:PORT, several with commas between\n"


def test_settings_that_can_work() -> None:
    told = dispatcher(
        "--check",
        PENSTOCK_KAFKA_SERVERS="kafka:9092",
        PENSTOCK_S3_ENDPOINT="http://minio:9000",
        PENSTOCK_S3_ACCESS_KEY="key",
        PENSTOCK_S3_SECRET_KEY="secret",
    )
    assert (told.returncode, told.stdout) == (0, "the settings can be used\n"), told.stderr


def test_an_unknown_word_is_refused() -> None:
    assert dispatcher("settings.toml").returncode == 2
