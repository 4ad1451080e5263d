"""The gateway as its own process over a real object store, log and API server; and the edge profile in one process."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from minio import Minio as MinioClient
from minio.error import S3Error

from gateway.__main__ import Service
from penstock import settings as penstock_settings
from penstock.settings import Settings
from tests.kubernetes import support
from tests.oscar.issuer import AUDIENCE, Issuer
from tests.oscar.world import service
from tests.testbed.kafka import Kafka
from tests.testbed.kubernetes import Kubernetes
from tests.testbed.minio import Minio

pytestmark = [pytest.mark.components, pytest.mark.slow]

PASSWORD = "a password of the administrator"
PATIENCE_S = 120.0


class Caller:
    def __init__(self, session: aiohttp.ClientSession, credential: str) -> None:
        self._session = session
        self._headers = {"Authorization": credential}

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        async with self._session.request(method, path, data=data, headers=self._headers) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if "json" in answer.content_type else text


class Place:
    """Where a test's gateway lives: names of its own in the shared servers."""

    def __init__(self, folder: Path, minio: Minio, kafka: Kafka | None, kubernetes: Kubernetes, namespace: str) -> None:
        self.folder = folder
        self.minio = minio
        self.kafka = kafka
        self.kubernetes = kubernetes
        self.namespace = namespace
        self.issuer = Issuer()
        #: Buckets are the whole store's: each test needs names of its own.
        self.mark = secrets.token_hex(3)
        secret = folder / "admin"
        secret.mkdir()
        (secret / "password").write_text(PASSWORD)

    def settings(self) -> Settings:
        settings = penstock_settings.override(Settings(), "http", listen="127.0.0.1:0")
        settings = penstock_settings.override(settings, "service", listen="127.0.0.1:0")
        settings = penstock_settings.override(
            settings,
            "gateway",
            credentials_dir=self.folder / "admin",
            oidc_issuers=self.issuer.address,
            oidc_audience=AUDIENCE,
        )
        user, password = self.minio.user, self.minio.password
        settings = penstock_settings.override(
            settings, "s3", endpoint=self.minio.url, access_key=user, secret_key=password
        )
        if self.kafka is not None:
            settings = penstock_settings.override(
                settings, "kafka", servers=str(self.kafka.address), prefix=f"{self.mark}-", partitions=2
            )
        settings = penstock_settings.override(
            settings, "kubernetes", kubeconfig=self.kubernetes.kubeconfig, namespace=self.namespace
        )
        return penstock_settings.override(settings, "state", data=self.folder / "state")

    @asynccontextmanager
    async def serving(self, *, edge: bool = False) -> AsyncIterator[aiohttp.ClientSession]:
        """A running service that is ready."""
        async with self.issuer.serving():
            running = Service(self.settings(), edge=edge)
            task = asyncio.create_task(running.run(), name="gateway under test")
            try:
                async with asyncio.timeout(PATIENCE_S):
                    wait = asyncio.create_task(running.serving.wait(), name="until it serves")
                    await asyncio.wait({task, wait}, return_when=asyncio.FIRST_COMPLETED)
                    wait.cancel()
                    if task.done():
                        task.result()
                    async with aiohttp.ClientSession(base_url=running.address) as session:
                        await _ready(session)
                        yield session
            finally:
                running.stop()
                await task


async def _ready(session: aiohttp.ClientSession) -> None:
    while True:
        async with session.get("/ready") as answer:
            if answer.status == 200:
                return
        await asyncio.sleep(0.1)


def admin(session: aiohttp.ClientSession) -> Caller:
    return Caller(session, aiohttp.encode_basic_auth("oscar", PASSWORD))


@pytest.fixture
async def namespace(kubernetes: Kubernetes) -> str:
    await support.use(kubernetes)
    async with support.client() as client:
        return await support.make_namespace(client, f"gateway-{secrets.token_hex(3)}", pods=True)


@pytest.fixture
async def place(tmp_path: Path, minio: Minio, kafka: Kafka, kubernetes: Kubernetes, namespace: str) -> Place:
    return Place(tmp_path, minio, kafka, kubernetes, namespace)


async def test_the_core_routes_over_real_servers(place: Place) -> None:
    name = f"thumbs-{place.mark}"
    async with place.serving() as session:
        caller = admin(session)
        assert (await caller.ask("GET", "/system/info"))[1]["kubernetes_version"].startswith("v")
        assert (await Caller(session, aiohttp.encode_basic_auth("oscar", "wrong")).ask("GET", "/system/info"))[0] == 401
        assert (await caller.ask("POST", "/system/services", service(name)))[0] == 201
        assert (await caller.ask("POST", "/system/services", service(name)))[0] == 409
        status, shown = await caller.ask("GET", f"/system/services/{name}")
        assert (status, shown["cpu"], len(shown["token"])) == (200, "0.1", 64)
        assert (await caller.ask("PUT", "/system/services", service(name, cpu=0.5)))[0] == 204
        assert (await caller.ask("GET", f"/system/services/{name}"))[1]["cpu"] == "0.5"
        _, page = await caller.ask("GET", f"/system/buckets/{name}")
        assert [one["object_name"] for one in page["objects"]] == ["in/", "out/"], "the markers of its folders"
        holder = Caller(session, f"Bearer {shown['token']}")
        status, accepted = await holder.ask("POST", f"/job/{name}", b"aGVsbG8=")
        assert status == 201
        _, listed = await caller.ask("GET", f"/system/logs/{name}")
        assert listed["jobs"][accepted["job_id"]]["status"] == "Pending", "listed at once"
        status, told = await caller.ask("GET", "/v1/status")
        assert (status, told["events_pending"]) == (200, 1)
        status, whole = await caller.ask("GET", "/system/status")
        assert (status, whole["minio"]["buckets_count"] >= 1, whole["oscar"]["ready"]) == (200, True, True)
        assert (await caller.ask("DELETE", f"/system/services/{name}"))[0] == 204
        assert (await caller.ask("GET", f"/system/services/{name}"))[0] == 404
        _, page = await caller.ask("GET", f"/system/buckets/{name}")
        assert page["objects"] == [], "the bucket stays, its empty markers are gone"


