"""The probes of a service over real HTTP."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter

from penstock.errors import AlreadyExists, InvalidInput
from penstock.probes import add_probes, serving, split_address


async def test_alive_ready_and_counted() -> None:
    reasons = ["the log does not answer"]
    registry = CollectorRegistry()
    Counter("penstock_test", "Things.", registry=registry).inc(3)
    app = web.Application()
    add_probes(app, registry=registry, waiting_for=lambda: reasons)
    async with serving(app, "127.0.0.1:0") as address, aiohttp.ClientSession(f"http://{address}") as session:
        async with session.get("/health") as answer:
            assert answer.status == 200
        async with session.get("/ready") as answer:
            assert (answer.status, await answer.text()) == (503, "the log does not answer\n")
        reasons.clear()
        async with session.get("/ready") as answer:
            assert answer.status == 200
        async with session.get("/metrics") as answer:
            assert "penstock_test_total 3.0" in await answer.text()


async def test_a_taken_port_is_one_sentence() -> None:
    async with serving(web.Application(), "127.0.0.1:0") as address:
        with pytest.raises(AlreadyExists, match="in use by another program"):
            async with serving(web.Application(), address):
                pass


@pytest.mark.parametrize("listen", ["9090", "host:", "host:port", "127.0.0.1:70000"])
def test_what_is_no_address(listen: str) -> None:
    with pytest.raises(InvalidInput, match="is not HOST:PORT"):
        split_address(listen)


def test_an_address_of_version_six() -> None:
    assert split_address("[::1]:80") == ("::1", 80)
