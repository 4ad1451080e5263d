"""The whole production path as a user runs it: watcher and dispatcher as processes of their own on a bed.

Everything that this starts is real: `python -m watcher` and `python -m dispatcher`, MinIO, Kafka, the API server, and
either the real node with our image and its sidecars, or simulated nodes whose pods all succeed. The tests look from
outside: an S3 client that uploads, the custom resources, and a reader of the history that is nobody's ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from minio import Minio as MinioClient

from penstock.adapters.kafka import KafkaEventLog, KafkaSettings
from penstock.adapters.kubernetes import KubernetesClient, from_kubeconfig
from penstock.adapters.kubernetes.client import encode
from penstock.errors import AlreadyExists, NotFound, PenstockError
from penstock.model import Record
from tests.production.history import History
from tests.testbed.bed import Bed
from tests.testbed.images import BUSYBOX, PROJECT
from tests.testbed.links import Address
from tests.testbed.paths import REPOSITORY
from tests.testbed.probe import http_ok
from tests.testbed.prometheus import total

CRD = REPOSITORY / "helm" / "penstock" / "crds" / "functions.yaml"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
PATIENCE_S = 120.0
ADMIN_PASSWORD = "a password of the administrator"

Json = dict[str, Any]


async def eventually(what: str, check: Callable[[], Awaitable[bool]], seconds: float = PATIENCE_S) -> None:
    """Wait for something seen from outside. Fails with what was waited for."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not await check():
        assert loop.time() < deadline, f"after {seconds:g} s still not so: {what}"
        await asyncio.sleep(0.1)


