"""Services and their names: kube-proxy and CoreDNS, inside the node's namespaces.

The firewall chains of kube-proxy have fixed names, so they must live in a network namespace of one bed alone. CoreDNS
listens on the bridge that pods hang on, which is the address that the kubelet gives them as their name server.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from tests.testbed.building import Words
from tests.testbed.component import Component, Member
from tests.testbed.kubernetes import NODE_NAME
from tests.testbed.links import Address
from tests.testbed.lookup import SBIN, obtain
from tests.testbed.probe import http_ok

HEALTH_PORT = 10256
DNS_READY_PORT = 8181


def bridge_is_filtered() -> bool:
    """Whether what passes between two pods on the bridge goes through the firewall's chains."""
    return Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists()


class Network(Component):
    """kube-proxy and cluster DNS."""

    name: ClassVar[str] = "network"

    async def start(self) -> None:
        if self.bed.kubernetes.existing is not None:
            return  # The existing cluster resolves its own names.
        await self.bed.node.start()
        await super().start()

    async def prepare(self) -> list[Member]:
        uplink = await self.bed.node.network()
        cluster = self.bed.kubernetes
        server = await cluster.url_for_node()
        health = Address(uplink.node_address, HEALTH_PORT)
        proxy: Words = [
            obtain("kube-proxy"),
            f"--kubeconfig={cluster.kubeconfig_of('proxy', server)}",
            f"--hostname-override={NODE_NAME}",
            "--proxy-mode=iptables",
            f"--cluster-cidr={uplink.pod_range}",
            # The host's own limits are not the bed's to change.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
            f"--healthz-bind-address={health}",
        ]
        if not bridge_is_filtered():
            # A pod's answer to its neighbour on the bridge would else bypass the chain that changed the address.
            proxy.append("--masquerade-all")
        corefile = self.folder / "Corefile"
        corefile.write_text(f""".:53 {{
    bind {uplink.bridge_address}
    errors
    ready {uplink.bridge_address}:{DNS_READY_PORT}
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {cluster.kubeconfig_of("admin", server)}
    }}
}}
""")

        async def proxy_ready() -> bool:
            return await http_ok(f"http://{health}/healthz")

        async def dns_ready() -> bool:
            return await http_ok(f"http://{Address(uplink.bridge_address, DNS_READY_PORT)}/ready")

        path = {"PATH": os.environ.get("PATH", os.defpath) + os.pathsep + SBIN}
        dns: Words = [obtain("coredns"), "-conf", corefile]
        return [
            Member("kube-proxy", proxy, proxy_ready, env=path, inside=True, grace=3),
            # By default it lingers for 5 s.
            Member("coredns", dns, dns_ready, inside=True, grace=1),
        ]
