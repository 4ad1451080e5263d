"""The dashboards: every query is PromQL, and names only metrics that some part of Penstock has.

Whether a metric exists is asked of the code and of the reference for readers, never of the dashboards themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from dispatcher.metrics import DispatcherMetrics
from helm import generate
from penstock.adapters.kubernetes.client import Use
from penstock.collectors import KubernetesCollector
from penstock.observability import Metrics
from scaler.interface.hooks import HookOptions, ProgramHooks
from scaler.interface.ledger import Books
from scaler.interface.metrics import InterfaceCollector
from tests.helm.rendering import CHART, ROOT
from tests.helm.test_alerts import RULES, promtool
from watcher.metrics import WatcherMetrics

FILES = sorted((CHART / "files" / "dashboards").glob("*.json"))
#: Metrics of others: Prometheus' client library, the kubelet, kube-state-metrics.
FOREIGN = {
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "kubelet_volume_stats_available_bytes",
    "kubelet_volume_stats_capacity_bytes",
    "kube_pod_status_phase",
    "kube_pod_status_ready",
    "kube_resourcequota",
}


def known() -> set[str]:
    registry = CollectorRegistry()
    DispatcherMetrics(registry)
    WatcherMetrics(registry)
    registry.register(KubernetesCollector(Use(), lambda: 1))
    registry.register(InterfaceCollector(Books(), ProgramHooks(HookOptions())))
    found = set(FOREIGN)
    for one in (registry, Metrics().registry, *scaler_registries()):
        for family in one.collect():
            if family.type == "histogram":
                found |= {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
            found.add(f"{family.name}_total" if family.type == "counter" else family.name)
    return found


def scaler_registries() -> Iterator[CollectorRegistry]:
    from scaler.metrics import ScalerMetrics  # noqa: PLC0415 - beside the others by name, apart by its own registry

    yield ScalerMetrics().registry


def queries(file: Path) -> Iterator[tuple[str, str]]:
    for panel in json.loads(file.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def plain(expression: str) -> str:
    """The query as Grafana sends it, with everything chosen."""
    return expression.replace("$__rate_interval", "1m").replace("$namespace", ".*").replace("$function", ".*")


def names(expression: str) -> set[str]:
    """The metrics of a query: what is left without label sets, label lists, ranges and texts, and is not called."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    return {word for word in re.findall(r"\b[a-zA-Z_:][a-zA-Z0-9_:]*\b(?!\s*\()", bare) if "_" in word}


def test_the_generated_files_are_up_to_date() -> None:
    assert not generate.outdated(), "run: python -m helm.generate"


@pytest.mark.components
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_query_is_promql(file: Path, tmp_path: Path) -> None:
    rules = [{"record": f"tried:{number}", "expr": plain(query)} for number, (_, query) in enumerate(queries(file))]
    for rule in rules:
        rule["record"] = rule["record"].replace(":", "_q")
    tried = tmp_path / "rules.yaml"
    tried.write_text(yaml.safe_dump({"groups": [{"name": "tried", "rules": rules}]}))
    done = promtool("check", "rules", tried)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_panel_names_metrics_that_exist(file: Path) -> None:
    there = known()
    for title, query in queries(file):
        found = names(query)
        assert found, title
        assert found <= there, (title, found - there)


def test_every_alert_names_metrics_that_exist() -> None:
    there = known()
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            found = names(rule["expr"])
            assert found, rule["alert"]
            assert found <= there, (rule["alert"], found - there)


def test_a_metric_that_does_not_exist_would_be_noticed() -> None:
    query = 'sum by (le, a_b) (min_over_time(penstock_gone_bucket{a="b_c"}[$__rate_interval])) and on (x_y) up > 3'
    assert names(query) == {"penstock_gone_bucket"}
    assert not names(query) <= known()


def test_every_panel_has_a_place_of_its_own_and_an_explanation() -> None:
    uids = set()
    for file in FILES:
        dashboard = json.loads(file.read_text())
        uids.add(dashboard["uid"])
        taken: set[tuple[int, int]] = set()
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert place["x"] + place["w"] <= 24
            assert not taken & cells, (file.stem, panel["title"])
            taken |= cells
            assert panel["type"] == "row" or panel["description"].endswith(".")
    assert len(uids) == len(FILES) == 4


def test_the_reference_names_what_the_dashboards_use() -> None:
    reference = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    for file in FILES:
        for title, query in queries(file):
            for name in names(query) - FOREIGN:
                family = re.sub(r"_(bucket|count|sum)$", "", name)
                assert f"`{family}`" in reference, (file.stem, title, family)
