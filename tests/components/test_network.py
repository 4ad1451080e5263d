"""Services: a pod finds another by its name, through cluster DNS and kube-proxy, and the test reaches both."""

from __future__ import annotations

import aiohttp
import pytest

from tests.components.helpers import pod, until
from tests.testbed.network import Network
from tests.testbed.node_images import Images

pytestmark = pytest.mark.components

PODS = "/api/v1/namespaces/default/pods"
SERVICES = "/api/v1/namespaces/default/services"

SERVE = "mkdir /tmp/w && echo hello from a pod > /tmp/w/index.html && cd /tmp/w && exec python3 -m http.server 8000"
ASK = """
import time, urllib.request
def read():
    return urllib.request.urlopen("http://{name}:80/", timeout=2).read().decode()
for attempt in range(50):
    try:
        print(read(), end="")
        break
    except OSError as error:
        # The Service's rules and the name follow the pod within moments.
        last = error
        time.sleep(0.2)
else:
    raise last
"""
API = """
import ssl, urllib.request
root = "/var/run/secrets/kubernetes.io/serviceaccount"
request = urllib.request.Request("https://kubernetes.default/version")
request.add_header("Authorization", "Bearer " + open(root + "/token").read())
print(urllib.request.urlopen(request, context=ssl.create_default_context(cafile=root + "/ca.crt"), timeout=5).status)
"""


async def test_a_pod_reaches_another_through_a_service_name(network: Network, images: Images) -> None:
    node, cluster = network.bed.node, network.bed.kubernetes
    python = await images.python()
    async with cluster.api() as api:
        spec = {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8000}]}
        service = await api.create(SERVICES, {"metadata": {"name": "greeter"}, "spec": spec})
        server = await node.start_pod(api, pod("server", python, SERVE))
        client = pod("client", python, "")
        script = ASK.format(name="greeter.default.svc.cluster.local")
        client["spec"]["containers"][0]["command"] = ["python3", "-c", script]
        ended = await node.run_pod(api, client)
        said = await api.logs("default", "client", "c0")
        assert (ended["status"]["phase"], said) == ("Succeeded", "hello from a pod\n")

        # The test itself reaches pods and Services by their addresses.
        for address in (f"{server['status']['podIP']}:8000", f"{service['spec']['clusterIP']}:80"):
            async with aiohttp.ClientSession() as session, session.get(f"http://{address}/") as response:
                assert await response.text() == "hello from a pod\n"

        for name in ("server", "client"):
            await api.delete(f"{PODS}/{name}", grace=0)
        await api.delete(f"{SERVICES}/greeter")


async def test_a_pod_reaches_the_api_server_by_its_name(network: Network, images: Images) -> None:
    python = await images.python()
    asks = pod("asks-api", python, "")
    asks["spec"]["containers"][0]["command"] = ["python3", "-c", API]
    async with network.bed.kubernetes.api() as api:
        await network.bed.node.run_pod(api, asks)
        said = await api.logs("default", "asks-api", "c0")
        await api.delete(f"{PODS}/asks-api", grace=0)
    assert said == "200\n"


async def test_without_cluster_dns_names_do_not_resolve_until_it_is_back(network: Network, images: Images) -> None:
    node = network.bed.node
    python = await images.python()
    await network.kill("coredns")
    spec = {"containers": [{"name": "c0", "image": python, "imagePullPolicy": "Never"}], "restartPolicy": "Never"}
    ask = "import socket; print(socket.gethostbyname('kubernetes.default'))"
    spec["containers"][0]["command"] = ["python3", "-c", ask]  # type: ignore[index]
    async with network.bed.kubernetes.api() as api:
        for name, phase in (("deaf", "Failed"), ("hears", "Succeeded")):
            found = await node.run_pod(api, {"metadata": {"name": name}, "spec": spec})
            assert found["status"]["phase"] == phase
            await network.start()
            await api.delete(f"{PODS}/{name}", grace=0)

        async def gone() -> bool:
            return not (await api.get(PODS, fieldSelector="metadata.name=hears"))["items"]

        await until("the pod is gone", gone)
