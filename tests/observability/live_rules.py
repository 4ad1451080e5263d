"""The chart's alert rules with short times, so that a test can wait for them, and the questions that it asks of them.

The expressions stay what they are: only ranges, the time that a condition must last, and a few limits that are times
themselves become shorter. That the rules as they are fire at their own times, `promtool` says in tests/helm.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from typing import Any

import yaml

from tests.production.platform import eventually
from tests.testbed.prometheus import Prometheus

#: A range must hold several scrapes of one second, and what happened must not have left it before it is looked at.
RANGE = "30s"
#: Alert -> (what stands there, what a test can wait for).
LIMITS = {
    "PenstockEventsStopped": ("> 300", "> 12"),
    "PenstockBacklogOld": ("> 1800", "> 10"),
    "PenstockScalerFrozen": ("> 120", "> 25"),
}
PATIENCE_S = 240.0


def quick(text: str) -> str:
    """The same rules in a hurry. Raises KeyError and AssertionError when they are not what this knows."""
    document: dict[str, Any] = yaml.safe_load(text)
    for group in document["groups"]:
        for rule in group["rules"]:
            if rule["alert"] in LIMITS:
                old, new = LIMITS[rule["alert"]]
                assert rule["expr"].count(old) == 1, (rule["alert"], rule["expr"])
                rule["expr"] = rule["expr"].replace(old, new)
            rule["expr"] = re.sub(r"\[\d+[smh]\]", f"[{RANGE}]", rule["expr"])
            rule["for"] = "1s"
    return yaml.safe_dump(document)


class Alerts:
    """What a Prometheus with these rules says; `where` narrows it down, as a selector without its braces does."""

    def __init__(self, prometheus: Prometheus, where: str = "") -> None:
        self._prometheus = prometheus
        self._where = f", {where}" if where else ""
        self._since = time.monotonic()

    def _selector(self, name: str = "") -> str:
        alert = f', alertname="{name}"' if name else ""
        return f'ALERTS{{alertstate="firing"{alert}{self._where}}}'

    async def firing(self) -> set[str]:
        """The alerts that fire now."""
        return {one["metric"]["alertname"] for one in await self._prometheus.query(self._selector())}

    async def fired(self) -> set[str]:
        """Those that fire or have fired since `mark`: what happens once fires for no longer than its range."""
        seconds = max(1, int(time.monotonic() - self._since))
        found = await self._prometheus.query(f"max_over_time({self._selector()}[{seconds}s])")
        return {one["metric"]["alertname"] for one in found}

    async def begin(self, quiet_s: float) -> None:
        """What is only starting may fire rules in such a hurry. Wait until it has started and nothing has fired for so
        long; what fired before is forgotten.
        """

        async def quiet() -> bool:
            if await self.firing():
                self.mark()
            return time.monotonic() - self._since > quiet_s and not await self.fired()

        await self.silent()
        self.mark()
        await eventually(f"nothing fires for {quiet_s:g} s", quiet, PATIENCE_S)

    def mark(self) -> None:
        """What fired before this moment is forgotten."""
        self._since = time.monotonic()

    async def fires(self, *names: str) -> None:
        """Wait until each of these has fired. Fails with its name, and what its parts say."""
        for name in names:

            async def seen(name: str = name) -> bool:
                return name in await self.fired()

            await eventually(f"{name} fires", seen, PATIENCE_S)

    async def silent(self, *names: str, but: Collection[str] = ()) -> None:
        """Wait until none of these fires any more; without names, until nothing does."""
        left: set[str] = set()

        async def over() -> bool:
            nonlocal left
            left = (await self.firing() & set(names) if names else await self.firing()) - set(but)
            return not left

        try:
            await eventually("the alerts are over", over, PATIENCE_S)
        except AssertionError as error:
            raise AssertionError(f"{error}; still firing: {', '.join(sorted(left))}") from error
