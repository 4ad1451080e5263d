"""The interface over TLS, with a certificate as an operator mounts it."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
from pathlib import Path

import aiohttp
import pytest

from gateway.admin import tls_of
from gateway.api.server import address_of, bind, serving
from penstock.settings_gateway import GatewayGroup
from tests.oscar.world import World
from tests.testbed.errors import MissingPart
from tests.testbed.lookup import obtain

pytestmark = pytest.mark.components


@pytest.fixture
def certificate(tmp_path: Path) -> GatewayGroup:
    try:
        program = str(obtain("openssl"))
    except MissingPart as missing:
        pytest.skip(str(missing))
    key, chain = tmp_path / "tls.key", tmp_path / "tls.crt"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([program, *words, *names, "-keyout", key, "-out", chain], check=True, capture_output=True)
    return GatewayGroup(tls_cert=chain, tls_key=key)


async def test_over_tls_the_same_is_served_and_nothing_in_clear(world: World, certificate: GatewayGroup) -> None:
    tls = tls_of(certificate)
    assert tls is not None
    with contextlib.closing(bind("127.0.0.1:0", allow_remote=False)) as sock:
        plain = address_of(sock)[0]
        async with serving(world.platform.services, sock, tls=tls):
            trusting = ssl.create_default_context(cafile=str(certificate.tls_cert))
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as session:
                address = plain.replace("http://", "https://") + "/system/info"
                async with session.get(address, headers={"Authorization": world.basic()}) as answer:
                    assert (answer.status, answer.url.scheme) == (200, "https")
                with pytest.raises(aiohttp.ClientError):
                    await session.get(f"{plain}/health")
