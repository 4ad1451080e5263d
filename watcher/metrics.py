"""What the watcher measures, made on a registry that the caller passes in (tests and embedded mode have their own)."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300, 1800, 3600, 86400)


class WatcherMetrics:
    """The second half has values only where an object store sends events: no directory has webhooks or rules."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._noticed: dict[str, Histogram] = {}
        self._watching()
        self._notifying()

    def _counter(self, name: str, help_: str, *labels: str) -> Counter:
        return Counter(f"penstock_watcher_{name}", help_, labels, registry=self._registry)

    def _gauge(self, name: str, help_: str, *labels: str) -> Gauge:
        return Gauge(f"penstock_watcher_{name}", help_, labels, registry=self._registry)

    def _watching(self) -> None:
        self.published = self._counter("events", "Events appended to the log, by how they came to be known.", "origin")
        self.repeated = self._counter("repeats", "Sightings of versions that were already published.")
        self.found = self._counter("reconciler_found", "Objects that a listing found and no event had told of.")
        self.missed = self._counter(
            "missed",
            "Objects found by listing whose event should have come long before: events are being lost.",
        )
        self.listed = self._counter("listed", "Objects returned by the reconciler's listings.")
        self.failed_listings = self._counter("failed_listings", "Listings that ended with an error.")
        self.gaps = self._counter("gaps", "Times a source reported that it may have lost events.")
        self.quarantined = self._counter("quarantined", "Records that could not become events and were put aside.")
        self.noticed = Histogram(
            "penstock_watcher_notice_seconds",
            "From an object's appearance, by the store's clock, to its event in the log, by how it came to be known.",
            ["origin"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.worst_case = self._gauge(
            "worst_case_detection_seconds",
            "After how many seconds at most an object is found whose event was lost.",
        )

    def notice(self, origin: str, seconds: float) -> None:
        """One event is in the log, so long after its object appeared."""
        timer = self._noticed.get(origin)
        if timer is None:  # looking a label up costs more than the observation, and this is on the path of every event
            timer = self._noticed[origin] = self.noticed.labels(origin)
        timer.observe(max(0.0, seconds))

    def _notifying(self) -> None:
        self.requests = self._counter("webhook_requests", "Webhook requests answered, by status.", "status")
        self.ignored = self._counter(
            "ignored", "Records that are understood and no news: deletions, tagging, folder markers."
        )
        self.listening = self._gauge("listening", "1 while the object store is listened to over HTTP.")
        self.listen_breaks = self._counter("listen_breaks", "Times that listening over HTTP broke off.")
        self.rules_written = self._counter("rules_written", "Times that a bucket's notification rules were written.")
        self.rules_repaired = self._counter(
            "rules_repaired", "Times that rules of ours had been changed or removed by somebody, and were set again."
        )
        self.rules_failing = self._gauge("rules_failing", "Buckets whose notification rules cannot be kept now.")
        self.targets_missing = self._gauge(
            "targets_missing", "1 for a notification target that the object store does not have.", "arn"
        )
        self.canary_sent = self._counter("canary_sent", "Canary objects written.")
        self.canary_failed = self._counter("canary_failed", "Canary objects that could not be written.")
        self.canary_lost = self._counter(
            "canary_lost", "Canary objects whose event did not come in time, by the way it should have come.", "way"
        )
        self.canary_seconds = self._gauge(
            "canary_seconds", "Seconds from writing the last canary object to its event, by way.", "way"
        )
        self.canary_silence = self._gauge(
            "canary_silence_seconds", "Seconds since the event of a canary object last came, by way.", "way"
        )
        self.store_lost = self._gauge(
            "store_lost_events",
            "Events that the object store says it dropped or failed to send, since its start, by its counter.",
            "counter",
        )
        self.store_queued = self._gauge(
            "store_queued_events", "Events that wait in the object store's own queue, all targets together."
        )
