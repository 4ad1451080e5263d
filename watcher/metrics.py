"""What the watcher measures, made on a registry that the caller passes in (tests and embedded mode have their own)."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class WatcherMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.published = Counter(
            "penstock_watcher_events",
            "Events appended to the log, by how they came to be known.",
            ["origin"],
            registry=registry,
        )
        self.repeated = Counter(
            "penstock_watcher_repeats", "Sightings of versions that were already published.", registry=registry
        )
        self.found = Counter(
            "penstock_watcher_reconciler_found",
            "Objects that a listing found and no event had told of.",
            registry=registry,
        )
        self.listed = Counter(
            "penstock_watcher_listed", "Objects returned by the reconciler's listings.", registry=registry
        )
        self.failed_listings = Counter(
            "penstock_watcher_failed_listings", "Listings that ended with an error.", registry=registry
        )
        self.gaps = Counter(
            "penstock_watcher_gaps", "Times a source reported that it may have lost events.", registry=registry
        )
        self.quarantined = Counter(
            "penstock_watcher_quarantined",
            "Records that could not become events and were put aside.",
            registry=registry,
        )
        self.worst_case = Gauge(
            "penstock_watcher_worst_case_detection_seconds",
            "After how many seconds at most an object is found whose event was lost.",
            registry=registry,
        )
