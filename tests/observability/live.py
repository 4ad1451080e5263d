"""A whole installation that a real Prometheus watches, with a hand for every fault that an alert is about.

Watcher, dispatcher, scaler and gateway are processes over MinIO, Kafka and an API server. Their nodes are simulated
ones that the scaler itself brings up: those of one pool by KWOK's driver, those of the other by programs, as machines
come. Each fault is caused where it arises (a right taken from an account, a process that stops, a share of the API
server that is too small) and never told to Prometheus.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from penstock.adapters.s3 import Credentials
from penstock.adapters.s3.accounts import MinioAccounts
from penstock.errors import NotFound
from tests.observability.live_rules import Alerts
from tests.production.platform import Json, Platform, Process, eventually, resource
from tests.testbed.bed import Bed
from tests.testbed.lookup import obtain

#: The watcher has an account of its own, so that a store can refuse it alone.
ACCOUNT, SECRET = "the-watchers-account", "a-secret-of-the-test"
_EVERYTHING: Json = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*"]},
        {"Effect": "Allow", "Action": ["admin:*"]},
    ],
}
_LITTLE: Json = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::*"]}],
}
POOLS = """
options: {{glitch: 1s, backoff: 1s, backoff_limit: 2s}}
pools:
  - {{name: sim, driver: kwok, name_pattern: "sim-{mark}-{{n}}", max: 3, boot: 1s, price_per_hour: 0.5,
     power: {{off: 5, idle: 60, max: 200}}, resources: {{cpu: 16, memory: 32Gi}}, labels: {{type: kwok}}}}
  - {{name: iron, driver: programs, name_pattern: "iron-{mark}-{{n}}", max: 1, boot: 1s, price_per_hour: 100,
     resources: {{cpu: 16, memory: 32Gi, nvidia.com/gpu: 1}}, labels: {{type: kwok}}}}
drivers:
  programs:
    type: command
    list: ["sh", "{folder}/list"]
    add: ["sh", "{folder}/add"]
    remove: ["{kubectl}", "delete", "node", "{{name}}"]
    environment: {{KUBECONFIG: "{kubeconfig}"}}
"""
#: Programs of a data centre with one machine, which there is no room for while the file `full` is there.
PROGRAMS = {
    "list": """
{kubectl} get nodes --selector=penstock.dev/pool=iron --output=jsonpath='{{range .items[*]}}{{.metadata.name}} on \
{{.metadata.name}} iron {{.metadata.annotations.order}}{{"\\n"}}{{end}}' && echo end
""",
    "add": """
if [ -e {folder}/full ]; then echo "there is no room" >&2; exit 69; fi
{kubectl} create --filename=- >&2 <<END
apiVersion: v1
kind: Node
metadata:
  name: $PENSTOCK_NODE
  labels: {{type: kwok, kubernetes.io/hostname: $PENSTOCK_NODE, penstock.dev/pool: $PENSTOCK_POOL}}
  annotations: {{kwok.x-k8s.io/node: fake, order: "$PENSTOCK_KEY"}}
status:
  capacity: {{cpu: "16", memory: 32Gi, pods: "110", nvidia.com/gpu: "1"}}
  allocatable: {{cpu: "16", memory: 32Gi, pods: "110", nvidia.com/gpu: "1"}}
END
""",
}
#: The script of the function `fails` ends with 3, as far as a simulated kubelet can end one.
STAGE = """
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: script-fails}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  weight: 100
  selector:
    matchLabels: {penstock.dev/function: fails}
    matchExpressions:
    - {key: '.metadata.deletionTimestamp', operator: DoesNotExist}
    - {key: '.status.phase', operator: In, values: [Running]}
  next:
    statusTemplate: |
      {{ $now := Now }}
      phase: Failed
      containerStatuses:
      {{ range $index, $item := .spec.containers }}
      - name: {{ $item.name | Quote }}
        image: {{ $item.image | Quote }}
        ready: false
        restartCount: 0
        state: {terminated: {exitCode: 3, reason: Error, startedAt: {{ $now | Quote }}, finishedAt: {{ $now | Quote }}}}
      {{ end }}
