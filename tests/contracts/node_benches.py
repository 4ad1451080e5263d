"""The drivers as the contract suite opens them, each over the real thing that it drives.

The servers of the session are noted by fixtures; without one a driver is made for an address that nobody answers at,
which is enough for the suite that only asks of what class they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from penstock.adapters.kubernetes import ClientSettings, KubernetesClient
from penstock.ports import NodeProvider
from scaler.drivers.command import CommandProvider, CommandSpec
from scaler.drivers.im_client import ImClient
from scaler.drivers.infrastructure_manager import InfrastructureManagerProvider
from scaler.drivers.kwok import KwokProvider
from scaler.drivers.radl import Template
from scaler.drivers.simulated import SimulatedProvider
from scaler.pools import Pool
from tests.kubernetes.support import CLUSTER, access
from tests.scaler.building import make_pool
from tests.testbed.im import InfrastructureManager
from tests.testbed.links import Cut

#: The session's Infrastructure Manager.
MANAGERS: list[InfrastructureManager] = []
NETWORK = "network net (outbound = 'no')\ncontextualize ()"
SYSTEM = (
    "cpu.count >= 1 and memory.size >= 512m and net_interface.0.connection = 'net' and "
    "disk.0.image.url = 'dummy://image'"
)


@dataclass
class NodeBench:
    provider: NodeProvider
    #: The same driver as a new process would open it.
    reopen: Callable[[], Awaitable[NodeProvider]]
    #: Names are the bench's own, so that suites do not meet on a shared server.
    prefix: str
    #: Machines that always exist, off; () where the driver knows none.
    hosts: tuple[str, ...] = ()
    #: Makes what the driver drives unreachable while it is open; None where nothing can be.
    cut: Callable[[], contextlib.AbstractAsyncContextManager[None]] | None = None

    def name(self, number: int) -> str:
        return f"{self.prefix}-{number}"


def _prefix(folder: Path) -> str:
    return "n" + hashlib.sha256(str(folder).encode()).hexdigest()[:10]


def _pools(prefix: str) -> tuple[Pool, Pool]:
    return (
        make_pool("made", name_pattern=f"{prefix}-{{n}}", boot_ms=1, boot_timeout_ms=10, stop_ms=1),
        make_pool("hosts", hosts=(f"{prefix}-h1", f"{prefix}-h2"), max=2, boot_ms=1, boot_timeout_ms=10, stop_ms=1),
    )


@contextlib.asynccontextmanager
async def _bench(
    prefix: str,
    make: Callable[[], NodeProvider],
    *,
    hosts: tuple[str, ...] = (),
    cut: Callable[[], contextlib.AbstractAsyncContextManager[None]] | None = None,
) -> AsyncIterator[NodeBench]:
    opened = [make()]

    async def reopen() -> NodeProvider:
        await opened[-1].close()
        opened.append(make())
        return opened[-1]

    try:
        yield NodeBench(opened[0], reopen, prefix, hosts, cut)
    finally:
        for provider in opened:
            await provider.close()


@contextlib.asynccontextmanager
async def simulated(folder: Path) -> AsyncIterator[NodeBench]:
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - a test's own folder
    prefix = _prefix(folder)
    made, hosts = _pools(prefix)

    def make() -> NodeProvider:
        return SimulatedProvider((made, hosts), clock=lambda: time.time_ns() // 1_000_000, file=folder / "machines")

    async with _bench(prefix, make, hosts=hosts.hosts) as bench:
        yield bench


#: A small cloud with a command line, whose machines are files. Tells with "down" whether it can be reached.
CLOUD = """#!{python}
import json, os, pathlib, sys
folder, verb = pathlib.Path(sys.argv[1]), sys.argv[2]
if (folder / "down").exists():
    print("cannot reach the cloud", file=sys.stderr)
    sys.exit(75)
machines = folder / "machines"
machines.mkdir(exist_ok=True)
name = os.environ.get("PENSTOCK_NODE", "")
if verb == "list":
    found = [json.loads(file.read_text()) for file in sorted(machines.glob("*.json"))]
    print(json.dumps(found))
    sys.exit(0)
