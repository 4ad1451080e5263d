"""What the dispatcher counts and measures for Prometheus. Created on a registry that is passed in: no global state.

Time is measured hop by hop, so that a slow installation says where: event -> queued (`intake`), queued -> Job created
(`submit`), Job created -> script started (`start`), script (`run`), script ended -> published (`publish`); `wait` is
queued -> started. The hop before them, upload -> event, is the watcher's. Labels are functions, phases and classes of
reasons, never invocations or Jobs, and what is told of a function goes when the function goes.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Collection, Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.metrics import MetricWrapperBase

from dispatcher.timers import TimerCollector, Timers
from penstock.model import ErrorClass

#: What a Job in trouble waits for, by the word that the runner has from Kubernetes. Everything else is "other".
_STUCK = {
    "Unschedulable": "unschedulable",
    "SchedulerError": "unschedulable",
    "SchedulingGated": "unschedulable",
    "ErrImagePull": "image",
    "ImagePullBackOff": "image",
    "ErrImageNeverPull": "image",
    "InvalidImageName": "image",
    "CreateContainerConfigError": "container",
    "CreateContainerError": "container",
    "RunContainerError": "container",
    "CrashLoopBackOff": "container",
    "NoPod": "no_pod",
    "NodeNotReady": "node",
}
STUCK_CLASSES = (*sorted(set(_STUCK.values())), "other")


def stuck_class(reason: str) -> str:
    """One of STUCK_CLASSES for a runner's word on why a Job does not go on. Pure."""
    return _STUCK.get(reason, "other")


class DispatcherMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.events = Counter("penstock_dispatcher_events", "Triggers read from the event log", registry=registry)
        self.duplicates = Counter(
            "penstock_dispatcher_duplicates", "Triggers whose invocation was already known", registry=registry
        )
        self.dead_letters = Counter(
            "penstock_dispatcher_dead_letters", "Entries that could not be turned into work", registry=registry
        )
        self.phases = Counter("penstock_dispatcher_records", "Records written, by phase", ["phase"], registry=registry)
        self.jobs = Counter("penstock_dispatcher_jobs", "Jobs submitted", ["function"], registry=registry)
        self.attempts = Counter(
            "penstock_dispatcher_attempts",
            "Attempts of items that ended, by function and outcome",
            ["function", "outcome"],
            registry=registry,
        )
        self.traces_exported = Counter(
            "penstock_telemetry_exported", "Ended invocations whose spans a collector took", registry=registry
        )
        self.traces_dropped = Counter(
            "penstock_telemetry_dropped", "Ended invocations whose spans were given up", registry=registry
        )
        self._gauges()
        # Looking a label up costs as much as a dozen increments, and these are on the path of every item.
        self._recorded: dict[str, Counter] = {}
        self._ended: dict[str, dict[str, Counter]] = {}
        self._submitted: dict[str, Counter] = {}
        self._timed: dict[str, Timers] = {}
        registry.register(TimerCollector(self._timed))

    def _gauges(self) -> None:
        registry = self._registry
        self.queued = Gauge(
            "penstock_dispatcher_queued_items", "Items waiting, by function", ["function"], registry=registry
        )
        self.oldest = Gauge(
            "penstock_dispatcher_oldest_queued_seconds",
            "For how long the item has been queued that waits longest, by function; 0 = none waits",
            ["function"],
            registry=registry,
        )
        self.running = Gauge(
            "penstock_dispatcher_running_jobs", "Jobs that hold a slot, by function", ["function"], registry=registry
        )
        self.pending = Gauge(
            "penstock_dispatcher_pending_jobs", "Jobs submitted that do not run yet", registry=registry
        )
        self.stuck = Gauge(
            "penstock_dispatcher_stuck_jobs", "Jobs that something keeps from going on, by reason", ["reason"],
            registry=registry,
        )  # fmt: skip
        self.active = Gauge(
            "penstock_dispatcher_active", "1 in the process that acts, 0 in a standby", registry=registry
        )
        self.epoch = Gauge("penstock_dispatcher_epoch", "Which turn of acting this is", registry=registry)

    # ---- counted where things happen

    def record(self, phase: str) -> None:
        """One record of this phase was written."""
        counter = self._recorded.get(phase)
        if counter is None:
            counter = self._recorded[phase] = self.phases.labels(phase)
        counter.inc()

    def taken_in(self, function: str, seconds: float) -> None:
        """One invocation of this function is durably queued, so long after its event was."""
        self._of(function).intake.observe(seconds)

    def submitted(self, function: str, waited_s: Iterable[float]) -> None:
        """One Job of this function was created, so long after its items had become due."""
        counter = self._submitted.get(function)
        if counter is None:
            counter = self._submitted[function] = self.jobs.labels(function)
            # From nothing on, or a rate would miss whatever is counted before it is looked at for the first time.
            self._outcome(function, "succeeded")
            self._outcome(function, ErrorClass.SCRIPT.value)
        counter.inc()
        submit = self._of(function).submit
        for seconds in waited_s:
            submit.observe(seconds)

    def ended(
        self,
        function: str,
        outcome: str,
        *,
        waited_s: float | None = None,
        ran_s: float = 0.0,
        start_s: float | None = None,
        publish_s: float | None = None,
    ) -> None:
        """One attempt of an item ended. `outcome` = "succeeded" or its error class. `waited_s` None = its script was
        never started; `start_s` only for a Job's first item; `publish_s` only where something was published.
        """
        self._outcome(function, outcome).inc()
        if waited_s is None:
            return
        timed = self._of(function)
        timed.wait.observe(waited_s)
        timed.run.observe(ran_s)
        if start_s is not None:
            timed.start.observe(start_s)
        if publish_s is not None:
            timed.publish.observe(publish_s)

    def _outcome(self, function: str, outcome: str) -> Counter:
        of_function = self._ended.setdefault(function, {})
        counter = of_function.get(outcome)
        if counter is None:
            counter = of_function[outcome] = self.attempts.labels(function, outcome)
        return counter

    def _of(self, function: str) -> Timers:
        timed = self._timed.get(function)
        if timed is None:
            timed = self._timed[function] = Timers()
        return timed

    # ---- set when looked at

    def depth(self, function: str, queued: int, oldest_s: float) -> None:
        """What one function has waiting, and for how long the oldest of it has been."""
        self.queued.labels(function).set(queued)
        self.oldest.labels(function).set(max(0.0, oldest_s))

    def stuck_jobs(self, reasons: Iterable[str]) -> None:
        """The runner's word for each Job that does not go on."""
        counts = Tally(stuck_class(reason) for reason in reasons)
        for name in STUCK_CLASSES:
            self.stuck.labels(name).set(counts[name])

    def stand_by(self) -> None:
        """Another process acts: what is waiting and running is for it to tell."""
        self.active.set(0)
        self.pending.set(0)
        self.stuck_jobs(())
        self.retain(())

    def retain(self, functions: Collection[str]) -> None:
        """Forget the series of functions that are not among these: a Prometheus would keep them for as long as they
        are told.
        """
        for metric in (self.jobs, self.queued, self.oldest, self.running):
            for function in _functions(metric).difference(functions):
                metric.remove(function)
        for function in self._ended.keys() - functions:
            for outcome in self._ended[function]:
                self.attempts.remove(function, outcome)
        told: tuple[dict[str, Any], ...] = (self._timed, self._submitted, self._ended)
        for known in told:
            for function in set(known).difference(functions):
                del known[function]


def _functions(metric: MetricWrapperBase) -> set[str]:
    """The functions that a metric has series for."""
    return {sample.labels["function"] for family in metric.collect() for sample in family.samples}
