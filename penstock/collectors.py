"""Metrics that every service has, read when somebody scrapes: what it is, whether it can work, how the cluster answers.

They are collectors and not gauges that somebody must remember to set: a value that is read at the moment of the scrape
cannot be stale, and costs nothing in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

Family = CounterMetricFamily | GaugeMetricFamily

READY_HELP = "1 when every part is up."
BUILD_HELP = "Always 1; service and version are the labels."


class ServiceCollector(Collector):
    """`penstock_ready` and `penstock_build_info` of a service. `waiting_for` gives the reasons why it is not ready."""

    def __init__(self, service: str, version: str, waiting_for: Callable[[], Sequence[str]]) -> None:
        self._labels = (service, version)
        self._waiting_for = waiting_for

    def collect(self) -> Iterator[Family]:
        yield GaugeMetricFamily("penstock_ready", READY_HELP, value=0.0 if self._waiting_for() else 1.0)
        build = GaugeMetricFamily("penstock_build_info", BUILD_HELP, labels=("service", "version"))
        build.add_metric(self._labels, 1.0)
        yield build


class ApiUse(Protocol):
    """What a client of the API server counts; `penstock.adapters.kubernetes.KubernetesClient.use` is one."""

    @property
    def answered(self) -> int: ...

    @property
    def pushed_back(self) -> int: ...

    @property
    def unanswered(self) -> int: ...

    @property
    def retried(self) -> int: ...

    @property
    def held_s(self) -> float: ...


class KubernetesCollector(Collector):
    """How the API server answers one client. `allowed` gives how many requests it may have under way now."""

    def __init__(self, use: ApiUse, allowed: Callable[[], int]) -> None:
        self._use = use
        self._allowed = allowed

    def collect(self) -> Iterator[Family]:
        use = self._use
        requests = CounterMetricFamily(
            "penstock_kubernetes_requests", "Requests to the API server, by outcome.", labels=("outcome",)
        )
        for outcome in ("answered", "pushed_back", "unanswered"):
            requests.add_metric((outcome,), getattr(use, outcome))
        yield requests
        yield CounterMetricFamily(
            "penstock_kubernetes_retries", "Requests to the API server that were sent again.", value=use.retried
        )
        yield CounterMetricFamily(
            "penstock_kubernetes_held_seconds",
            "Seconds that requests waited because the API server pushed back or did not answer, in the queue behind it "
            "too, summed.",
            value=use.held_s,
        )
        yield GaugeMetricFamily(
            "penstock_kubernetes_requests_allowed",
            "Requests that may be under way at once: halved at each push-back, growing while all is well.",
            value=self._allowed(),
        )
