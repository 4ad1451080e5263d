"""A Kubernetes control plane: etcd, API server, controller manager and scheduler, with nothing simulated.

It listens on loopback. Where the bed has a network of its own the API server is also reachable there, by a wire on the
same port number, since that is where a node and its pods come from. `PENSTOCK_TEST_KUBECONFIG` puts an existing
cluster in its place: then nothing is started, and nothing can be killed.
"""

from __future__ import annotations

import os
import secrets
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import yaml

from tests.testbed.building import Words, output_of
from tests.testbed.component import LOOPBACK, Component, Member
from tests.testbed.errors import BedError
from tests.testbed.etcd_quota import EtcdQuota
from tests.testbed.kube_api import KubeApi
from tests.testbed.links import Address, Link
from tests.testbed.lookup import obtain
from tests.testbed.probe import connects, http_ok

if TYPE_CHECKING:
    from tests.testbed.bed import Bed

SERVICES_WITHOUT_NETWORK = "10.0.0.0/24"
NODE_NAME = "node-1"
KUBECONFIG_VARIABLE = "PENSTOCK_TEST_KUBECONFIG"

# Name in the token file, user, groups.
USERS = (
    ("admin", "testbed-admin", "system:masters"),
    ("controller-manager", "system:kube-controller-manager", ""),
    ("scheduler", "system:kube-scheduler", ""),
    ("kubelet", f"system:node:{NODE_NAME}", "system:nodes"),
    ("proxy", "system:kube-proxy", ""),
    # Somebody without any right, for tests of roles.
    ("nobody", "testbed-nobody", ""),
)


@dataclass
class KubernetesOptions:
    """What a test may set before the first start."""

    fast_controllers: bool = False
    """500 requests/s and 20 Job workers for the controller manager, instead of the 20 and 5 that users have."""
    durable: bool = False
    """etcd syncs to disk, for figures about durability; slower."""
    etcd_quota_mb: int = 4096
    """How much etcd stores before it refuses writes; on a bed with small disks a quarter of one, for `fill`."""


