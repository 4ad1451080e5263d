"""What every component has in common: start until ready, faults, restart with the same data and ports, close.

A component is one or more programs (`Member`) on ports and a folder that stay the same for the bed's whole life, so a
client that was told an address once can go on using it through any fault. The verbs are those of issue reports: `kill`
(SIGKILL), `stop` and `resume` (SIGSTOP, SIGCONT), `restart`, `slow`, `cut` and `mend` (the wire), `fill` and `drain`
(the disk). Each takes names of members to reach only some.
"""

from __future__ import annotations

import asyncio
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tests.testbed.building import output_of
from tests.testbed.errors import BedError, MissingPart, log_tail
from tests.testbed.links import Address, Cut, Link
from tests.testbed.lookup import may_make_namespaces, require
from tests.testbed.processes import POLL_SECONDS, Process
from tests.testbed.uplink import run_inside

if TYPE_CHECKING:
    from tests.testbed.bed import Bed

LOOPBACK = "127.0.0.1"
READY_SECONDS = 60.0


@dataclass
class Member:
    """One program of a component, and how to tell that it is ready."""

    name: str
    argv: Sequence[str | Path]
    ready: Callable[[], Awaitable[bool]]
    env: Mapping[str, str] = field(default_factory=dict)
    inside: bool = False
    """Whether it lives in the node's namespaces."""
    grace: float = 10.0
    """Seconds between the polite and the other signal when the bed closes."""
    seconds: float = READY_SECONDS
    """How long it may take until it is ready."""


