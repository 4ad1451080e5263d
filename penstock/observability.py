"""Logs and metrics, set up once per process.

Logs: structlog writes one event per line, as text for a terminal and as JSON for a machine, to standard error; what
libraries write through `logging` takes the same road. A processor replaces the values of keys that look like secrets,
because one careless `log.info("...", token=token)` would otherwise stay in a log for years.

Metrics: one registry per process, handed around and never global, so that two platforms in one process (tests) do not
share counters. The names are documented in `docs/reference/metrics.md`; a test compares.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Any, Protocol, TextIO

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from penstock.collectors import BUILD_HELP, READY_HELP

REDACTED = "[redacted]"

_SECRET = re.compile(r"secret|passw|token|credential|authorization|api[-_]?key|private[-_]?key|cookie", re.IGNORECASE)
#: Deep enough for any event we write, bounded so that a self-containing value ends.
_DEPTH = 6


class LogChoice(Protocol):
    """What `configure_logging` needs to know; `penstock.settings.LogSettings` is one."""

    @property
    def format(self) -> str: ...

    @property
    def level(self) -> str: ...


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Processor for structlog: replace the values of keys that look like secrets, at any depth."""
    for key, value in event.items():
        if key != "event":
            event[key] = _redacted(key, value, _DEPTH)
    return event


def _redacted(key: str, value: Any, depth: int) -> Any:
    if _SECRET.search(key) and value is not None and not isinstance(value, bool):
        return REDACTED
    if depth == 0:
        return value
    if isinstance(value, Mapping):
        return {name: _redacted(str(name), inner, depth - 1) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted("", inner, depth - 1) for inner in value]
    return value


def configure_logging(choice: LogChoice, stream: TextIO | None = None) -> None:
    """Send structlog and `logging` to one stream (standard error). May be called again; the last call counts."""
    stream = stream or sys.stderr
    console = choice.format == "console" or (choice.format == "auto" and stream.isatty())
    level = getattr(logging, choice.level.upper())
    before: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=not console),
        redact,
    ]
    structlog.configure(
        processors=[
            *before,
            structlog.processors.StackInfoRenderer(),
            *([] if console else [structlog.processors.format_exc_info]),
            _renderer(stream, console=console),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *([] if console else [structlog.processors.format_exc_info]),
                _renderer(stream, console=console),
            ],
        )
    )
    logging.root.handlers = [handler]
    # Libraries talk too much at info; their warnings are wanted whatever our own level is.
    logging.root.setLevel(max(level, logging.WARNING))


def _renderer(stream: TextIO, *, console: bool) -> structlog.typing.Processor:
    if console:
        return structlog.dev.ConsoleRenderer(colors=stream.isatty())
    return structlog.processors.JSONRenderer(default=repr)


class Metrics:
    """Every metric of the process. Counters are raised where things happen, gauges are set when someone looks."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.http_requests = self._counter(
            "penstock_http_requests", "HTTP requests answered, by route and status.", "method", "route", "status"
        )
        self.http_seconds = Histogram(
            "penstock_http_request_seconds",
            "Time to answer an HTTP request, streams and synchronous runs included.",
            ["route"],
            registry=self.registry,
            buckets=(0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10, 60, 300),
        )
        self.http_refused = self._counter(
            "penstock_http_connections_refused", "Connections closed before a request, by reason.", "reason"
        )
        self.uploaded_bytes = self._counter("penstock_http_uploaded_bytes", "Bytes of objects received over HTTP.")
        self.change_gaps = self._counter(
            "penstock_changes_gaps", "Times a listening client was too slow and has to list again."
        )
        self.housekeeping = self._counter(
            "penstock_housekeeping_deleted", "Things deleted because their time was over, by kind.", "kind"
        )
        self.invocations = self._gauge(
            "penstock_invocations", "Invocations remembered, by function and phase.", "function", "phase"
        )
        self.events_pending = self._gauge("penstock_events_pending", "Accepted events that are not yet queued.")
        self.cpu_total = self._gauge("penstock_cpu_millis", "Thousandths of processors that may be in use.")
        self.cpu_used = self._gauge("penstock_cpu_millis_used", "Thousandths of processors that are in use.")
        self.ready = self._gauge("penstock_ready", READY_HELP)
        self.build = self._gauge("penstock_build_info", BUILD_HELP, "service", "version")
        with suppress(ValueError):  # no /proc on this system: the process metrics are simply absent there
            ProcessCollector(registry=self.registry)

    def _counter(self, name: str, help_: str, *labels: str) -> Counter:
        return Counter(name, help_, labels, registry=self.registry)

    def _gauge(self, name: str, help_: str, *labels: str) -> Gauge:
        return Gauge(name, help_, labels, registry=self.registry)

    def text(self) -> bytes:
        """What `/metrics` answers."""
        return generate_latest(self.registry)