class Kubernetes(Component):
    """The control plane."""

    name: ClassVar[str] = "kubernetes"

    def __init__(self, bed: Bed) -> None:
        super().__init__(bed)
        self.options = KubernetesOptions()
        if bed.disk_mb is not None:
            self.options.etcd_quota_mb = bed.disk_mb // 4
        given = os.environ.get(KUBECONFIG_VARIABLE)
        self.existing = Path(given) if given else None
        self._tokens = {name: secrets.token_hex(16) for name, _, _ in USERS}
        port = bed.reservations.port
        self._ports = {name: port() for name in ("etcd", "peers", "controller-manager", "scheduler")}
        self.direct = Address(LOOPBACK, port())
        self._certificates = self.folder / "certificates"
        self._node_link: Link | None = None

    # Where it is

    @property
    def url(self) -> str:
        """The API server, through the wire that `slow` and `cut` act on."""
        return f"https://{self.link.address}"

    @property
    def direct_url(self) -> str:
        """The API server without the wire."""
        return f"https://{self.direct}"

    @property
    def authority(self) -> Path:
        """The certificate that the API server is trusted by."""
        return self._certificates / "apiserver.crt"

    @property
    def kubeconfig(self) -> Path:
        """An administrator's kubeconfig, through the wire."""
        return self.existing or self.kubeconfig_of("admin")

    def kubeconfig_of(self, user: str, server: str | None = None) -> Path:
        """A kubeconfig for one of the bed's users, written now."""
        if self.existing is not None:
            raise BedError(f"{KUBECONFIG_VARIABLE} is set: the bed knows no user {user} of that cluster.")
        url = server or self.url
        suffix = "".join(letter if letter.isalnum() else "-" for letter in url)
        target = self.folder / f"{user}-{suffix}.kubeconfig"
        cluster = {"server": url, "certificate-authority": str(self.authority)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "testbed",
            "clusters": [{"name": "testbed", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": self._tokens[user]}}],
            "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": user}}],
        }
        target.touch(mode=0o600)
        target.write_text(yaml.safe_dump(document))
        return target

    def api(self, user: str = "admin", *, direct: bool = False) -> KubeApi:
        """A client; `async with bed.kubernetes.api() as api`."""
        if self.existing is not None:
            return KubeApi.from_kubeconfig(self.existing)
        return KubeApi.from_kubeconfig(self.kubeconfig_of(user, self.direct_url if direct else None))

    async def url_for_node(self) -> str:
        """The API server as the node and its pods see it."""
        return f"https://{await self.address_for_pods(self.direct)}"

    @property
    def node_link(self) -> Link:
        """The wire by which nodes and pods reach the API server."""
        assert self._node_link is not None, "the control plane was started without a network for nodes"
        return self._node_link

    def env(self) -> dict[str, str]:
        return {"KUBECONFIG": str(self.kubeconfig), KUBECONFIG_VARIABLE: str(self.kubeconfig)}

    # Life

    async def start(self) -> None:
        if self.existing is None:
            await super().start()
        elif not self.existing.is_file():
            raise BedError(f"{KUBECONFIG_VARIABLE} is {self.existing}, which does not exist.")

    async def prepare(self) -> list[Member]:
        self._certificates.mkdir(exist_ok=True)
        self._write_secrets()
        self._link = await self.make_link(self.direct)
        uplink = await self.bed.uplink()
        advertise = LOOPBACK
        services = SERVICES_WITHOUT_NETWORK
        if uplink is not None:
            advertise, services = uplink.host_address, uplink.service_range
            self._node_link = Link(self.bed.loop, [Address(advertise, self.direct.port)], self.direct)
            self.bed.links.append(self._node_link)
            await self._node_link.open()
        # The controller manager and the scheduler are part of the control plane and do not go through the wire.
        return [
            self._etcd(),
            self._api_server(advertise, services),
            self._controller_manager(services),
            self._scheduler(),
        ]

    async def after_start(self) -> None:
        """Pods can be made in a namespace once its ServiceAccount is there."""
        async with self.api(direct=True) as api:

            async def ready() -> bool:
                return bool(await api.get("/api/v1/namespaces/default/serviceaccounts/default"))

            await api.until("the namespace default has its ServiceAccount", ready)

    async def make_namespace(self, name: str) -> None:
        """Make a namespace in which pods can be made at once."""
        async with self.api() as api:
            await api.create("/api/v1/namespaces", {"metadata": {"name": name}})

            async def ready() -> bool:
                return bool(await api.get(f"/api/v1/namespaces/{name}/serviceaccounts/default"))

            await api.until(f"the namespace {name} has its ServiceAccount", ready)

    async def fill(self) -> None:
        """Fill etcd up to its quota: reads go on, every write is refused."""
        self._chosen(["etcd"])
        await EtcdQuota(self._etcd_url).fill()

    async def drain(self) -> None:
        """End of `fill`."""
        await EtcdQuota(self._etcd_url).drain()

    # The four programs

    @property
    def _etcd_url(self) -> str:
        return f"http://{LOOPBACK}:{self._ports['etcd']}"

    def _etcd(self) -> Member:
        client, peers = self._etcd_url, f"http://{LOOPBACK}:{self._ports['peers']}"
        argv: Words = [
            obtain("etcd"),
            f"--data-dir={self.data}/etcd",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            f"--quota-backend-bytes={self.options.etcd_quota_mb << 20}",
            "--logger=zap",
            "--log-level=warn",
        ]
        if not self.options.durable:
            argv.append("--unsafe-no-fsync")

        async def ready() -> bool:
            # A full store is ready too: it answers reads.
            return await http_ok(f"{client}/health?exclude=NOSPACE")

        return Member("etcd", argv, ready)

    def _api_server(self, advertise: str, services: str) -> Member:
        key = self._certificates / "service-accounts.key"
        argv: Words = [
            obtain("kube-apiserver"),
            f"--etcd-servers={self._etcd_url}",
            f"--bind-address={LOOPBACK}",
            f"--advertise-address={advertise}",
            f"--secure-port={self.direct.port}",
            f"--cert-dir={self._certificates}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={key}",
            f"--service-account-key-file={key}",
            f"--token-auth-file={self._certificates / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            f"--service-cluster-ip-range={services}",
            "--allow-privileged",
            "--kubelet-preferred-address-types=InternalIP",
        ]
        if advertise == LOOPBACK:
            # A Service may not lead to a loopback address; without pods nobody follows it anyway.
            argv.append("--endpoint-reconciler-type=none")

        async def ready() -> bool:
            headers = {"Authorization": f"Bearer {self._tokens['admin']}"}
            try:
                tls = ssl.create_default_context(cafile=str(self.authority))
            except OSError:
                return False  # The certificate is not there yet, or only half written.
            return await http_ok(f"{self.direct_url}/readyz", headers=headers, tls=tls)

        return Member("kube-apiserver", argv, ready, grace=5)

    def _controller_manager(self, services: str) -> Member:
        argv: Words = [
            *self._controller("kube-controller-manager", "controller-manager"),
            f"--service-account-private-key-file={self._certificates / 'service-accounts.key'}",
            f"--root-ca-file={self.authority}",
            f"--service-cluster-ip-range={services}",
            "--use-service-account-credentials=true",
        ]
        if self.options.fast_controllers:
            argv += ["--kube-api-qps=500", "--kube-api-burst=1000", "--concurrent-job-syncs=20"]
        return Member("kube-controller-manager", argv, self._listens("controller-manager"), grace=3)

    def _scheduler(self) -> Member:
        argv = self._controller("kube-scheduler", "scheduler")
        return Member("kube-scheduler", argv, self._listens("scheduler"), grace=3)

    def _controller(self, program: str, user: str) -> Words:
        # The file is written before the certificate in it exists: the API server makes that when it first starts.
        config = self.kubeconfig_of(user, self.direct_url)
        names = ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")
        ports = [f"--bind-address={LOOPBACK}", f"--secure-port={self._ports[user]}"]
        certificates = f"--cert-dir={self._certificates / user}"
        files = [f"--{name}={config}" for name in names]
        return [obtain(program), *files, *ports, certificates, "--leader-elect=false"]

    def _listens(self, user: str) -> Callable[[], Awaitable[bool]]:
        async def ready() -> bool:
            return await connects(Address(LOOPBACK, self._ports[user]))

        return ready

    def _write_secrets(self) -> None:
        key = self._certificates / "service-accounts.key"
        argv: Words = [obtain("openssl"), "genrsa", "-out", key, "2048"]
        output_of(argv)
        lines = [f'{self._tokens[name]},{user},{name},"{groups}"' for name, user, groups in USERS]
        tokens = self._certificates / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text("\n".join(lines) + "\n")