machine = machines / (name + ".json")
if verb == "add":
    document = {{"name": name, "state": "on", "id": name}}
    document.update(pool=os.environ["PENSTOCK_POOL"], key=os.environ["PENSTOCK_KEY"])
elif verb == "remove":
    machine.unlink(missing_ok=True)
    sys.exit(0)
else:
    document = json.loads(machine.read_text())
    document["state"] = {{"start": "on", "stop": "off"}}[verb]
fresh = machines / (name + "." + str(os.getpid()))
fresh.write_text(json.dumps(document))
os.replace(fresh, machine)
print(json.dumps({{"id": name}}))
"""


@contextlib.asynccontextmanager
async def command(folder: Path) -> AsyncIterator[NodeBench]:
    (folder / "machines").mkdir(parents=True, exist_ok=True)
    prefix = _prefix(folder)
    made, hosts = _pools(prefix)
    cloud = folder / "cloud"
    cloud.write_text(CLOUD.format(python=sys.executable))
    cloud.chmod(0o755)
    for host in hosts.hosts:
        file = folder / "machines" / f"{host}.json"
        if not file.exists():
            file.write_text(f'{{"name": "{host}", "state": "off", "id": "{host}"}}')

    def words(verb: str) -> tuple[str, ...]:
        return (str(cloud), str(folder), verb)

    spec = CommandSpec(
        list=words("list"),
        add=words("add"),
        remove=words("remove"),
        start=words("start"),
        stop=words("stop"),
        timeout_s=60,
    )

    @contextlib.asynccontextmanager
    async def cut() -> AsyncIterator[None]:
        (folder / "down").touch()
        yield
        (folder / "down").unlink()

    async with _bench(
        prefix, lambda: CommandProvider(spec, (made, hosts), environment={}), hosts=hosts.hosts, cut=cut
    ) as bench:
        yield bench


@contextlib.asynccontextmanager
async def kwok(folder: Path) -> AsyncIterator[NodeBench]:
    prefix = _prefix(folder)
    pools = _pools(prefix)
    client = KubernetesClient(access(), ClientSettings(attempt_s=5, patience_s=5))

    @contextlib.asynccontextmanager
    async def cut() -> AsyncIterator[None]:
        await CLUSTER[0].cut(Cut.REFUSE)
        try:
            yield
        finally:
            await CLUSTER[0].mend()

    try:
        async with _bench(
            prefix, lambda: KwokProvider(client, pools, name=prefix), hosts=pools[1].hosts, cut=cut
        ) as bench:
            yield bench
            if CLUSTER:
                await client.request(
                    "DELETE", "/api/v1/nodes", params={"labelSelector": f"penstock.dev/driver={prefix}"}
                )
    finally:
        await client.close()


def im_provider(
    folder: Path, *, driver: str, url: str = "", call_s: float = 20.0, launch_s: float = 60.0
) -> InfrastructureManagerProvider:
    folder.mkdir(parents=True, exist_ok=True)
    authorization = folder / "auth.dat"
    if not authorization.exists():
        lines = MANAGERS[0].authorization.replace("\\n", "\n") if MANAGERS else "id = im; type = InfrastructureManager"
        authorization.write_text(f"# as people write it\n{lines}\n")
    address = url or (MANAGERS[0].url if MANAGERS else "http://127.0.0.1:9")
    client = ImClient(address, authorization, call_s=call_s, launch_s=launch_s)
    templates = {"made": Template(system=SYSTEM, common=NETWORK)}
    return InfrastructureManagerProvider(client, name=driver, templates=templates, file=folder / "infrastructure")


@contextlib.asynccontextmanager
async def infrastructure_manager(folder: Path) -> AsyncIterator[NodeBench]:
    prefix = _prefix(folder)

    @contextlib.asynccontextmanager
    async def cut() -> AsyncIterator[None]:
        await MANAGERS[0].cut(Cut.REFUSE)
        try:
            yield
        finally:
            await MANAGERS[0].mend()

    async with _bench(prefix, lambda: im_provider(folder, driver=prefix), cut=cut) as bench:
        yield bench


ADAPTERS = [
    ("simulated", simulated),
    ("command", command),
    ("kwok", kwok),
    ("infrastructure_manager", infrastructure_manager),
]