"""
_LEVELS = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations"
_FLOWS = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas"
#: Uploads at once.
_AT_ONCE = 16


def _write_config(config: Path, *, like: Path, token: str) -> None:
    document = yaml.safe_load(like.read_text())
    document["users"][0]["user"] = {"token": token}
    config.touch(mode=0o600)
    config.write_text(yaml.safe_dump(document))


class Installation:
    """Made by `open`; `alerts` is what Prometheus says of it."""

    def __init__(self, bed: Bed, platform: Platform, folder: Path) -> None:
        self.bed = bed
        self.platform = platform
        self.folder = folder
        self.bucket = f"in-{platform.mark}"
        self.alerts = Alerts(bed.prometheus)
        self.dispatcher: Process
        self.scaler: Process
        self.gateway: Process
        self._accounts = MinioAccounts(bed.minio.url, lambda: Credentials(bed.minio.user, bed.minio.password))
        self._level = f"starved-{platform.mark}"
        self._sent = 0
        self._kept: set[Process] = set()

    async def open(self) -> None:
        """Start everything, and have it scraped."""
        platform = self.platform
        await self.give_rights()
        watcher = await platform.start(
            "watcher",
            PENSTOCK_S3_ACCESS_KEY=ACCOUNT,
            PENSTOCK_S3_SECRET_KEY=SECRET,
            PENSTOCK_WATCHER_LISTING_MIN_S="20",
        )
        await self._start_dispatcher()
        self.scaler = await platform.start("scaler", PENSTOCK_SCALER_POOLS=str(self._pools()))
        self.gateway = await platform.start("gateway", PENSTOCK_HTTP_HEADER_TIMEOUT_S="1")
        for process in (self.dispatcher, watcher, self.scaler, self.gateway):
            await process.ready()
            self.scrape(process)
            self._kept.add(process)
        await self.deploy("load")
        await platform.ready("load")

    def _pools(self) -> Path:
        folder = self.folder / "programs"
        folder.mkdir()
        words = {"folder": str(folder), "kubectl": str(obtain("kubectl")), "mark": self.platform.mark}
        for name, text in PROGRAMS.items():
            (folder / name).write_text(text.format(**words))
        pools = folder / "pools.yaml"
        pools.write_text(POOLS.format(kubeconfig=self.bed.kubernetes.kubeconfig, **words))
        return pools

    async def close(self) -> None:
        await self._accounts.close()

    def scrape(self, process: Process, name: str = "") -> None:
        self.bed.prometheus.scrape(name or process.module, process.probes)

    # ---- what users do

    async def deploy(self, name: str, **changes: Any) -> None:
        spec = {"image": "any", "script": "true", "inputs": [{"bucket": self.bucket, "folder": name}], **changes}
        await self.platform.apply(resource(name, spec))

    async def delete(self, name: str) -> None:
        path = f"/apis/penstock.dev/v1/namespaces/{self.platform.namespace}/functions/{name}"
        await self.platform.api.request("DELETE", path)

    async def put(self, folder: str = "load", count: int = 1) -> None:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(number: int) -> None:
            async with gate:
                await self.platform.put(self.bucket, f"{folder}/{number}")

        numbers = range(self._sent, self._sent + count)
        self._sent += count
        await asyncio.gather(*(one(number) for number in numbers))

    async def _use(self, session: aiohttp.ClientSession) -> None:
        """What users do over HTTP, and one who connects and says nothing."""
        async with session.put(f"/v1/buckets/{self.bucket}/objects/load/web-{self._sent}", data=b"x" * 100) as answer:
            assert answer.status == 201, await answer.text()
        host, _, port = self.gateway.address.removeprefix("http://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        try:
            await asyncio.sleep(1.5)
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    async def _load(self) -> None:
        """Uploads until cancelled."""
        password = (self.platform.admin() / "password").read_text()
        headers = {"Authorization": f"Basic {base64.b64encode(f'oscar:{password}'.encode()).decode()}"}
        async with aiohttp.ClientSession(base_url=self.gateway.address, headers=headers) as session:
            while True:
                await self.put(count=3)
                await self._use(session)

    @contextlib.asynccontextmanager
    async def loaded(self) -> AsyncIterator[asyncio.Task[None]]:
        """While users upload. What happened to them is raised at the end."""
        loading = asyncio.create_task(self._load(), name="load")
        try:
            yield loading
        finally:
            loading.cancel()
            (ended,) = await asyncio.gather(loading, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), ended

    # ---- the dispatcher, which has an account of its own in the cluster

    async def _start_dispatcher(self) -> None:
        config = self.folder / "dispatcher.kubeconfig"
        if not config.exists():
            await self._make_account(config)
        self.dispatcher = await self.platform.start("dispatcher", PENSTOCK_KUBERNETES_KUBECONFIG=str(config))

    async def _make_account(self, config: Path) -> None:
        """A service account with every right: the flow control of the API server never holds up its administrators."""
        api, namespace = self.platform.api, self.platform.namespace
        accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        await api.send("POST", accounts, {"metadata": {"name": "dispatcher"}})
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
        binding = {
            "metadata": {"name": f"dispatcher-{self.platform.mark}"},
            "roleRef": role,
            "subjects": [{"kind": "ServiceAccount", "name": "dispatcher", "namespace": namespace}],
        }
        await api.send("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}}
        token = (await api.send("POST", f"{accounts}/dispatcher/token", asked))["status"]["token"]
        _write_config(config, like=self.bed.kubernetes.kubeconfig, token=token)

    async def replace_dispatcher(self) -> None:
        """A new one on the place of the one that is gone, as Kubernetes does it."""
        await self._start_dispatcher()
        self._kept.add(self.dispatcher)
        await self.dispatcher.ready()
        self.scrape(self.dispatcher)

    async def kill_dispatcher(self) -> None:
        self._kept.remove(self.dispatcher)
        await self.dispatcher.kill()

    async def starve(self) -> None:
        """From now on the API server has no share for creating Jobs."""
        level = {
            "metadata": {"name": self._level},
            "spec": {
                "type": "Limited",
                "limited": {
                    "nominalConcurrencyShares": 0,
                    "lendablePercent": 0,
                    "borrowingLimitPercent": 0,
                    "limitResponse": {"type": "Reject"},
                },
            },
        }
        await self.platform.api.send("POST", _LEVELS, level)
        account = {"name": "dispatcher", "namespace": self.platform.namespace}
        rule = {
            "subjects": [{"kind": "ServiceAccount", "serviceAccount": account}],
            "resourceRules": [
                {
                    "verbs": ["create"],
                    "apiGroups": ["batch"],
                    "resources": ["jobs"],
                    "namespaces": [self.platform.namespace],
                }
            ],
        }
        spec = {
            "priorityLevelConfiguration": {"name": self._level},
            "matchingPrecedence": 10,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [rule],
        }
        await self.platform.api.send("POST", _FLOWS, {"metadata": {"name": self._level}, "spec": spec})

    async def feed(self) -> None:
        """End of `starve`."""
        await self.platform.api.request("DELETE", f"{_FLOWS}/{self._level}")
        await self.platform.api.request("DELETE", f"{_LEVELS}/{self._level}")

    # ---- other faults

    async def delete_jobs(self, function: str) -> None:
        """As somebody who does not know what they are: every Job of a function."""
        path = f"/apis/batch/v1/namespaces/{self.platform.namespace}/jobs"
        found = await self.platform.api.get(path, labelSelector=f"penstock.dev/function={function}")
        assert found["items"], f"there is no Job of {function}"
        for job in found["items"]:
            with contextlib.suppress(NotFound):
                name = job["metadata"]["name"]
                await self.platform.api.request("DELETE", f"{path}/{name}", params={"propagationPolicy": "Background"})

    async def take_rights(self) -> None:
        """The store refuses the watcher, and nobody else."""
        await self._accounts.put(ACCOUNT, SECRET, _LITTLE, name="watcher")

    async def give_rights(self) -> None:
        await self._accounts.put(ACCOUNT, SECRET, _EVERYTHING, name="watcher")

    async def restart_store(self, *, targets: bool) -> None:
        self.bed.minio.options.targets = targets
        await self.bed.minio.restart()

    @property
    def full(self) -> Path:
        """While this file is there the machines' programs refuse."""
        return self.folder / "programs" / "full"

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """While what has ended is started again, as Kubernetes does it: who loses a Lease ends."""
        keeping = asyncio.create_task(self._keep(), name="keep")
        try:
            yield
        finally:
            keeping.cancel()
            (ended,) = await asyncio.gather(keeping, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), ended

    async def _keep(self) -> None:
        while True:
            for process in [one for one in self._kept if one.ended]:
                await process.start()
            await asyncio.sleep(1)

    async def back(self) -> None:
        """Until every service is ready again."""

        async def ready() -> bool:
            return bool(await self.bed.prometheus.query("count(penstock_ready == 1) == 4"))

        await eventually("every service is ready again", ready)
