"""Infrastructure Manager: an infrastructure is created, grown and shrunk over its REST interface."""

from __future__ import annotations

import aiohttp
import pytest

from tests.components.helpers import until
from tests.testbed import Bed
from tests.testbed.im import InfrastructureManager
from tests.testbed.links import Cut

pytestmark = pytest.mark.components

# The empty `contextualize` keeps the manager from logging in to machines that do not exist.
RADL = """system node (cpu.count >= 1 and memory.size >= 512m and disk.0.image.url = 'dummy://image')
contextualize ()
deploy node {count}
"""


def session(im: InfrastructureManager) -> aiohttp.ClientSession:
    headers = {"Authorization": im.authorization, "Accept": "application/json"}
    return aiohttp.ClientSession(im.url, headers=headers, raise_for_status=True)


async def machines(http: aiohttp.ClientSession, infrastructure: str) -> list[str]:
    async with http.get(f"/infrastructures/{infrastructure}") as response:
        return sorted(entry["uri"].rsplit("/", 1)[1] for entry in (await response.json())["uri-list"])


async def state(http: aiohttp.ClientSession, infrastructure: str) -> str:
    async with http.get(f"/infrastructures/{infrastructure}/state") as response:
        return str((await response.json())["state"]["state"])


async def create(http: aiohttp.ClientSession, path: str, count: int) -> str:
    text = RADL.format(count=count)
    async with http.post(path, data=text, headers={"Content-Type": "text/plain"}) as response:
        return await response.text()


async def test_an_infrastructure_is_created_grown_and_shrunk(im: InfrastructureManager) -> None:
    async with session(im) as http:
        made = await create(http, "/infrastructures", 1)
        infrastructure = made.strip().strip('"{}').rstrip('"').rsplit("/", 1)[1]

        async def running() -> bool:
            return await state(http, infrastructure) in ("running", "configured")

        await until("the infrastructure runs", running)
        first = await machines(http, infrastructure)
        assert len(first) == 1
        await create(http, f"/infrastructures/{infrastructure}", 2)
        grown = await machines(http, infrastructure)
        assert len(grown) == 3
        async with http.delete(f"/infrastructures/{infrastructure}/vms/{grown[-1]}"):
            pass
        assert await machines(http, infrastructure) == grown[:-1]

        await im.kill()
        await im.start()
        assert await machines(http, infrastructure) == grown[:-1]
        async with http.delete(f"/infrastructures/{infrastructure}"):
            pass


async def test_on_a_full_disk_a_promised_infrastructure_is_forgotten(fault_bed: Bed) -> None:
    im = fault_bed.im
    await im.start()
    async with session(im) as http:
        await create(http, "/infrastructures", 1)
        await im.fill()
        # The manager says yes all the same: exactly what a driver must not take for granted.
        await create(http, "/infrastructures", 1)
        await im.drain()
        await im.kill()
        await im.start()
        async with http.get("/infrastructures") as response:
            kept = (await response.json())["uri-list"]
    assert len(kept) == 1


async def test_wrong_credentials_and_a_cut_wire_are_errors(im: InfrastructureManager) -> None:
    async with aiohttp.ClientSession(im.url) as http, http.get("/infrastructures") as response:
        assert response.status in (400, 401)
    await im.cut(Cut.REFUSE)
    async with aiohttp.ClientSession(im.url) as http:
        with pytest.raises(aiohttp.ClientConnectionError):
            await http.get("/version")
    await im.mend()
    async with session(im) as http, http.get("/version") as response:
        assert response.ok
