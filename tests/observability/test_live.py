"""Real Prometheus over real services under load: every panel has data, and every alert fires when its cause is there.

One installation goes through all troubles, one act after the other. Nothing fires while all is well, no alert of an act
fires before its cause, and at the end, when everything is repaired, nothing does any more. Panels are asked in the
words that Grafana would send. What Kubernetes' own metrics tell is in `test_live_cluster`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from penstock.model import TOPIC_EVENTS
from penstock.ports import LogEntry
from tests.helm.test_alerts import RULES, alerts
from tests.helm.test_dashboards import FILES, plain
from tests.observability import test_live_cluster
from tests.observability.live import STAGE, Installation
from tests.observability.live_rules import PATIENCE_S, quick
from tests.production.platform import Platform, eventually
from tests.testbed.bed import Bed
from tests.testbed.errors import MissingPart

#: More than the thousand that the alert allows.
MANY = 1100
#: For so long nothing fires while all is well, by rules whose ranges are twice as long.
QUIET_S = 15.0


@dataclass(frozen=True)
class Act:
    """One trouble: what causes it, the alerts that must fire then and not before, and the end of it."""

    cause: Callable[[Installation], Awaitable[None]]
    alerts: tuple[str, ...]
    repair: Callable[[Installation], Awaitable[None]]


async def functions_in_trouble(here: Installation) -> None:
    """A function that is paused, one that no node can take, one whose script fails, one that only a pool without room
    could run, an entry that is no event, a service without its log.
    """
    here.full.touch()
    await here.deploy("held", paused=True)
    await here.deploy("huge", resources={"cpu_millis": 4_000_000})
    await here.deploy("fails", retries=0)
    await here.deploy("graphic", resources={"gpu": True})
    await here.put("held")
    await here.put("huge")
    await here.put("fails", count=40)
    await here.put("graphic")
    await here.platform.log.append(TOPIC_EVENTS, [LogEntry("a", b"no event")])
    lonely = await here.platform.start("dispatcher", PENSTOCK_KAFKA_SERVERS="127.0.0.1:1")
    here.scrape(lonely, "lonely")


async def functions_repaired(here: Installation) -> None:
    here.full.unlink()
    await here.delete("held")
    here.bed.prometheus.scrape("lonely")
    await here.platform.processes[-1].kill()


async def jobs_are_deleted(here: Installation) -> None:
    await here.delete_jobs("huge")


async def nothing_to_repair(here: Installation) -> None:
    """What was dead is over."""


async def nodes_and_dispatcher_are_lost(here: Installation) -> None:
    """The nodes' heartbeats stop. Meanwhile Jobs are refused for lack of a share; then the dispatcher is gone, and what
    is uploaded stays in the log.
    """
    await here.bed.kwok.stop()
    await here.starve()
    await here.put(count=40)
    await here.alerts.fires("PenstockClusterPushesBack")
    await here.feed()
    await here.kill_dispatcher()
    await here.put("pile", count=MANY)


async def nodes_and_dispatcher_are_back(here: Installation) -> None:
    await here.bed.kwok.resume()
    await here.delete("pile")
    await here.replace_dispatcher()


async def events_are_lost(here: Installation) -> None:
    await here.bed.minio.lose_events()

    async def found() -> bool:
        # One that is found at once may have an event under way, and proves nothing.
        await here.put()
        await asyncio.sleep(0.5)
        return "PenstockLossFound" in await here.alerts.fired()

    await eventually("a listing finds what no event told of", found, PATIENCE_S)


async def events_flow(here: Installation) -> None:
    await here.bed.minio.deliver_events()


async def the_store_refuses_the_watcher(here: Installation) -> None:
    await here.take_rights()


async def the_watcher_has_its_rights(here: Installation) -> None:
    await here.give_rights()


async def the_store_forgets_its_targets(here: Installation) -> None:
    await here.restart_store(targets=False)


async def the_store_has_its_targets(here: Installation) -> None:
    await here.restart_store(targets=True)


async def the_cluster_stands_still(here: Installation) -> None:
    """The scaler ends when its Lease is lost, and its next life finds nobody to ask."""
    await here.bed.kubernetes.stop("kube-apiserver")


async def the_cluster_goes_on(here: Installation) -> None:
    await here.bed.kubernetes.resume("kube-apiserver")
    await here.back()


ACTS = (
    Act(
        functions_in_trouble,
        (
            "PenstockNotReady",
            "PenstockBacklogNotMoving",
            "PenstockBacklogOld",
            "PenstockJobsStuck",
            "PenstockDeadLetters",
            "PenstockFunctionFails",
            "PenstockPoolFails",
        ),
        functions_repaired,
    ),
    Act(jobs_are_deleted, ("PenstockInvocationsDied",), nothing_to_repair),
    Act(
        nodes_and_dispatcher_are_lost,
        (
            "PenstockClusterPushesBack",
            "PenstockNoDispatcher",
            "PenstockServiceGone",
            "PenstockEventsNotQueued",
            "PenstockScalerFrozen",
            "PenstockScalerAlarm",
        ),
        nodes_and_dispatcher_are_back,
    ),
    Act(events_are_lost, ("PenstockLossFound", "PenstockEventsStopped"), events_flow),
    Act(
        the_store_refuses_the_watcher,
        ("PenstockCanaryNotWritten", "PenstockListingsFail"),
        the_watcher_has_its_rights,
    ),
    Act(the_store_forgets_its_targets, ("PenstockTargetMissing",), the_store_has_its_targets),
    Act(the_cluster_stands_still, ("PenstockScalerStopped",), the_cluster_goes_on),
)


def test_every_alert_is_caused_live() -> None:
    """An alert without a live cause is not known to fire: give it an act, here or in `test_live_cluster`."""
    caused = [name for act in ACTS for name in act.alerts]
    assert sorted([*caused, *test_live_cluster.CAUSED]) == sorted(alerts())


@pytest.fixture
async def installation(tmp_path: Path) -> AsyncIterator[Installation]:
    rules, stage = tmp_path / "rules.yaml", tmp_path / "stage.yaml"
    rules.write_text(quick(RULES.read_text()))
    stage.write_text(STAGE)
    async with Bed() as bed:
        bed.kubernetes.options.fast_controllers = True
        bed.prometheus.rules.append(rules)
        bed.kwok.stages.append(stage)
        try:
            await bed.start("minio", "kafka", "kubernetes", "kwok", "prometheus")
        except MissingPart as missing:
            pytest.skip(str(missing))
        settings = {
            "PENSTOCK_NOTIFY_CANARY_S": "3",
            "PENSTOCK_NOTIFY_CANARY_PATIENCE_S": "10",
            # An item whose Job somebody deletes is dead at once.
            "PENSTOCK_DISPATCHER_PLATFORM_RETRIES": "0",
        }
        platform = Platform(bed, tmp_path, real=False, settings=settings)
        try:
            await platform.open()
            made = Installation(bed, platform, tmp_path)
            await made.open()
            yield made
            await made.close()
        finally:
            await platform.close()


def panels() -> Iterator[tuple[str, str, str]]:
    for file in FILES:
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel.get("targets", ()):
                yield file.stem, panel["title"], plain(target["expr"])


@pytest.mark.components
@pytest.mark.slow
async def test_every_panel_has_data_and_every_alert_fires(installation: Installation) -> None:
    async with installation.kept():
        await all_acts(installation)


async def all_acts(installation: Installation) -> None:
    async with installation.loaded() as loading:
        await every_panel(installation, loading)
        await installation.alerts.begin(QUIET_S)
        await installation.deploy("pile", paused=True)
        for act in ACTS[:2]:
            await played(installation, act)
    for act in ACTS[2:]:
        await played(installation, act)
    await installation.alerts.silent()


async def played(here: Installation, act: Act) -> None:
    """None of its alerts fires before, all fire then."""
    await here.alerts.silent(*act.alerts)
    here.alerts.mark()
    await act.cause(here)
    await here.alerts.fires(*act.alerts)
    await act.repair(here)


async def every_panel(here: Installation, loading: asyncio.Task[None]) -> None:
    queries = list(panels())
    assert len(queries) > 60
    left = queries

    async def none_left() -> bool:
        nonlocal left
        if loading.done():
            loading.result()
        left = [one for one in left if not await here.bed.prometheus.query(one[2])]
        return not left

    try:
        await eventually("every panel has data", none_left, PATIENCE_S)
    except AssertionError as error:
        raise AssertionError("\n".join(f"{board} / {title}: {query}" for board, title, query in left)) from error