async def test_what_was_accepted_is_found_again_by_the_next_life(place: Place) -> None:
    name = f"lasting-{place.mark}"
    async with place.serving() as session:
        assert (await admin(session).ask("POST", "/system/services", service(name)))[0] == 201
        large = b"e" * 100_000
        assert (await admin(session).ask("POST", f"/job/{name}", large))[0] == 201
    assert list(place.minio.client().list_objects("penstock-system", "payloads/", recursive=True)), (
        "a large body is an object, and the event refers to it"
    )
    async with place.serving() as session:
        assert (await admin(session).ask("GET", f"/system/services/{name}"))[0] == 200
        assert (await admin(session).ask("GET", "/v1/status"))[1]["events_pending"] == 1


def objects(client: MinioClient, bucket: str) -> list[str]:
    return sorted(str(one.object_name) for one in client.list_objects(bucket, recursive=True))


async def test_each_caller_gets_a_store_account_that_opens_what_he_may_use(place: Place) -> None:
    mine, theirs = f"mine-{place.mark}", f"theirs-{place.mark}"
    async with place.serving() as session:
        alice = Caller(session, f"Bearer {place.issuer.token('alice')}")
        bob = Caller(session, f"Bearer {place.issuer.token('bob')}")
        assert (await alice.ask("POST", "/system/buckets", {"bucket_name": mine}))[0] == 201
        assert (await bob.ask("POST", "/system/buckets", {"bucket_name": theirs}))[0] == 201
        accounts = {}
        for who, caller in (("alice", alice), ("bob", bob), ("admin", admin(session))):
            status, told = await caller.ask("GET", "/system/config")
            assert status == 200, told
            accounts[who] = told["minio_provider"]
        again = (await alice.ask("GET", "/system/config"))[1]["minio_provider"]
        assert again == accounts["alice"], "the same each time"
        link = {"object_key": "by link.txt", "operation": "upload", "expires": 60}
        status, presigned = await alice.ask("POST", f"/system/buckets/{mine}/presign", link)
        assert status == 200, presigned
        async with aiohttp.ClientSession() as anybody, anybody.put(presigned["url"], data=b"data") as put:
            assert put.status == 200
    keys = {one["access_key"] for one in accounts.values()}
    assert len(keys) == 3
    assert place.minio.user not in keys, "never the store's root"
    clients = {
        who: MinioClient(
            account["endpoint"].removeprefix("http://"),
            access_key=account["access_key"],
            secret_key=account["secret_key"],
            secure=False,
        )
        for who, account in accounts.items()
    }
    assert await asyncio.to_thread(objects, clients["alice"], mine) == ["by link.txt"]
    assert await asyncio.to_thread(objects, clients["admin"], mine) == ["by link.txt"]
    for who, bucket in (("bob", mine), ("alice", theirs), ("alice", "penstock-system"), ("admin", "penstock-system")):
        with pytest.raises(S3Error, match="Access Denied"):
            await asyncio.to_thread(objects, clients[who], bucket)


async def test_the_edge_profile_runs_everything_in_one_process(
    tmp_path: Path, minio: Minio, kubernetes: Kubernetes, namespace: str
) -> None:
    """An upload becomes an invocation and a Job of the cluster; nothing here plays the node that would run it."""
    place = Place(tmp_path, minio, None, kubernetes, namespace)
    name = f"edge-{place.mark}"
    async with place.serving(edge=True) as session:
        caller = admin(session)
        status, told = await caller.ask("POST", "/system/services", service(name))
        assert status == 201, told
        status, told = await caller.ask("POST", f"/job/{name}", b"aGVsbG8=")
        assert status == 201, told
        async with asyncio.timeout(PATIENCE_S):
            while True:
                _, shown = await caller.ask("GET", f"/v1/invocations/{told['job_id']}")
                if shown.get("phase") == "submitted":
                    break
                await asyncio.sleep(0.2)
        assert shown["job"].startswith(name)


async def test_it_waits_for_what_is_away_and_says_so(place: Place) -> None:
    """No broker there: alive, not ready, and the reason is told."""
    settings = place.settings()
    settings = penstock_settings.override(settings, "kafka", servers="127.0.0.1:1")
    settings = penstock_settings.override(settings, "gateway", oidc_issuers="")
    running = Service(settings, edge=False)
    task = asyncio.create_task(running.run(), name="gateway without a log")
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not running.address:
                await asyncio.sleep(0.05)
            async with aiohttp.ClientSession(base_url=running.address) as session:
                async with session.get("/health") as answer:
                    assert answer.status == 200
                async with session.get("/ready") as answer:
                    assert answer.status == 503
    finally:
        running.stop()
        await task
