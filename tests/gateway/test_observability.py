"""Logs that keep secrets, and metrics that are all documented."""

from __future__ import annotations

import io
import json
import logging
import re
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.metrics import DispatcherMetrics
from penstock.adapters.kubernetes.client import Use
from penstock.collectors import KubernetesCollector
from penstock.observability import REDACTED, Metrics, configure_logging, redact
from penstock.settings import LogSettings
from scaler.interface.hooks import HookOptions, ProgramHooks
from scaler.interface.ledger import Books
from scaler.interface.metrics import InterfaceCollector
from scaler.metrics import ScalerMetrics
from watcher.metrics import WatcherMetrics

pytestmark = pytest.mark.usefixtures("restored_logging")

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


def lines_of(choice: LogSettings) -> tuple[io.StringIO, structlog.typing.FilteringBoundLogger]:
    stream = io.StringIO()
    configure_logging(choice, stream)
    return stream, structlog.get_logger("test")


def test_json_lines_when_not_on_a_terminal() -> None:
    stream, log = lines_of(LogSettings())
    log.info("function deployed", function="digits")
    line = json.loads(stream.getvalue())
    assert (line["event"], line["function"], line["level"]) == ("function deployed", "digits", "info")
    assert line["timestamp"].endswith("Z")


def test_text_when_asked_for() -> None:
    stream, log = lines_of(LogSettings(format="console"))
    log.info("function deployed", function="digits")
    assert "function deployed" in stream.getvalue()
    assert "function=digits" in stream.getvalue()


def test_values_of_keys_that_look_like_secrets_are_redacted_at_any_depth() -> None:
    stream, log = lines_of(LogSettings())
    log.info(
        "request",
        token="t0p",
        headers={"Authorization": "Bearer t0p", "Accept": "json"},
        functions=[{"secrets": {"A": "t0p"}, "name": "f"}],
        db_password=b"t0p",
    )
    text = stream.getvalue()
    assert "t0p" not in text
    line = json.loads(text)
    assert line["headers"] == {"Authorization": REDACTED, "Accept": "json"}
    assert line["functions"][0]["name"] == "f"


@given(
    st.dictionaries(
        st.sampled_from(["token", "API_KEY", "mySecret", "passwd", "Cookie", "credentials"]),
        st.text(min_size=1) | st.lists(st.text()) | st.dictionaries(st.text(), st.text()) | st.integers() | st.binary(),
    )
)
def test_no_value_of_a_secret_key_survives(event: dict[str, object]) -> None:
    assert set(redact(None, "info", dict(event)).values()) <= {REDACTED}


def test_what_libraries_log_takes_the_same_road() -> None:
    stream, _ = lines_of(LogSettings())
    logging.getLogger("aiohttp").warning("connection %d lost", 3)
    logging.getLogger("aiohttp").info("not wanted")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["connection 3 lost"]


def test_the_level_is_obeyed() -> None:
    stream, log = lines_of(LogSettings(level="warning"))
    log.info("no")
    log.warning("yes")
    assert len(stream.getvalue().splitlines()) == 1


def test_two_registries_in_one_process_share_nothing() -> None:
    one, other = Metrics(), Metrics()
    one.change_gaps.inc()
    assert b"penstock_changes_gaps_total 1.0" in one.text()
    assert b"penstock_changes_gaps_total 0.0" in other.text()


def names() -> list[str]:
    metrics = Metrics()
    DispatcherMetrics(metrics.registry)
    WatcherMetrics(metrics.registry)
    metrics.registry.register(KubernetesCollector(Use(), lambda: 1))
    interface = InterfaceCollector(Books(), ProgramHooks(HookOptions()))
    families = (*metrics.registry.collect(), *ScalerMetrics().registry.collect(), *interface.collect())
    return sorted({family.name for family in families})


def test_our_metrics_start_with_penstock() -> None:
    # process_* is Prometheus's own convention, which every dashboard knows.
    assert all(name.startswith(("penstock_", "process_")) for name in names())


def documented() -> list[str]:
    text = REFERENCE.read_text(encoding="utf-8")
    return re.findall(r"^\| `(penstock_[a-z0-9_]+?)(?:_total)?`", text, re.MULTILINE)


@pytest.mark.parametrize("name", [name for name in names() if name.startswith("penstock_")])
def test_every_metric_is_in_the_reference(name: str) -> None:
    assert name in documented()


def test_the_reference_names_no_metric_that_is_gone() -> None:
    assert sorted(documented()) == sorted(name for name in names() if name.startswith("penstock_"))
