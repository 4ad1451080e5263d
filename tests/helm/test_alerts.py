"""Every alert fires when its condition is there and is silent when all is well, by Prometheus' own test program.

Time is `promtool`'s: series are given by the minute and nothing is waited for.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.helm.rendering import CHART, ROOT, all_profiles
from tests.testbed.errors import MissingPart
from tests.testbed.lookup import obtain

pytestmark = pytest.mark.components

RULES = CHART / "files" / "alerts.yaml"
RUNBOOKS = ROOT / "docs" / "operations" / "runbooks.md"
NS = 'namespace="penstock"'
FN = f'{NS}, function="digits"'
CLAIM = 'persistentvolumeclaim="state-p-penstock-dispatcher-0"'
VIEW = f'{NS}, view="nodes"'

#: Alert -> the series that make it fire (in promtool's notation, a value per minute) and the minute at which it does.
FIRES: dict[str, tuple[dict[str, str], int]] = {
    "PenstockNotReady": ({f'penstock_ready{{{NS}, instance="a"}}': "1 1 0x30"}, 10),
    "PenstockServiceGone": ({f'penstock_build_info{{{NS}, service="watcher"}}': "1x5 stale"}, 30),
    "PenstockNoDispatcher": ({f"penstock_watcher_events_total{{{NS}}}": "0+10x40"}, 20),
    "PenstockPodNotReady": (
        {f'kube_pod_status_ready{{{NS}, condition="true", pod="p-penstock-watcher-5c9-x"}}': "1 0x40"},
        20,
    ),
    "PenstockEventsNotQueued": ({f"penstock_events_pending{{{NS}}}": "5000x60"}, 30),
    "PenstockBacklogNotMoving": (
        {
            f"penstock_dispatcher_queued_items{{{FN}}}": "50x90",
            f"penstock_dispatcher_jobs_total{{{FN}}}": "7x90",
            f"penstock_dispatcher_running_jobs{{{FN}}}": "0x90",
        },
        60,
    ),
    "PenstockBacklogOld": ({f"penstock_dispatcher_oldest_queued_seconds{{{FN}}}": "0+60x60"}, 50),
    "PenstockClusterPushesBack": ({f'penstock_kubernetes_held_seconds_total{{{NS}, pod="a"}}': "0+120x40"}, 30),
    "PenstockLossFound": ({f"penstock_watcher_missed_total{{{NS}}}": "0x10 3x20"}, 15),
    "PenstockEventsStopped": (
        {f'penstock_watcher_canary_silence_seconds{{{NS}, way="webhook"}}': "0+60x30"},
        15,
    ),
    "PenstockCanaryNotWritten": ({f"penstock_watcher_canary_failed_total{{{NS}}}": "0+1x40"}, 25),
    "PenstockTargetMissing": ({f'penstock_watcher_targets_missing{{{NS}, arn="a"}}': "1x20"}, 10),
    "PenstockListingsFail": ({f"penstock_watcher_failed_listings_total{{{NS}}}": "0+1x60"}, 40),
    "PenstockDeadLetters": ({f"penstock_dispatcher_dead_letters_total{{{NS}}}": "0x5 1x20"}, 8),
    "PenstockInvocationsDied": ({f'penstock_invocations{{{FN}, phase="dead"}}': "0x5 1x20"}, 8),
    "PenstockFunctionFails": (
        {
            f'penstock_dispatcher_attempts_total{{{FN}, outcome="script"}}': "0+5x60",
            f'penstock_dispatcher_attempts_total{{{FN}, outcome="succeeded"}}': "0+1x60",
        },
        40,
    ),
    "PenstockScalerFrozen": (
        {f"penstock_scaler_view_complete{{{VIEW}}}": "0x40", f"penstock_scaler_leader{{{NS}}}": "1x40"},
        20,
    ),
    "PenstockScalerStopped": (
        {f"penstock_scaler_decisions_total{{{NS}}}": "9x40", f"penstock_scaler_leader{{{NS}}}": "1x40"},
        30,
    ),
    "PenstockScalerAlarm": ({f"penstock_scaler_alarms{{{NS}}}": "1x20"}, 10),
    "PenstockPoolFails": ({f'penstock_scaler_pool_failures{{{NS}, pool="gpu"}}': "3x20"}, 10),
    "PenstockJobsStuck": (
        {f'penstock_dispatcher_stuck_jobs{{{NS}, reason="image"}}': "2x60"},
        40,
    ),
    "PenstockDiskNearlyFull": (
        {
            f"kubelet_volume_stats_available_bytes{{{NS}, {CLAIM}}}": "5x20",
            f"kubelet_volume_stats_capacity_bytes{{{NS}, {CLAIM}}}": "100x20",
        },
        10,
    ),
    "PenstockQuotaNearlyUsed": (
        {
            'kube_resourcequota{namespace="f", resourcequota="p-penstock", resource="pods", type="used"}': "95x40",
            'kube_resourcequota{namespace="f", resourcequota="p-penstock", resource="pods", type="hard"}': "100x40",
        },
        30,
    ),
}
#: An installation that works, with a long backlog of one function: nothing to wake anybody for.
WELL = {
    f'penstock_build_info{{{NS}, service="watcher", version="1"}}': "1x100 _x2 stale",
    f'penstock_build_info{{{NS}, service="watcher", version="2"}}': "_x103 1x100",
    f'penstock_ready{{{NS}, instance="a"}}': "1x200",
    f"penstock_events_pending{{{NS}}}": "5000 200x200",
    f"penstock_watcher_events_total{{{NS}}}": "0+100x200",
    f"penstock_watcher_missed_total{{{NS}}}": "0x200",
    f'penstock_watcher_canary_silence_seconds{{{NS}, way="webhook"}}': "40x200",
    f"penstock_watcher_canary_failed_total{{{NS}}}": "2x200",
    f'penstock_watcher_targets_missing{{{NS}, arn="a"}}': "0x200",
    f"penstock_watcher_failed_listings_total{{{NS}}}": "1x200",
    f"penstock_watcher_quarantined_total{{{NS}}}": "1x200",
    f'penstock_dispatcher_active{{{NS}, pod="a"}}': "1x200",
    f'penstock_dispatcher_active{{{NS}, pod="b"}}': "0x200",
    f'kube_pod_status_ready{{{NS}, condition="true", pod="p-penstock-watcher-5c9-x"}}': "0 0 1x190",
    f"penstock_dispatcher_dead_letters_total{{{NS}}}": "3x200",
    f"penstock_dispatcher_queued_items{{{FN}}}": "100000x200",
    f"penstock_dispatcher_jobs_total{{{FN}}}": "0+9x200",
    f"penstock_dispatcher_running_jobs{{{FN}}}": "9x200",
    f'penstock_dispatcher_queued_items{{{NS}, function="slow"}}': "5x200",
    f'penstock_dispatcher_jobs_total{{{NS}, function="slow"}}': "1x200",
    f'penstock_dispatcher_running_jobs{{{NS}, function="slow"}}': "1x200",
    f"penstock_dispatcher_oldest_queued_seconds{{{FN}}}": "900x200",
    f'penstock_dispatcher_stuck_jobs{{{NS}, reason="unschedulable"}}': "5x10 0 5x20 0x170",
    f'penstock_kubernetes_held_seconds_total{{{NS}, pod="a"}}': "0+3x200",
    f'penstock_invocations{{{FN}, phase="dead"}}': "4x200",
    f'penstock_invocations{{{FN}, phase="failed"}}': "0+1x200",
    f'penstock_invocations{{{FN}, phase="succeeded"}}': "0+9x200",
    f"penstock_scaler_view_complete{{{VIEW}}}": "1x200",
    f"penstock_scaler_view_age_seconds{{{VIEW}}}": "5x200",
    f"penstock_scaler_leader{{{NS}}}": "1x200",
    f"penstock_scaler_decisions_total{{{NS}}}": "0+12x200",
    f"penstock_scaler_alarms{{{NS}}}": "0x200",
    f'penstock_scaler_pool_failures{{{NS}, pool="gpu"}}': "1x200",
    f'penstock_scaler_failed_starts_total{{{NS}, pool="gpu"}}': "0x50 1x150",
    f"kubelet_volume_stats_available_bytes{{{NS}, {CLAIM}}}": "50x200",
    f"kubelet_volume_stats_capacity_bytes{{{NS}, {CLAIM}}}": "100x200",
    'kube_resourcequota{namespace="f", resourcequota="p-penstock", resource="pods", type="used"}': "20x200",
    'kube_resourcequota{namespace="f", resourcequota="p-penstock", resource="pods", type="hard"}': "100x200",
}


def promtool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    try:
        server = obtain("prometheus")
    except MissingPart as missing:
        pytest.skip(str(missing))
    beside = server.parent / "promtool"
    assert beside.exists(), f"promtool belongs to the package of {server} and is not beside it"
    return subprocess.run([beside, *words], capture_output=True, text=True, check=False, timeout=120)


def alerts() -> dict[str, dict[str, object]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def judge(folder: Path, series: dict[str, str], minutes: int, alert: str = "", *, firing: bool) -> str:
    """ "" when it is so, else what promtool says."""
    selector = f'alertstate="firing", alertname="{alert}"' if alert else 'alertstate="firing"'
    expected = [{"labels": "{}", "value": 1}] if firing else []
    document = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {"expr": f"max(ALERTS{{{selector}}})", "eval_time": f"{minutes}m", "exp_samples": expected}
                ],
            }
        ],
    }
    file = folder / "tests.yaml"
    file.write_text(yaml.safe_dump(document))
    done = promtool("test", "rules", file)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_the_rules_are_correct() -> None:
    done = promtool("check", "rules", RULES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", FIRES)
def test_it_fires_when_its_condition_is_there(alert: str, tmp_path: Path) -> None:
    series, minutes = FIRES[alert]
    assert not judge(tmp_path, series, minutes, alert, firing=True)


def test_two_dispatchers_and_none_active_is_told_too(tmp_path: Path) -> None:
    series = {f'penstock_dispatcher_active{{{NS}, pod="{pod}"}}': "0x40" for pod in "ab"}
    assert not judge(tmp_path, series, 10, "PenstockNoDispatcher", firing=True)


def test_a_pod_that_no_node_takes_is_told_too(tmp_path: Path) -> None:
    series = {f'kube_pod_status_phase{{{NS}, phase="Pending", pod="p-penstock-dispatcher-0"}}': "1x40"}
    assert not judge(tmp_path, series, 20, "PenstockPodNotReady", firing=True)


def test_machines_that_are_ordered_and_never_join_are_told_too(tmp_path: Path) -> None:
    series = {f'penstock_scaler_failed_starts_total{{{NS}, pool="metal"}}': "0x10 1x15 2x15 3x60"}
    assert not judge(tmp_path, series, 60, "PenstockPoolFails", firing=True)


@pytest.mark.parametrize("told", ["penstock_dispatcher_dead_letters_total", "penstock_watcher_quarantined_total"])
def test_in_one_process_neither_kind_of_dead_letters_hides_the_other(told: str, tmp_path: Path) -> None:
    edge = f'{{{NS}, pod="p-penstock-edge-0"}}'
    quiet = ({"penstock_dispatcher_dead_letters_total", "penstock_watcher_quarantined_total"} - {told}).pop()
    series = {f"{told}{edge}": "0x5 1x20", f"{quiet}{edge}": "0x30"}
    assert not judge(tmp_path, series, 8, "PenstockDeadLetters", firing=True)


def test_the_names_of_pods_claims_and_quotas_are_those_that_the_chart_gives() -> None:
    """The alerts on Kubernetes' own metrics pick by name, and a name that is nobody's would never fire."""
    rules = alerts()
    pods = re.compile(_picked(str(rules["PenstockPodNotReady"]["expr"]), "pod"))
    claims = re.compile(_picked(str(rules["PenstockDiskNearlyFull"]["expr"]), "persistentvolumeclaim"))
    quotas = re.compile(_picked(str(rules["PenstockQuotaNearlyUsed"]["expr"]), "resourcequota"))
    found = dict.fromkeys(("pods", "claims", "quotas"), 0)
    for profile, objects in all_profiles():
        for one in objects:
            name, kind = one["metadata"]["name"], one["kind"]
            if kind in {"Deployment", "StatefulSet"}:
                assert pods.fullmatch(f"{name}-0"), (profile, name)
                found["pods"] += 1
                for claim in one["spec"].get("volumeClaimTemplates", ()):
                    assert claims.fullmatch(f"{claim['metadata']['name']}-{name}-0"), (profile, name)
                    found["claims"] += 1
            if kind == "PersistentVolumeClaim":
                assert claims.fullmatch(name), (profile, name)
                found["claims"] += 1
            if kind == "ResourceQuota":
                assert quotas.fullmatch(name), (profile, name)
                found["quotas"] += 1
    assert all(found.values()), found


def _picked(expression: str, label: str) -> str:
    """The pattern by which an expression picks a label; the same wherever it does."""
    (pattern,) = set(re.findall(rf'{label}=~"([^"]*)"', expression))
    return str(pattern)


def test_no_alert_is_without_such_a_test() -> None:
    assert set(FIRES) == set(alerts())


@pytest.mark.parametrize("minutes", [30, 120, 190])
def test_an_installation_that_works_wakes_nobody(minutes: int, tmp_path: Path) -> None:
    assert not judge(tmp_path, WELL, minutes, firing=False)


def test_every_alert_has_a_page_in_the_runbooks() -> None:
    headings = set(re.findall(r"^## (\S+)$", RUNBOOKS.read_text(), re.MULTILINE))
    for name, rule in alerts().items():
        annotations = rule["annotations"]
        assert isinstance(annotations, dict)
        assert {"summary", "description", "runbook_url"} == set(annotations), name
        assert annotations["runbook_url"] == f"docs/operations/runbooks.md#{name.lower()}"
        assert rule["labels"] in ({"severity": "page"}, {"severity": "ticket"})
    assert headings == set(alerts())