class Component(ABC):
    """One component of a bed; made by the bed, started on first use."""

    name: ClassVar[str]
    lives_inside: ClassVar[bool] = False
    """Whether its programs run in the node's namespaces, if the bed has any, and see only what is mounted there."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.folder = bed.folder / self.name
        self.data = self.folder / "data"
        self.processes: dict[str, Process] = {}
        self._members: dict[str, Member] = {}
        self._link: Link | None = None
        self._starting = asyncio.Lock()
        self._ballast = self.data / "penstock-testbed-ballast"

    # What a component says about itself

    @abstractmethod
    async def prepare(self) -> list[Member]:
        """Once, before the first start: reserve ports, write configuration, and say which programs to run."""

    async def before_start(self) -> None:  # noqa: B027 - most components have nothing to do here
        """Before every start, the first included."""

    async def after_start(self) -> None:  # noqa: B027 - nor here
        """When every member is ready."""

    def env(self) -> dict[str, str]:
        """The environment variables by which a program finds this component."""
        return {}

    # Life

    @property
    def prepared(self) -> bool:
        """Whether it was ever started."""
        return bool(self._members)

    async def start(self) -> None:
        """Start what does not run, and return when all of it is ready; safe to call from several places at once."""
        await self.bed.loop.call(self._start())

    async def _start(self) -> None:
        async with self._starting:
            await self._start_all()

    async def _start_all(self) -> None:
        if not self.prepared:
            # Building may take minutes and is blocking work.
            await asyncio.to_thread(require, self.name)
            self.data.mkdir(parents=True, exist_ok=True)
            if self.bed.disk_mb is not None:
                await self._mount_small_disk(self.bed.disk_mb)
            self._members = {member.name: member for member in await self.prepare()}
            self.bed.started(self)
        await self.before_start()
        for member in self._members.values():
            await self._start_member(member)
        if self._link is not None:
            await self._link.open()
        await self.after_start()

    async def close(self) -> None:
        """Stop every program in order, the last first; data and ports stay."""
        for member in reversed(self._members.values()):
            process = self.processes.get(member.name)
            if process is not None:
                await process.close(member.grace)

    async def restart(self, *names: str) -> None:
        """Stop in order and start again, with the same data on the same ports."""
        for member in reversed(self._chosen(names)):
            await self.processes[member.name].close(member.grace)
        await self.start()

    # Faults

    async def kill(self, *names: str) -> None:
        """SIGKILL; `start` brings it back."""
        for member in reversed(self._chosen(names)):
            await self.processes[member.name].kill()

    async def stop(self, *names: str) -> None:
        """SIGSTOP: alive, but answers nothing until `resume`."""
        for member in self._chosen(names):
            self.processes[member.name].signal(signal.SIGSTOP)

    async def resume(self, *names: str) -> None:
        """End of `stop`."""
        for member in self._chosen(names):
            self.processes[member.name].signal(signal.SIGCONT)

    async def slow(self, seconds: float) -> None:
        """Delay all that passes between clients and the component, in each direction."""
        await self.link.slow(seconds)

    async def cut(self, how: Cut = Cut.REFUSE) -> None:
        """Cut clients off until `mend`: connections refused, or silently dropped."""
        await self.link.cut(how)

    async def mend(self) -> None:
        """End `slow` and `cut`."""
        await self.link.mend()

    async def fill(self) -> None:
        """Leave no free byte on the component's disk; needs a bed with `disk_mb`, lest the machine's own disk fill."""
        if self.bed.disk_mb is None:
            raise BedError(f"{self.name} has no disk of its own to fill: make the bed with Bed(disk_mb=...).")
        with self._ballast.open("ab", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(bytes(4096))
            except OSError:
                return  # No space left: what was asked for.

    async def drain(self) -> None:
        """End of `fill`."""
        self._ballast.unlink(missing_ok=True)

    # What subclasses use

    @property
    def link(self) -> Link:
        """The wire between clients and the component."""
        if self._link is None:
            raise BedError(f"{self.name} is not started or has no wire of its own.")
        return self._link

    async def make_link(self, upstream: Address | None, *, for_pods: bool = False) -> Link:
        """A wire on a free port of loopback; with `for_pods` also on the bed's own network, if it has one."""
        port = self.bed.reservations.port()
        listen = [Address(LOOPBACK, port)]
        uplink = await self.bed.uplink() if for_pods else None
        if uplink is not None:
            listen.append(Address(uplink.host_address, port))
        link = Link(self.bed.loop, listen, upstream)
        self.bed.links.append(link)
        return link

    async def address_for_pods(self, address: Address) -> Address:
        """The same wire, as it is seen from pods."""
        uplink = await self.bed.uplink()
        if uplink is None:
            raise MissingPart("Pods need a node, and a node needs root with CAP_NET_ADMIN and CAP_SYS_ADMIN.")
        return Address(uplink.host_address, address.port)

    def log(self, member: str) -> Path:
        """Where a member's output goes."""
        return self.bed.logs / f"{member}.log"

    def _chosen(self, names: Sequence[str]) -> list[Member]:
        if not self.processes:
            raise BedError(f"{self.name} was not started.")
        unknown = set(names) - set(self._members)
        if unknown:
            raise BedError(f"{self.name} has {', '.join(self._members)}, but no {', '.join(sorted(unknown))}.")
        return [member for name, member in self._members.items() if not names or name in names]

    async def _start_member(self, member: Member) -> None:
        known = self.processes.get(member.name)
        if known is not None and known.running:
            return
        uplink = await self.bed.uplink() if member.inside else None
        inside = uplink.init if uplink is not None else None
        process = Process.spawn(
            self.bed.guardian, member.name, member.argv, log=self.log(member.name), env=member.env, inside=inside
        )
        self.processes[member.name] = process
        await self._until_ready(member, process)

    async def _until_ready(self, member: Member, process: Process) -> None:
        deadline = time.monotonic() + member.seconds
        while not await member.ready():
            code = process.exit_code()
            if code is not None:
                self.bed.failed = True
                raise BedError(f"{member.name} ended with {code} while starting.\n{log_tail(process.log)}")
            if time.monotonic() > deadline:
                self.bed.failed = True
                late = f"{member.name} was not ready after {member.seconds:.0f} s."
                raise BedError(f"{late}\n{log_tail(process.log)}")
            await asyncio.sleep(POLL_SECONDS)

    async def _mount_small_disk(self, megabytes: int) -> None:
        if not may_make_namespaces():
            raise MissingPart(f"{self.name}: a disk that can fill up is a small mount, and to mount takes root.")
        options = f"size={megabytes}m"
        uplink = await self.bed.uplink() if self.lives_inside else None
        if uplink is not None:
            await run_inside(self.bed, uplink.init, f"mount -t tmpfs -o {options} penstock-testbed {self.data}")
            # The mount is the node's alone; seen from here it lies below its init's root.
            self._ballast = Path(f"/proc/{uplink.init}/root{self._ballast}")
            return
        self.bed.guardian.ask("at_exit", argv=["umount", "--lazy", str(self.data)])
        await asyncio.to_thread(output_of, ["mount", "-t", "tmpfs", "-o", options, "penstock-testbed", self.data])
