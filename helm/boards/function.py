"""What one function does, how long its items wait and run, and what fails."""

from __future__ import annotations

from helm.boards.queries import FN, HOPS, highest, per_second, remembered, spread, total, within
from helm.panels import Dashboard, Panel


def dashboard() -> Dashboard:
    return Dashboard(
        uid="penstock-function",
        title="Penstock / Function",
        by_function=True,
        rows={
            "Now": _now(),
            "Work": _work(),
            "Time": _time(),
        },
    )


def _now() -> list[Panel]:
    return [
        Panel(
            title="Waiting",
            why="Queued items.",
            queries={total("penstock_dispatcher_queued_items", where=FN): ""},
            kind="stat",
            width=6,
            height=4,
        ),
        Panel(
            title="Running",
            why="Jobs that hold a slot.",
            queries={total("penstock_dispatcher_running_jobs", where=FN): ""},
            kind="stat",
            width=6,
            height=4,
        ),
        Panel(
            title="Failed, of all remembered",
            why="Invocations whose script ended with a code other than 0.",
            queries={remembered("failed", where=FN): ""},
            kind="stat",
            width=6,
            height=4,
            warn=1,
        ),
        Panel(
            title="Dead",
            why="Invocations that used up their retries.",
            queries={remembered("dead", where=FN): ""},
            kind="stat",
            width=6,
            height=4,
            alarm=1,
        ),
    ]


def _work() -> list[Panel]:
    return [
        Panel(
            title="Waiting and running",
            why="Running stays flat while waiting grows: a limit of the function, or of the cluster.",
            queries={
                total("penstock_dispatcher_queued_items", "function", FN): "{{function}} waiting",
                total("penstock_dispatcher_running_jobs", "function", FN): "{{function}} running",
            },
            width=12,
        ),
        Panel(
            title="Oldest item that waits",
            why="How long it has been queued. It grows without end: the function is held, or its Jobs find no place.",
            queries={highest("penstock_dispatcher_oldest_queued_seconds", "function", FN): "{{function}}"},
            unit="s",
            width=12,
        ),
        Panel(
            title="Jobs started per second",
            why="Fewer Jobs than items: they share containers (batch).",
            queries={per_second("penstock_dispatcher_jobs_total", "function", FN): "{{function}}"},
            unit="ops",
            width=12,
        ),
        Panel(
            title="Invocations by phase",
            why="All that are remembered.",
            queries={remembered(".*", "phase", FN): "{{phase}}"},
            width=12,
            stack=True,
        ),
    ]


def _time() -> list[Panel]:
    return [
        Panel(
            title="From queued to started",
            why="What the platform adds.",
            queries=spread("penstock_dispatcher_wait_seconds", FN),
            unit="s",
            width=12,
        ),
        Panel(
            title="Where the time goes",
            why="95 % take no longer, hop by hop. submit: no room, or a limit. start: nodes, images, input.",
            queries={within(f"penstock_dispatcher_{hop}_seconds", 0.95, where=FN): hop for hop in HOPS},
            unit="s",
            width=12,
        ),
        Panel(
            title="From started to ended",
            why="The script's own time.",
            queries=spread("penstock_dispatcher_run_seconds", FN),
            unit="s",
            width=12,
        ),
    ]
