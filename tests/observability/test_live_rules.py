"""The hurried rules differ from the chart's in times alone."""

from __future__ import annotations

import re

import yaml

from tests.helm.test_alerts import RULES, alerts
from tests.observability.live_rules import LIMITS, RANGE, quick

_RANGE = re.compile(r"\[\d+[smh]\]")


def hurried() -> dict[str, dict[str, object]]:
    return {
        rule["alert"]: rule for group in yaml.safe_load(quick(RULES.read_text()))["groups"] for rule in group["rules"]
    }


def test_only_times_differ() -> None:
    assert set(hurried()) == set(alerts())
    for name, rule in hurried().items():
        before = alerts()[name]
        expected = _RANGE.sub(f"[{RANGE}]", str(before["expr"]))
        old, new = LIMITS.get(name, ("", ""))
        assert rule["expr"] == (expected.replace(old, new) if old else expected)
        assert {**rule, "expr": "", "for": ""} == {**before, "expr": "", "for": ""}


def test_no_range_and_no_limit_becomes_longer() -> None:
    seconds = {"s": 1, "m": 60, "h": 3600}
    for rule in alerts().values():
        for found in re.findall(r"\[(\d+)([smh])\]", str(rule["expr"])):
            assert int(found[0]) * seconds[found[1]] > int(RANGE.removesuffix("s"))
    for old, new in LIMITS.values():
        assert int(old.removeprefix("> ")) > int(new.removeprefix("> "))
