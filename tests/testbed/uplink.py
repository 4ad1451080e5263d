"""The bed's own piece of network: namespaces for the node, and the wire between them and this host.

A node wants a bridge, routes, firewall chains with fixed names, mounts under fixed paths. In network, mount and PID
namespaces of its own all of that is private to one bed, two beds cannot meet, and everything is gone with the
namespaces' init. One veth pair, named after the bed's slot, leads to this host; addresses come from the slot as well.
There is no default route: what runs inside reaches this host and itself, and nothing beyond.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.testbed.errors import BedError, log_tail
from tests.testbed.lookup import obtain
from tests.testbed.ports import SLOTS
from tests.testbed.processes import Process

if TYPE_CHECKING:
    from tests.testbed.bed import Bed

FIRST_RANGE = 100
BRIDGE = "cni0"
INSIDE_SECONDS = 20.0


@dataclass(frozen=True)
class Uplink:
    """The addresses of one bed, and the init of its namespaces."""

    slot: int
    init: int

    @property
    def prefix(self) -> str:
        """The first half of every address of this bed."""
        return f"10.{FIRST_RANGE + self.slot}"

    @property
    def host_address(self) -> str:
        """This host, as the node and its pods see it."""
        return f"{self.prefix}.255.1"

    @property
    def node_address(self) -> str:
        """The node."""
        return f"{self.prefix}.255.2"

    @property
    def bridge_address(self) -> str:
        """The bridge that pods hang on: their gateway and their name server."""
        return f"{self.prefix}.0.1"

    @property
    def pod_range(self) -> str:
        """Where pods get addresses."""
        return f"{self.prefix}.0.0/20"

    @property
    def service_range(self) -> str:
        """Where Services get addresses."""
        return f"{self.prefix}.128.0/20"

    @property
    def device(self) -> str:
        """The host's end of the wire."""
        return f"penstock{self.slot}"


def _ranges_in_use(ip: Path) -> frozenset[int]:
    """Slots whose addresses this machine already routes somewhere."""
    told = subprocess.run([ip, "-4", "route", "show", "table", "all"], capture_output=True, text=True, check=True)
    used = {word.split(".")[1] for word in told.stdout.split() if word.startswith("10.") and word.count(".") >= 2}
    return frozenset(slot for slot in range(SLOTS) if str(FIRST_RANGE + slot) in used)


async def run_inside(bed: Bed, init: int, script: str) -> None:
    """Run a shell script in the namespaces, and fail with its words."""
    log = bed.logs / "namespaces.log"
    process = Process.spawn(bed.guardian, "namespaces", ["sh", "-exc", script], log=log, inside=init)
    if not await process.ended(INSIDE_SECONDS) or process.exit_code() != 0:
        raise BedError(f"The node's network could not be set up.\n{log_tail(log)}")


async def make_uplink(bed: Bed) -> Uplink:
    """Namespaces, the wire, and routes to pods and Services, so that tests reach both by their addresses."""
    ip = obtain("ip")
    slot = bed.reservations.slot(_ranges_in_use(ip))
    init = int(bed.guardian.ask("namespaces")["init"])
    link = Uplink(slot, init)
    host = [
        # A bed whose guardian was killed leaves nothing, but the kernel takes a moment to drop its devices.
        f"link add {link.device} type veth peer name eth0 netns {init}",
        f"address add {link.host_address}/30 dev {link.device}",
        f"link set {link.device} up",
    ]
    inside = f"""
    {ip} link set lo up
    {ip} address add {link.node_address}/30 dev eth0
    {ip} link set eth0 up
    {ip} link add {BRIDGE} type bridge
    {ip} address add {link.bridge_address}/20 dev {BRIDGE}
    {ip} link set {BRIDGE} up
    echo 1 > /proc/sys/net/ipv4/ip_forward
    """
    routes = [f"route add {where} via {link.node_address}" for where in (link.pod_range, link.service_range)]
    _ip(ip, host)
    await run_inside(bed, init, inside)
    _ip(ip, routes)
    return link


def _ip(ip: Path, commands: list[str]) -> None:
    for command in commands:
        done = subprocess.run([ip, *command.split()], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BedError(f"ip {command} failed: {done.stderr.strip()}")
