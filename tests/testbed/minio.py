"""MinIO, as the object store of the tests, with every way of telling about a new object: webhook, Kafka, listen.

Both targets are configured when the server starts, since MinIO takes targets only then, and each leads through a wire
of its own. A test says where the webhook's wire ends (`send_webhooks_to`); the Kafka one ends at the bed's Kafka.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import urllib3
from minio import Minio as Client

from tests.testbed.black_hole import BlackHole
from tests.testbed.building import Words
from tests.testbed.component import LOOPBACK, Component, Member
from tests.testbed.links import Address, Link
from tests.testbed.lookup import obtain
from tests.testbed.probe import http_ok

if TYPE_CHECKING:
    from tests.testbed.bed import Bed

USER, PASSWORD = "testbed", "testbed-secret"


@dataclass
class MinioOptions:
    """What a test may set before the first start."""

    webhook_path: str = "/"
    """Path of the webhook's URL."""
    webhook_token: str = ""
    """What the webhook sends as its bearer token."""
    kafka_topic: str = "minio"
    """Topic of the Kafka target."""
    queue_events: bool = False
    """Keep events that a target did not take in a folder and send them later (`queue_dir`)."""
    targets: bool = True
    """Start with the two notification targets. May be changed before any start: a store that was started without its
    settings serves objects and tells nobody of them."""
    sync_events: bool = False
    """Hand events over before the upload is answered (`MINIO_API_SYNC_EVENTS`)."""


