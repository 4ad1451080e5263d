"""Our histograms say what Prometheus' own would say of the same times."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from dispatcher.timers import BOUNDS_S, HOPS, TimerCollector, Timers

NAME = "penstock_dispatcher_run_seconds"


@given(st.lists(st.sampled_from(BOUNDS_S) | st.floats(0, 1e6), max_size=30))
def test_every_time_is_in_the_bucket_that_prometheus_puts_it_in(times: list[float]) -> None:
    timers = Timers()
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    ours.register(TimerCollector({"f": timers}))
    histogram = Histogram(NAME, HOPS["run"], ["function"], buckets=BOUNDS_S, registry=theirs).labels("f")
    for seconds in times:
        timers.run.observe(seconds)
        histogram.observe(seconds)
    assert _lines(ours) == _lines(theirs)
    assert ours.get_sample_value(f"{NAME}_count", {"function": "f"}) == len(times)


def _lines(registry: CollectorRegistry) -> list[str]:
    text = generate_latest(registry).decode()
    return [line for line in text.splitlines() if line.startswith((f"{NAME}_bucket", f"{NAME}_sum", f"{NAME}_count"))]


def test_every_hop_is_told_before_anything_was_seen() -> None:
    registry = CollectorRegistry()
    registry.register(TimerCollector({}))
    families = {family.name for family in registry.collect()}
    assert families == {f"penstock_dispatcher_{hop}_seconds" for hop in HOPS}
