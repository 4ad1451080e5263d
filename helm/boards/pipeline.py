"""Where between an upload and its Job something is late, repeated or lost."""

from __future__ import annotations

from helm.boards.queries import HOPS, NS, highest, per_second, total, within
from helm.panels import RATE, Dashboard, Panel


def dashboard() -> Dashboard:
    return Dashboard(
        uid="penstock-pipeline",
        title="Penstock / Pipeline health",
        rows={
            "Noticing objects": _noticing_objects(),
            "From event to Job": _from_event_to_job(),
            "Interface": _interface(),
        },
    )


def _noticing_objects() -> list[Panel]:
    return [
        Panel(
            title="Events written to the log",
            why="By how they came to be known. Only listing, no push: notifications do not arrive.",
            queries={per_second("penstock_watcher_events_total", "origin"): "{{origin}}"},
            unit="ops",
            stack=True,
        ),
        Panel(
            title="Found by listing alone",
            why="Objects whose event was lost. They ran; look at the object store's own queue.",
            queries={f"sum (increase(penstock_watcher_reconciler_found_total{{{NS}}}[{RATE}]))": "found"},
        ),
        Panel(
            title="Trouble",
            why="Gaps of sources, failed listings, and records that were no events.",
            queries={
                per_second("penstock_watcher_gaps_total"): "gaps",
                per_second("penstock_watcher_failed_listings_total"): "failed listings",
                per_second("penstock_watcher_quarantined_total"): "put aside",
            },
            unit="ops",
        ),
        Panel(
            title="Detection time at worst",
            why="After how long an object is found whose event was lost.",
            queries={highest("penstock_watcher_worst_case_detection_seconds"): "at worst"},
            unit="s",
        ),
        Panel(
            title="Objects listed per second",
            why="The price of certainty: requests to the object store.",
            queries={per_second("penstock_watcher_listed_total"): "listed"},
            unit="ops",
        ),
        Panel(
            title="Seen again",
            why="Versions that were published already: repeats of sources, and of listings.",
            queries={per_second("penstock_watcher_repeats_total"): "repeats"},
            unit="ops",
        ),
        Panel(
            title="Canary: silence",
            why="Seconds since a canary object's event last came, by way. One a minute is written.",
            queries={highest("penstock_watcher_canary_silence_seconds", "way"): "{{way}}"},
            unit="s",
        ),
        Panel(
            title="Canary: time of an event",
            why="From writing the last canary object to its event: what a new object waits to be noticed.",
            queries={highest("penstock_watcher_canary_seconds", "way"): "{{way}}"},
            unit="s",
        ),
        Panel(
            title="In the object store",
            why="Events that wait in its queue, and those that it says it dropped since its start.",
            queries={
                highest("penstock_watcher_store_queued_events"): "waiting",
                highest("penstock_watcher_store_lost_events", "counter"): "dropped: {{counter}}",
            },
        ),
        Panel(
            title="Webhook answers",
            why="200 = written to the log. 503 = the log is away: the store keeps the event and comes again.",
            queries={per_second("penstock_watcher_webhook_requests_total", "status"): "{{status}}"},
            unit="ops",
        ),
        Panel(
            title="Events that should have come",
            why="Of what listing found, objects whose event should have come long before: events are lost.",
            queries={f"sum (increase(penstock_watcher_missed_total{{{NS}}}[{RATE}]))": "missed"},
        ),
        Panel(
            title="Notification rules",
            why="Rules written, repaired after somebody changed them, and buckets whose rules cannot be kept.",
            queries={
                f"sum (increase(penstock_watcher_rules_written_total{{{NS}}}[{RATE}]))": "written",
                f"sum (increase(penstock_watcher_rules_repaired_total{{{NS}}}[{RATE}]))": "repaired",
                highest("penstock_watcher_rules_failing"): "failing",
            },
        ),
    ]


def _from_event_to_job() -> list[Panel]:
    return [
        Panel(
            title="Accepted and not yet queued",
            why="Grows while the dispatcher is away or cannot write.",
            queries={highest("penstock_events_pending"): "events"},
        ),
        Panel(
            title="Events read, and known already",
            why="A repeat costs a look-up and no run.",
            queries={
                per_second("penstock_dispatcher_events_total"): "read",
                per_second("penstock_dispatcher_duplicates_total"): "known already",
            },
            unit="ops",
        ),
        Panel(
            title="Dead letters",
            why="Entries that could not be turned into work: 'penstock dead ls'.",
            queries={f"sum (increase(penstock_dispatcher_dead_letters_total{{{NS}}}[{RATE}]))": "dead letters"},
        ),
        Panel(
            title="Jobs created per second",
            why="The API server is the limit here.",
            queries={per_second("penstock_dispatcher_jobs_total"): "Jobs"},
            unit="ops",
        ),
        Panel(
            title="Jobs waiting for a node",
            why="Submitted and not running yet. Near its limit (jobs.pending) the cluster is the limit.",
            queries={highest("penstock_dispatcher_pending_jobs"): "pending"},
        ),
        Panel(
            title="Stuck Jobs, by reason",
            why="What keeps Jobs from going on. 'penstock status' has the sentence per function.",
            queries={total("penstock_dispatcher_stuck_jobs", "reason"): "{{reason}}"},
            stack=True,
        ),
        Panel(
            title="API server: requests",
            why="pushed_back: it has too much to do, or a quota of its own. unanswered: it is away.",
            queries={per_second("penstock_kubernetes_requests_total", "outcome"): "{{outcome}}"},
            unit="reqps",
            stack=True,
        ),
        Panel(
            title="API server: retries, and waiting for it",
            why="Requests sent again per second, and how many of them wait on average.",
            queries={
                per_second("penstock_kubernetes_retries_total"): "retries",
                per_second("penstock_kubernetes_held_seconds_total"): "waiting",
            },
        ),
        Panel(
            title="Changes of the active dispatcher",
            why="Each hand-over is one step. Many: its node or its way to the API server is not well.",
            queries={highest("penstock_dispatcher_epoch"): "turn"},
        ),
        Panel(
            title="Records per second",
            why="Steps of invocations that were written down.",
            queries={per_second("penstock_dispatcher_records_total", "phase"): "{{phase}}"},
            unit="ops",
            stack=True,
        ),
        Panel(
            title="Where the time goes",
            why="95 % of the items take no longer than this, hop by hop.",
            queries={
                within("penstock_watcher_notice_seconds", 0.95): "notice",
                **{within(f"penstock_dispatcher_{hop}_seconds", 0.95): hop for hop in HOPS},
            },
            unit="s",
        ),
    ]


def _interface() -> list[Panel]:
    return [
        Panel(
            title="Time to answer",
            why="95 % of the answers come within this time, by route.",
            queries={within("penstock_http_request_seconds", 0.95, "route"): "{{route}}"},
            unit="s",
        ),
        Panel(
            title="Refused connections",
            why="Too many at once, or silent ones.",
            queries={per_second("penstock_http_connections_refused_total", "reason"): "{{reason}}"},
            unit="ops",
        ),
        Panel(
            title="Uploads through the gateway",
            why="Bytes of objects received over HTTP.",
            queries={per_second("penstock_http_uploaded_bytes_total"): "received"},
            unit="Bps",
        ),
    ]
