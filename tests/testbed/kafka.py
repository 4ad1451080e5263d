"""Kafka as one KRaft broker: the log that the product stands on in production.

A client asks the broker for its address and then talks to what it is told, so a wire in front of it is only a wire if
the broker names the wire's own address. Hence one listener per way in: direct, through the wire, for the object
store's notifications (a wire of their own, so that they can be lost alone) and for pods.
"""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tests.testbed.building import Words
from tests.testbed.component import LOOPBACK, Component, Member
from tests.testbed.errors import BedError
from tests.testbed.links import Address, Link
from tests.testbed.lookup import obtain
from tests.testbed.probe import connects, log_has
from tests.testbed.processes import Process

if TYPE_CHECKING:
    from tests.testbed.bed import Bed

FORMAT_SECONDS = 60.0

LOGGING = """log4j.rootLogger=INFO, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d %p %m (%c)%n
"""


class Kafka(Component):
    """One broker, which is its own controller."""

    name: ClassVar[str] = "kafka"

    def __init__(self, bed: Bed) -> None:
        super().__init__(bed)
        port = bed.reservations.port
        self.direct = Address(LOOPBACK, port())
        self._behind = {name: Address(LOOPBACK, port()) for name in ("WIRE", "STORE")}
        self._controller = Address(LOOPBACK, port())
        self._store: Link | None = None
        self._storing = asyncio.Lock()
        self._log_before = 0

    @property
    def address(self) -> Address:
        """Where clients connect, through the wire that `slow` and `cut` act on."""
        return self.link.address

    async def address_in_pods(self) -> Address:
        """The broker as seen from pods on the bed's node."""
        return await self.address_for_pods(self._pods_port())

    def env(self) -> dict[str, str]:
        return {"PENSTOCK_TEST_KAFKA_SERVERS": str(self.address)}

    async def store_link(self) -> Link:
        """The wire that the object store's notifications come by; there before the broker, and refusing until then."""
        return await self.bed.loop.call(self._make_store_link())

    async def _make_store_link(self) -> Link:
        async with self._storing:
            if self._store is None:
                self._store = await self.make_link(self._behind["STORE"])
                await self._store.open()
        return self._store

    def _pods_port(self) -> Address:
        return self._behind["PODS"]

    async def prepare(self) -> list[Member]:
        self._link = await self.make_link(self._behind["WIRE"])
        advertised = {"DIRECT": self.direct, "WIRE": self.address, "STORE": (await self.store_link()).address}
        uplink = await self.bed.uplink()
        if uplink is not None:
            pods = Address(LOOPBACK, self.bed.reservations.port())
            self._behind["PODS"] = pods
            advertised["PODS"] = Address(uplink.host_address, pods.port)
            # The same port on the bed's own network, so that one number serves both sides.
            wire = Link(self.bed.loop, [advertised["PODS"]], pods)
            self.bed.links.append(wire)
            await wire.open()
        properties = self.folder / "server.properties"
        properties.write_text(self._properties(advertised))
        (self.folder / "log4j.properties").write_text(LOGGING)
        await self._format(properties)
        argv = [*self._java("-Xmx512m"), "kafka.Kafka", properties]
        return [Member("kafka", argv, self._ready, grace=20)]

    async def before_start(self) -> None:
        log = self.log("kafka")
        self._log_before = log.stat().st_size if log.exists() else 0

    async def _ready(self) -> bool:
        # The port opens before the broker has registered itself; a producer would meet "no leader" in between.
        started = log_has(self.log("kafka"), "Kafka Server started", self._log_before)
        return started and await connects(self.direct)

    def _java(self, *options: str) -> Words:
        jars = obtain("kafka")
        quick = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Djava.awt.headless=true"]
        logging = f"-Dlog4j.configuration=file:{self.folder / 'log4j.properties'}"
        return [obtain("java"), *options, *quick, logging, "-cp", f"{jars}/*"]

    def _properties(self, advertised: dict[str, Address]) -> str:
        listeners = {"DIRECT": self.direct, **self._behind, "CONTROLLER": self._controller}

        def joined(addresses: dict[str, Address]) -> str:
            return ",".join(f"{name}://{address}" for name, address in addresses.items())

        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{self._controller}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "DIRECT",
            "listeners": joined(listeners),
            "advertised.listeners": joined(advertised),
            "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in listeners),
            "log.dirs": str(self.data / "log"),
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            # Fifty partitions of a topic nobody looks at cost a second at every start.
            "offsets.topic.num.partitions": "4",
            # A broker that was killed may register again only when its old session has ended; 9 s by default.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            "transaction.state.log.num.partitions": "4",
        }
        return "".join(f"{key}={value}\n" for key, value in settings.items())

    async def _format(self, properties: Path) -> None:
        # The tool would take an id that begins with a dash for an option.
        cluster = "p" + base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")[1:]
        argv = [*self._java("-Xmx128m"), "kafka.tools.StorageTool", "format", "-t", cluster, "-c", properties]
        process = Process.spawn(self.bed.guardian, "kafka-format", argv, log=self.log("kafka-format"))
        if not await process.ended(FORMAT_SECONDS) or process.exit_code() != 0:
            raise BedError(f"Kafka's folder could not be formatted; see {self.log('kafka-format')}.")
