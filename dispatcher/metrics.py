"""What the dispatcher counts and measures for Prometheus. Created on a registry that is passed in: no global state."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300, 1800, 3600)


class DispatcherMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.events = Counter("penstock_dispatcher_events", "Triggers read from the event log", registry=registry)
        self.duplicates = Counter(
            "penstock_dispatcher_duplicates", "Triggers whose invocation was already known", registry=registry
        )
        self.dead_letters = Counter(
            "penstock_dispatcher_dead_letters", "Entries that could not be turned into work", registry=registry
        )
        self.phases = Counter("penstock_dispatcher_records", "Records written, by phase", ["phase"], registry=registry)
        self.jobs = Counter("penstock_dispatcher_jobs", "Jobs submitted", ["function"], registry=registry)
        self.queued = Gauge(
            "penstock_dispatcher_queued_items", "Items waiting, by function", ["function"], registry=registry
        )
        self.running = Gauge(
            "penstock_dispatcher_running_jobs", "Jobs that hold a slot, by function", ["function"], registry=registry
        )
        self.pending = Gauge(
            "penstock_dispatcher_pending_jobs", "Jobs submitted that do not run yet", registry=registry
        )
        self.active = Gauge(
            "penstock_dispatcher_active", "1 in the process that acts, 0 in a standby", registry=registry
        )
        self.epoch = Gauge("penstock_dispatcher_epoch", "Which turn of acting this is", registry=registry)
        self.waited = Histogram(
            "penstock_dispatcher_wait_seconds",
            "From queued to the script's start",
            ["function"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.ran = Histogram(
            "penstock_dispatcher_run_seconds",
            "From the script's start to its end",
            ["function"],
            buckets=_SECONDS,
            registry=registry,
        )
        # Looking a label up costs as much as a dozen increments, and these are on the path of every item.
        self._recorded: dict[str, Counter] = {}
        self._timed: dict[str, tuple[Histogram, Histogram]] = {}

    def record(self, phase: str) -> None:
        """One record of this phase was written."""
        counter = self._recorded.get(phase)
        if counter is None:
            counter = self._recorded[phase] = self.phases.labels(phase)
        counter.inc()

    def observe(self, function: str, *, waited_s: float, ran_s: float) -> None:
        """One item of this function ended."""
        timed = self._timed.get(function)
        if timed is None:
            timed = self._timed[function] = (self.waited.labels(function), self.ran.labels(function))
        timed[0].observe(waited_s)
        timed[1].observe(ran_s)
