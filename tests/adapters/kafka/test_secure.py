"""TLS with an authority of one's own, and both families of SASL, against a broker that insists on them."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import Forbidden, Unavailable
from tests.adapters.kafka.conftest import Logs
from tests.contracts.test_event_log import by_key, entries, everything
from tests.testbed import Bed
from tests.testbed.kafka import Kafka
from tests.testbed.links import Address

pytestmark = [pytest.mark.components, pytest.mark.slow]

EVENTS = "penstock.events"
LOGIN = "org.apache.kafka.common.security"


class SecureKafka(Kafka):
    """The bed's broker with one more way in: TLS, then a password."""

    def __init__(self, bed: Bed, tls: Path) -> None:
        super().__init__(bed)
        self.secure = Address("127.0.0.1", bed.reservations.port())
        self._tls = tls

    def _properties(self, advertised: dict[str, Address]) -> str:
        lines = dict(line.split("=", 1) for line in super()._properties(advertised).splitlines())
        for key in ("listeners", "advertised.listeners"):
            lines[key] += f",SECURE://{self.secure}"
        lines["listener.security.protocol.map"] += ",SECURE:SASL_SSL"
        lines |= {
            "listener.name.secure.ssl.keystore.type": "PEM",
            "listener.name.secure.ssl.keystore.location": str(self._tls / "server.pem"),
            "listener.name.secure.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
            "listener.name.secure.plain.sasl.jaas.config": (
                f'{LOGIN}.plain.PlainLoginModule required user_reader="opensesame";'
            ),
            "listener.name.secure.scram-sha-512.sasl.jaas.config": f"{LOGIN}.scram.ScramLoginModule required;",
        }
        return "".join(f"{key}={value}\n" for key, value in lines.items())

    async def add_scram_user(self) -> None:
        await run(
            *self._java("-Xmx128m"), "kafka.admin.ConfigCommand", "--bootstrap-server", str(self.direct), "--alter",
            "--add-config", "SCRAM-SHA-512=[iterations=4096,password=opensesame]",
            "--entity-type", "users", "--entity-name", "writer",
        )  # fmt: skip


async def run(*argv: str | Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, output.decode()


async def certificates(folder: Path) -> None:
    """An authority, `ca.pem`, and what a server on loopback shows, `server.pem` (key, certificate, authority)."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("certificates for the test are made by openssl, which is not here")
    request = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-sha256"]
    ca, ca_key = folder / "ca.pem", folder / "ca.key"
    await run(openssl, "req", "-x509", *request, "-subj", "/CN=authority", "-keyout", ca_key, "-out", ca)
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    key, asked, signed = folder / "server.key", folder / "server.csr", folder / "server.crt"
    await run(openssl, "req", "-new", *request[:3], "-subj", "/CN=broker", "-keyout", key, "-out", asked)
    await run(
        openssl, "x509", "-req", "-days", "2", "-in", asked, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial",
        "-extfile", folder / "names", "-out", signed,
    )  # fmt: skip
    (folder / "server.pem").write_text("".join(part.read_text() for part in (key, signed, ca)))


@pytest.fixture
async def secure(fault_bed: Bed, tmp_path: Path) -> AsyncIterator[SecureKafka]:
    await certificates(tmp_path)
    broker = SecureKafka(fault_bed, tmp_path)
    await broker.start()
    await broker.add_scram_user()
    yield broker
    await broker.close()


async def test_who_knows_the_password_gets_in_and_who_does_not_is_told(
    secure: SecureKafka, logs: Logs, tmp_path: Path
) -> None:
    way_in: dict[str, Any] = {
        "servers": str(secure.secure), "tls": True, "ca_file": tmp_path / "ca.pem", "password": "opensesame",
        "deadline_s": 10.0, "request_s": 3.0,
    }  # fmt: skip
    scram = {"mechanism": "SCRAM-SHA-512", "username": "writer"}
    writer = logs.open(secure, **way_in, **scram)
    await writer.append(EVENTS, entries(("k", "1"), ("k", "2")))
    reader = logs.open(secure, **way_in, mechanism="PLAIN", username="reader")
    assert by_key(await everything(reader, EVENTS)) == {"k": ["1", "2"]}
    await reader.commit("group", EVENTS, await reader.end(EVENTS))
    fenced = logs.open(secure, **way_in, **scram, transactional_id="writer")
    await fenced.take_over()
    await fenced.append(EVENTS, entries(("k", "3")))
    assert by_key(await everything(reader, EVENTS)) == {"k": ["1", "2", "3"]}

    quick = way_in | scram | {"deadline_s": 3.0, "request_s": 1.0}
    for user in (scram, {"mechanism": "PLAIN", "username": "reader"}):
        with pytest.raises(Forbidden, match=r"the broker does not allow it .*uthentication failed") as refused:
            await logs.open(secure, **quick | user | {"password": "guess"}).append(EVENTS, entries(("k", "4")))
        assert "guess" not in str(refused.value)
    with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):  # nobody whom the system trusts signed it
        await logs.open(secure, **quick | {"ca_file": None}).append(EVENTS, entries(("k", "4")))
    assert len(await everything(reader, EVENTS)) == 3