class Minio(Component):
    """One MinIO server on one folder."""

    name: ClassVar[str] = "minio"
    WEBHOOK_ARN: ClassVar[str] = "arn:minio:sqs::TESTBED:webhook"
    QUICK_ARN: ClassVar[str] = "arn:minio:sqs::QUICK:webhook"
    """A webhook target without a queue, over the same wire, with `/quick` behind the path of the first."""
    KAFKA_ARN: ClassVar[str] = "arn:minio:sqs::TESTBED:kafka"

    def __init__(self, bed: Bed) -> None:
        super().__init__(bed)
        self.options = MinioOptions()
        self.user, self.password = USER, PASSWORD
        self.direct = Address(LOOPBACK, bed.reservations.port())
        self._webhook: Link | None = None
        self._receiver: Address | None = None
        self._losing = False
        self._hole = BlackHole(bed.loop, Address(LOOPBACK, bed.reservations.port()))
        bed.links.append(self._hole)
        self.queue = self.folder / "queue"

    @property
    def address(self) -> Address:
        """Where clients connect, through the wire that `slow` and `cut` act on."""
        return self.link.address

    @property
    def url(self) -> str:
        """The same as a URL."""
        return f"http://{self.address}"

    async def url_for_pods(self) -> str:
        """The same as seen from pods on the bed's node."""
        return f"http://{await self.address_for_pods(self.address)}"

    def client(self, *, direct: bool = False) -> Client:
        """minio-py's client, which reports an error at once instead of trying again; `direct` spares the wire."""
        address = self.direct if direct else self.address
        pool = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=5, read=60))
        return Client(
            endpoint=str(address), access_key=self.user, secret_key=self.password, secure=False, http_client=pool
        )

    def env(self) -> dict[str, str]:
        return {
            "PENSTOCK_TEST_MINIO_URL": self.url,
            "PENSTOCK_TEST_MINIO_USER": self.user,
            "PENSTOCK_TEST_MINIO_PASSWORD": self.password,
        }

    async def send_webhooks_to(self, address: Address | None) -> None:
        """Where the webhook target's wire ends; None as long as nobody listens."""
        self._receiver = address
        if not self._losing:
            await self.webhook.lead_to(address)

    @property
    def webhook(self) -> Link:
        """The wire of the webhook target."""
        assert self._webhook is not None, "MinIO was not started"
        return self._webhook

    @property
    def swallowed(self) -> int:
        """How many webhook events were lost."""
        return self._hole.swallowed

    async def lose_events(self) -> None:
        """From now on webhook events vanish, Kafka is cut off, and uploads go on as if nothing was."""
        self._losing = True
        await self._hole.open()
        await self._lead_webhook_to(self._hole.address)
        await (await self.bed.kafka.store_link()).cut()

    async def deliver_events(self) -> None:
        """End of `lose_events`: new events flow again. One that is under way at this moment may still arrive."""
        self._losing = False
        for waiting in self.queued_events():
            waiting.unlink(missing_ok=True)
        await self._lead_webhook_to(self._receiver)
        await (await self.bed.kafka.store_link()).mend()

    async def _lead_webhook_to(self, address: Address | None) -> None:
        # Cut first: the sender keeps its connections, and would go on talking to the old end.
        await self.webhook.cut()
        await self.webhook.lead_to(address)
        await self.webhook.mend()

    async def prepare(self) -> list[Member]:
        self._link = await self.make_link(self.direct, for_pods=True)
        self._webhook = await self.make_link(None)
        await self._webhook.open()
        kafka = await self.bed.kafka.store_link()
        server: Words = [obtain("minio"), "server", self.data, "--address", str(self.direct), "--quiet"]

        async def ready() -> bool:
            # Only this check waits until the buckets' notification rules are loaded.
            return await http_ok(f"http://{self.direct}/minio/health/cluster")

        self._kafka = kafka.address
        return [Member("minio", server, ready)]

    async def before_start(self) -> None:
        settings = self._settings(self._kafka)
        if not self.options.targets:
            settings = {name: value for name, value in settings.items() if not name.startswith("MINIO_NOTIFY_")}
        self._members["minio"].env = settings

    def _settings(self, kafka: Address) -> dict[str, str]:
        options = self.options
        settings = {
            "MINIO_ROOT_USER": self.user,
            "MINIO_ROOT_PASSWORD": self.password,
            "MINIO_BROWSER": "off",
            # Rules are loaded before the first request is served.
            "MINIO_SYNC_BOOT": "on",
            "MINIO_API_SYNC_EVENTS": "on" if options.sync_events else "off",
            "MINIO_NOTIFY_WEBHOOK_ENABLE_TESTBED": "on",
            "MINIO_NOTIFY_WEBHOOK_ENDPOINT_TESTBED": f"http://{self.webhook.address}{options.webhook_path}",
            "MINIO_NOTIFY_WEBHOOK_AUTH_TOKEN_TESTBED": options.webhook_token,
            "MINIO_NOTIFY_WEBHOOK_ENABLE_QUICK": "on",
            "MINIO_NOTIFY_WEBHOOK_ENDPOINT_QUICK": f"http://{self.webhook.address}{options.webhook_path.rstrip('/')}/quick",
            "MINIO_NOTIFY_WEBHOOK_AUTH_TOKEN_QUICK": options.webhook_token,
            "MINIO_NOTIFY_KAFKA_ENABLE_TESTBED": "on",
            "MINIO_NOTIFY_KAFKA_BROKERS_TESTBED": str(kafka),
            "MINIO_NOTIFY_KAFKA_TOPIC_TESTBED": options.kafka_topic,
            # Without these two the server asks public addresses for its licence and for updates.
            "MINIO_UPDATE": "off",
            "MINIO_CALLHOME_ENABLE": "off",
            "HOME": str(self.folder),
        }
        if options.queue_events:
            for target in ("WEBHOOK", "KAFKA"):
                folder = self.queue / target.lower()
                folder.mkdir(parents=True, exist_ok=True)
                settings[f"MINIO_NOTIFY_{target}_QUEUE_DIR_TESTBED"] = str(folder)
        return settings

    def queued_events(self) -> list[Path]:
        """Events that wait in the server's own queue folder."""
        return [file for file in self.queue.rglob("*.event*") if file.is_file()]