class Process:
    """One of our services, with its output in a file."""

    def __init__(
        self, module: str, env: Mapping[str, str], folder: Path, probes: Address, arguments: Sequence[str] = ()
    ) -> None:
        self.module = module
        self.arguments = tuple(arguments)
        self.env = dict(env)
        #: Where users reach it; only the gateway has such an address.
        self.address = f"http://{env['PENSTOCK_HTTP_LISTEN']}" if "PENSTOCK_HTTP_LISTEN" in env else ""
        self.output = folder / f"{module}-{uuid.uuid4().hex[:4]}.log"
        self.probes = probes
        self._running: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self.output.open("ab") as output:
            command = (sys.executable, "-m", self.module, *self.arguments)
            self._running = await asyncio.create_subprocess_exec(
                *command, env=self.env, stdout=output, stderr=output, cwd=REPOSITORY
            )

    @property
    def pid(self) -> int:
        assert self._running is not None, f"{self.module} was not started"
        return self._running.pid

    @property
    def ended(self) -> bool:
        """It was started and does not run any more."""
        return self._running is not None and self._running.returncode is not None

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def kill(self) -> None:
        """SIGKILL, as a power loss would do; what was stopped by SIGSTOP dies too."""
        if self._running is not None and self._running.returncode is None:
            self._running.kill()
            await self._running.wait()

    async def end(self) -> int:
        """SIGTERM, as Kubernetes does; returns the exit code."""
        assert self._running is not None
        if self._running.returncode is None:
            self._running.terminate()
            self._running.send_signal(signal.SIGCONT)
        async with asyncio.timeout(60):
            return await self._running.wait()

    async def exited(self) -> int:
        """The exit code, once it has ended by itself."""
        assert self._running is not None
        async with asyncio.timeout(60):
            return await self._running.wait()

    async def ready(self, seconds: float = PATIENCE_S) -> None:
        async def check() -> bool:
            assert self._running is not None
            assert self._running.returncode is None, f"{self.module} ended:\n{self.tail()}"
            return await http_ok(f"http://{self.probes}/ready")

        try:
            await eventually(f"{self.module} is ready", check, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{await self.why()}\n{self.tail()}") from error

    async def why(self) -> str:
        """What `/ready` says."""
        with contextlib.suppress(aiohttp.ClientError, OSError):
            async with aiohttp.ClientSession() as session, session.get(f"http://{self.probes}/ready") as answer:
                return await answer.text()
        return "no answer"

    async def metric(self, name: str) -> float:
        """Sum of a metric over its labels, 0 = not there."""
        async with aiohttp.ClientSession() as session, session.get(f"http://{self.probes}/metrics") as answer:
            return total(await answer.text(), name)

    def tail(self) -> str:
        return self.output.read_text(errors="replace")[-4000:] if self.output.exists() else ""


class Platform:
    """One installation. `real` = the node with sidecars, else simulated pods, which all succeed."""

    def __init__(self, bed: Bed, folder: Path, *, real: bool, settings: Mapping[str, str] | None = None) -> None:
        self.bed = bed
        self.folder = folder
        self.real = real
        self.mark = uuid.uuid4().hex[:8]
        self.namespace = f"functions-{self.mark}"
        self.extra = dict(settings or {})
        self.processes: list[Process] = []
        self._stack = AsyncExitStack()
        self._pod_store = ""

    # ---- parts

    @property
    def s3(self) -> MinioClient:
        return self.bed.minio.client()

    @property
    def watcher(self) -> Process:
        return next(one for one in self.processes if one.module == "watcher")

    @property
    def dispatcher(self) -> Process:
        return next(one for one in self.processes if one.module == "dispatcher")

    def env(self) -> dict[str, str]:
        """The settings of every service, as an operator would give them."""
        minio, kubernetes = self.bed.minio, self.bed.kubernetes
        jobs = {
            "PENSTOCK_JOBS_SIDECAR_IMAGE": PROJECT,
            "PENSTOCK_JOBS_PULL_POLICY": "IfNotPresent",
            "PENSTOCK_JOBS_DEFAULT_IMAGE": BUSYBOX,
        }
        if not self.real:
            jobs |= {"PENSTOCK_JOBS_RESULTS": "pod", "PENSTOCK_JOBS_NODE_SELECTOR": '{"type": "kwok"}'}
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")},
            "PYTHONUNBUFFERED": "1",
            "PENSTOCK_S3_ENDPOINT": minio.url,
            "PENSTOCK_S3_POD_ENDPOINT": self._pod_store,
            "PENSTOCK_S3_ACCESS_KEY": minio.user,
            "PENSTOCK_S3_SECRET_KEY": minio.password,
            **self.brokers(),
            "PENSTOCK_KUBERNETES_KUBECONFIG": str(kubernetes.kubeconfig),
            "PENSTOCK_KUBERNETES_NAMESPACE": self.namespace,
            "PENSTOCK_NOTIFY_ARN": minio.WEBHOOK_ARN,
            "PENSTOCK_NOTIFY_PATH": minio.options.webhook_path,
            "PENSTOCK_NOTIFY_RULE_PREFIX": self.mark,
            "PENSTOCK_WATCHER_LISTING_MIN_S": "5",
            **jobs,
            **self.extra,
        }

    def brokers(self) -> dict[str, str]:
        """The settings of the log."""
        return {
            "PENSTOCK_KAFKA_SERVERS": str(self.bed.kafka.address),
            "PENSTOCK_KAFKA_PREFIX": f"{self.mark}.",
        }

    # ---- life

    async def open(self) -> None:
        await self.bed.start("minio", "kafka", "kubernetes")
        if self.real:
            await self.bed.start("network")
            await self.bed.images.project()
            self._pod_store = await self.bed.minio.url_for_pods()
        else:
            await self.bed.start("kwok")
        access = from_kubeconfig(self.bed.kubernetes.kubeconfig)
        self.api = KubernetesClient(access)
        self._stack.push_async_callback(self.api.close)
        self._stack.push_async_callback(self.bed.minio.send_webhooks_to, None)
        self._stack.push_async_callback(self._remove)
        await self._install()
        self.log = KafkaEventLog(KafkaSettings(servers=str(self.bed.kafka.address), prefix=f"{self.mark}."))
        self._stack.push_async_callback(self.log.close)
        self.history = History(self.log)

    async def _install(self) -> None:
        with contextlib.suppress(AlreadyExists):
            await self.api.send("POST", DEFINITIONS, yaml.safe_load(CRD.read_text(encoding="utf-8")))

        async def established() -> bool:
            try:
                found = await self.api.get(f"{DEFINITIONS}/functions.penstock.dev")
            except NotFound:
                return False
            conditions = found.get("status", {}).get("conditions") or ()
            return any((one["type"], one["status"]) == ("Established", "True") for one in conditions)

        await eventually("the custom resource is established", established)
        await self.bed.kubernetes.make_namespace(self.namespace)

    def admin(self) -> Path:
        """The administrator's credential, as a mounted Secret has it."""
        secret = self.folder / "admin"
        if not secret.exists():
            secret.mkdir()
            (secret / "password").write_text(ADMIN_PASSWORD)
        return secret

    async def start(self, module: str, *arguments: str, **env: str) -> Process:
        """Start one service, with its own data folder and ports."""
        number = len(self.processes)
        probes = Address("127.0.0.1", self.bed.reservations.port())
        own = {
            "PENSTOCK_SERVICE_LISTEN": str(probes),
            "PENSTOCK_STATE_DATA": str(self.folder / f"{module}-{number}"),
        }
        if module == "gateway":
            own["PENSTOCK_HTTP_LISTEN"] = f"127.0.0.1:{self.bed.reservations.port()}"
            own["PENSTOCK_GATEWAY_CREDENTIALS_DIR"] = str(self.admin())
        if module == "watcher" or "--edge" in arguments:
            webhook = Address("127.0.0.1", self.bed.reservations.port())
            own["PENSTOCK_NOTIFY_LISTEN"] = str(webhook)
            await self.bed.minio.send_webhooks_to(webhook)
        process = Process(module, self.env() | own | env, self.folder, probes, arguments)
        self.processes.append(process)
        await process.start()
        return process

    async def close(self) -> None:
        for process in self.processes:
            await process.kill()
        await self._stack.aclose()

    async def _remove(self) -> None:
        with contextlib.suppress(PenstockError):
            await self._remove_simulated_nodes()
            await self.api.request("DELETE", f"/api/v1/namespaces/{self.namespace}")

    async def _remove_simulated_nodes(self) -> None:
        """Those named after this installation: a later one on the same bed wants its pods on the real node."""
        nodes = await self.api.get("/api/v1/nodes", labelSelector="type=kwok")
        for node in nodes["items"]:
            name = node["metadata"]["name"]
            if name.startswith(self.mark):
                await self.api.request("DELETE", f"/api/v1/nodes/{name}")

    # ---- what a user does

    async def apply(self, document: Json) -> None:
        """`kubectl apply` of a Function that does not exist yet, or replaces one."""
        path = f"/apis/penstock.dev/v1/namespaces/{self.namespace}/functions"
        body = {"apiVersion": "penstock.dev/v1", "kind": "Function", **document}
        await self.api.request(
            "PATCH",
            f"{path}/{document['metadata']['name']}",
            encode(body),
            content_type="application/apply-patch+yaml",
            params={"fieldManager": "test", "force": "true"},
        )

    async def function(self, name: str) -> Json:
        found = await self.api.get(f"/apis/penstock.dev/v1/namespaces/{self.namespace}/functions/{name}")
        return dict(found)

    async def state(self, name: str) -> str:
        """What `kubectl get functions` shows as its state; "" = nothing yet."""
        return str((await self.function(name)).get("status", {}).get("state", ""))

    async def ready(self, name: str, *, states: Collection[str] = ("Ready",)) -> None:
        """Until the function is in one of these states."""

        async def check() -> bool:
            return await self.state(name) in states

        await eventually(f"the function {name} is {' or '.join(states)}", check)

    async def put(self, bucket: str, key: str, data: bytes = b"x") -> None:
        """An upload by a stock S3 client."""
        await asyncio.to_thread(self.s3.put_object, bucket, key, io.BytesIO(data), len(data))

    async def get(self, bucket: str, key: str) -> bytes:
        def read() -> bytes:
            answer = self.s3.get_object(bucket, key)
            try:
                return bytes(answer.read())
            finally:
                answer.close()
                answer.release_conn()

        return await asyncio.to_thread(read)

    async def keys(self, bucket: str, prefix: str = "") -> list[str]:
        def read() -> list[str]:
            return [str(one.object_name) for one in self.s3.list_objects(bucket, prefix=prefix, recursive=True)]

        return await asyncio.to_thread(read)

    async def pods(self, job: str = "") -> list[Json]:
        """The pods of a Job, or all there are."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        params = {"labelSelector": f"penstock.dev/job={job}"} if job else {}
        found: list[Json] = (await self.api.get(path, **params))["items"]
        return found

    async def make_bucket(self, bucket: str) -> None:
        await asyncio.to_thread(self.s3.make_bucket, bucket)

    # ---- what is waited for

    async def ended(self, bucket: str, keys: Collection[str], *, seconds: float = 300.0) -> dict[str, Record]:
        """The final record of each of these keys."""

        async def check() -> bool:
            await self.history.read()
            found = self.history.of(bucket)
            return all(key in found and found[key].phase.final for key in keys)

        try:
            await eventually(f"{len(keys)} objects of {bucket} have ended", check, seconds)
        except AssertionError as error:
            found = self.history.of(bucket)
            left = [f"{key}: {found[key].phase} {found[key].reason}" if key in found else key for key in keys]
            left = [
                line for key, line in zip(keys, left, strict=True) if key not in found or not found[key].phase.final
            ]
            told = [f"--- {one.module}: {await one.why()}\n{one.tail()}" for one in self.processes]
            lines = "\n".join(told)
            raise AssertionError(f"{error}\n{left[:10]} {self.history.phases(bucket)}\n{lines}") from error
        return {key: self.history.of(bucket)[key] for key in keys}

    async def submission_ended(self, invocation: str, *, seconds: float = 300.0) -> Record:
        """The final record of what was posted to a function."""

        async def check() -> bool:
            await self.history.read()
            found = self.history.latest.get(invocation)
            return found is not None and found.phase.final

        await eventually(f"the invocation {invocation} has ended", check, seconds)
        return self.history.latest[invocation]


@asynccontextmanager
async def installed(
    bed: Bed, folder: Path, *, real: bool, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Platform]:
    """An installation with one watcher and one dispatcher, both ready."""
    platform = Platform(bed, folder, real=real, settings=settings)
    try:
        await platform.open()
        watcher = await platform.start("watcher")
        dispatcher = await platform.start("dispatcher")
        await dispatcher.ready()
        await watcher.ready()
        yield platform
    finally:
        await platform.close()


def resource(name: str, spec: Mapping[str, Any]) -> Json:
    """A Function as its user writes it for kubectl."""
    return {"metadata": {"name": name}, "spec": dict(spec)}
