"""Prometheus, as Debian ships it, scraping what a test names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import aiohttp
import yaml

from tests.testbed.building import Words
from tests.testbed.component import LOOPBACK, Component, Member
from tests.testbed.links import Address
from tests.testbed.lookup import obtain
from tests.testbed.probe import http_ok

if TYPE_CHECKING:
    from tests.testbed.bed import Bed


class Prometheus(Component):
    """One Prometheus server."""

    name: ClassVar[str] = "prometheus"

    def __init__(self, bed: Bed) -> None:
        super().__init__(bed)
        self.direct = Address(LOOPBACK, bed.reservations.port())
        self.rules: list[Path] = []
        """Rule files, set before the first start."""

    @property
    def url(self) -> str:
        """The server, through the wire that `slow` and `cut` act on."""
        return f"http://{self.link.address}"

    def env(self) -> dict[str, str]:
        return {"PENSTOCK_TEST_PROMETHEUS_URL": self.url}

    async def prepare(self) -> list[Member]:
        self._link = await self.make_link(self.direct)
        targets = self.folder / "targets"
        targets.mkdir()
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rule) for rule in self.rules],
            "scrape_configs": [
                {
                    "job_name": "testbed",
                    # The kubelet makes its own certificate.
                    "tls_config": {"insecure_skip_verify": True},
                    "file_sd_configs": [{"files": [f"{targets}/*.json"], "refresh_interval": "1s"}],
                }
            ],
        }
        (self.folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        argv: Words = [
            obtain("prometheus"),
            f"--config.file={self.folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={self.data}",
            f"--web.listen-address={self.direct}",
        ]

        async def ready() -> bool:
            return await http_ok(f"http://{self.direct}/-/ready")

        return [Member("prometheus", argv, ready)]

    def scrape(self, job: str, *targets: Address, path: str = "/metrics", scheme: str = "http") -> None:
        """From now on scrape these under the label `job`; called again with the same job it replaces them."""
        labels = {"job": job, "__metrics_path__": path, "__scheme__": scheme}
        groups = [{"targets": [str(target) for target in targets], "labels": labels}]
        draft = self.folder / "targets" / f"{job}.draft"
        draft.write_text(json.dumps(groups))
        draft.rename(draft.with_suffix(".json"))

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The current value of an expression: its series, each with `metric` and `value`."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.url}/api/v1/query", params={"query": expression}) as response,
        ):
            response.raise_for_status()
            found: list[dict[str, Any]] = (await response.json())["data"]["result"]
            return found


def samples(text: str) -> dict[str, float]:
    """What a service tells of itself: every sample by its name and labels, as the text has them."""
    lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def total(text: str, name: str) -> float:
    """Sum of a metric over its labels, 0 = it is not there."""
    return sum(value for sample, value in samples(text).items() if sample == name or sample.startswith(f"{name}{{"))
