"""What the gateway clears up after itself: deployments that were cut off, and markers older than the history."""

from __future__ import annotations

import structlog

from gateway.deploy import Deployer
from gateway.intents import ABANDONED_S
from gateway.oscar.removed import RemovedJobs
from penstock.errors import Closed, PenstockError
from penstock.ports import ObjectStore
from penstock.settings import HistorySettings

log = structlog.get_logger("gateway.tidy")

DAY_MS = 24 * 3600 * 1000


async def tidy(deployer: Deployer, store: ObjectStore, settings: HistorySettings, now: int) -> None:
    """One round. What goes wrong is met again by the next one. Raises Closed alone."""
    try:
        settled = await deployer.recover(older_s=ABANDONED_S)
        expired = await RemovedJobs(store).expire(now - int(settings.keep_days * DAY_MS))
    except Closed:
        raise
    except PenstockError as error:
        log.warning("clearing up has to wait", action="tidy_delayed", error=error.message)
        return
    if settled or expired:
        log.info("cleared up", action="tidy", deployments=settled, markers=expired)
