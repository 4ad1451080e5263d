"""What a Grafana dashboard is made of, as far as ours need it: panels in rows, two variables, one data source.

Building the JSON from a list keeps all panels alike (units, legends, an explanation each), and lets a test read every
query: a panel whose metric was renamed is an error of the build and not an empty rectangle at three in the morning.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

WIDTH = 24
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
#: Grafana's word for a time that is never shorter than two scrapes.
RATE = "$__rate_interval"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """`queries` maps PromQL to its legend. `why` is what the panel's small i shows: what to think of when it rises."""

    title: str
    why: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    stack: bool = False
    #: Values from which a single number is yellow and red.
    warn: float | None = None
    alarm: float | None = None
    decimals: int | None = None


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    uid: str
    title: str
    rows: dict[str, list[Panel]]
    #: Show a choice of functions and restrict queries by `$function`.
    by_function: bool = False
    tags: tuple[str, ...] = field(default=("penstock",))


def build(dashboard: Dashboard) -> Json:
    """The JSON that Grafana takes as a file."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": list(dashboard.tags),
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "",
        "links": [
            {
                "title": "Penstock",
                "type": "dashboards",
                "tags": ["penstock"],
                "asDropdown": True,
                "includeVars": False,
                "keepTime": True,
            }
        ],
        "annotations": {"list": []},
        "templating": {"list": _variables(dashboard)},
        "panels": _place(dashboard.rows),
    }


def _variables(dashboard: Dashboard) -> list[Json]:
    found: list[Json] = [
        {"name": "datasource", "type": "datasource", "label": "Prometheus", "query": "prometheus"},
        _choice("namespace", "label_values(penstock_ready, namespace)"),
    ]
    if dashboard.by_function:
        query = 'label_values(penstock_dispatcher_queued_items{namespace=~"$namespace"}, function)'
        found.append(_choice("function", query))
    return found


def _choice(name: str, query: str) -> Json:
    return {
        "name": name,
        "type": "query",
        "label": name.capitalize(),
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "includeAll": True,
        # Also where a Prometheus puts no such label on what it scrapes.
        "allValue": ".*",
        "multi": True,
        "sort": 1,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _place(rows: dict[str, list[Panel]]) -> list[Json]:
    """Panels beside each other, a new line where one does not fit any more."""
    placed: list[Json] = []
    y = 0
    for title, panels in rows.items():
        placed.append(
            {
                "id": len(placed) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
                "panels": [],
            }
        )
        y, x, tallest = y + 1, 0, 0
        for panel in panels:
            if x + panel.width > WIDTH:
                y, x, tallest = y + tallest, 0, 0
            position = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            placed.append(_panel(panel, len(placed) + 1, position))
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
    return placed


def _panel(panel: Panel, number: int, position: Json) -> Json:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.why,
        "datasource": _SOURCE,
        "gridPos": position,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "expr": expression,
                "legendFormat": legend or "__auto",
                "datasource": _SOURCE,
                **({"instant": True, "format": "table"} if panel.kind == "table" else {}),
            }
            for index, (expression, legend) in enumerate(panel.queries.items())
        ],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
    }


def _defaults(panel: Panel) -> Json:
    steps: list[Json] = [{"color": "green", "value": None}]
    if panel.warn is not None:
        steps.append({"color": "orange", "value": panel.warn})
    if panel.alarm is not None:
        steps.append({"color": "red", "value": panel.alarm})
    defaults: Json = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.decimals is not None:
        defaults["decimals"] = panel.decimals
    if panel.kind == "timeseries":
        stacking = {"mode": "normal" if panel.stack else "none", "group": "A"}
        defaults["custom"] = {"lineWidth": 1, "fillOpacity": 30 if panel.stack else 8, "stacking": stacking}
    return defaults


def _options(panel: Panel) -> Json:
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "background", "graphMode": "area"}
    if panel.kind == "timeseries":
        legend = {"showLegend": True, "displayMode": "list", "placement": "bottom"}
        return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
    return {}
