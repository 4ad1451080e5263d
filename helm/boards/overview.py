"""Is all well? What comes in, what comes out, how long does it wait?"""

from __future__ import annotations

from helm.boards.queries import NS, OURS, per_second, remembered, spread, total
from helm.panels import RATE, Dashboard, Panel


def dashboard() -> Dashboard:
    return Dashboard(
        uid="penstock-overview",
        title="Penstock / Overview",
        rows={
            "Now": _now(),
            "Flow": _flow(),
            "Processes": _processes(),
        },
    )


def _now() -> list[Panel]:
    return [
        Panel(
            title="Services not ready, dispatchers active",
            why="None, and exactly one. Otherwise ask /ready of the pods.",
            queries={
                f"count (penstock_ready{{{NS}}}) - {total('penstock_ready')}": "not ready",
                total("penstock_dispatcher_active"): "active",
            },
            kind="stat",
            width=4,
            height=5,
        ),
        Panel(
            title="Items waiting",
            why="Queued items of all functions. A backlog is no fault; one that never shrinks is.",
            queries={total("penstock_dispatcher_queued_items"): ""},
            kind="stat",
            width=5,
            height=5,
        ),
        Panel(
            title="Jobs running",
            why="Jobs that hold a slot.",
            queries={total("penstock_dispatcher_running_jobs"): ""},
            kind="stat",
            width=5,
            height=5,
        ),
        Panel(
            title="Dead",
            why="Invocations that used up their retries. 'penstock dead ls' names them.",
            queries={remembered("dead"): ""},
            kind="stat",
            width=5,
            height=5,
            alarm=1,
        ),
        Panel(
            title="Losses found today",
            why="Objects that no event told of and a listing found. They ran; but events get lost somewhere.",
            queries={f"sum (increase(penstock_watcher_reconciler_found_total{{{NS}}}[24h]))": ""},
            kind="stat",
            width=5,
            height=5,
            warn=1,
            decimals=0,
        ),
    ]


def _flow() -> list[Panel]:
    return [
        Panel(
            title="Items ended per second",
            why="What came of them. failed = the script's own exit code; dead = the platform gave up.",
            queries={
                per_second(
                    "penstock_dispatcher_records_total",
                    "phase",
                    f'{NS}, phase=~"succeeded|failed|dead|cancelled|superseded|skipped"',
                ): "{{phase}}"
            },
            unit="ops",
            width=12,
            stack=True,
        ),
        Panel(
            title="Items waiting, by function",
            why="Queues are fair: a long one does not delay the others.",
            queries={f"topk(10, {total('penstock_dispatcher_queued_items', 'function')})": "{{function}}"},
            width=12,
            stack=True,
        ),
        Panel(
            title="From queued to started",
            why="Rises with a backlog, with missing nodes, and with limits of functions.",
            queries=spread("penstock_dispatcher_wait_seconds"),
            unit="s",
            width=12,
        ),
        Panel(
            title="Requests of users",
            why="HTTP answers per second, by status.",
            queries={per_second("penstock_http_requests_total", "status"): "{{status}}"},
            unit="reqps",
            width=12,
            stack=True,
        ),
    ]


def _processes() -> list[Panel]:
    return [
        Panel(
            title="Memory",
            why="Resident memory of each process of Penstock.",
            queries={f"process_resident_memory_bytes{{{NS}}} and {OURS}": "{{instance}}"},
            unit="bytes",
            width=12,
        ),
        Panel(
            title="Processor time",
            why="Cores in use by each process of Penstock.",
            queries={f"rate(process_cpu_seconds_total{{{NS}}}[{RATE}]) and {OURS}": "{{instance}}"},
            width=12,
        ),
    ]
