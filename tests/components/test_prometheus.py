"""Prometheus: it scrapes what it is told to, and says so when the target is gone."""

from __future__ import annotations

import pytest
from aiohttp import web

from tests.components.helpers import until
from tests.testbed.links import Address
from tests.testbed.prometheus import Prometheus

pytestmark = pytest.mark.components


async def metrics(_: web.Request) -> web.Response:
    return web.Response(text="penstock_test_value 42\n")


async def test_a_target_is_scraped_and_missed(prometheus: Prometheus) -> None:
    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    prometheus.scrape("mine", Address("127.0.0.1", runner.addresses[0][1]))

    async def value(expression: str, wanted: str) -> bool:
        found = await prometheus.query(expression)
        return [series["value"][1] for series in found] == [wanted]

    async def scraped() -> bool:
        return await value('penstock_test_value{job="mine"}', "42")

    async def missed() -> bool:
        return await value('up{job="mine"}', "0")

    await until("the target's value is there", scraped)
    await runner.cleanup()
    await until("the target is seen as down", missed)
