"""`penstock login` and what it keeps, against a real server with real single sign-on, through proxies and over TLS."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from penstock.client_errors import Unauthenticated
from penstock.client_login import DeviceLogin, Invitation, check_address
from penstock.errors import InvalidInput
from tests.cli.conftest import User, below_a_path
from tests.cli.device_issuer import DeviceIssuer
from tests.oscar.world import World
from tests.testbed.lookup import obtain


@pytest.fixture
async def issuer(world: World) -> AsyncIterator[DeviceIssuer]:
    device = DeviceIssuer(world.issuer)
    async with device.serving():
        yield device


def kept(user: User, name: str) -> dict[str, object]:
    found: dict[str, object] = tomllib.loads(user.contexts.read_text())["contexts"][name]
    return found


async def test_a_password_is_tried_and_kept_for_its_owner_alone(world: World, user: User) -> None:
    server = world.platform.address
    refused = await user("login", server, "--user", "admin", "--password-stdin", stdin="wrong\n", code=4)
    assert "not kept" in refused.err
    assert not user.contexts.exists()
    done = await user("login", server, "--user", "admin", "--password-stdin", stdin=f"{world.password}\n")
    assert "the context is '127.0.0.1'" in done.out
    assert user.contexts.stat().st_mode & 0o777 == 0o600
    assert (await user("function", "ls", "--output", "json")).json == {"functions": []}
    shown = await user("context", "show")
    assert world.password not in shown.out + done.out + done.err
    assert "basic" in shown.out


async def test_a_token_below_a_path_and_contexts(world: World, user: User) -> None:
    async with below_a_path(world.platform.address, "/deep/penstock") as server:
        await user("login", server, "--name", "lab", "--token-stdin", stdin=world.password)
        assert (await user("ls", "--output", "json")).json == []
        (user.home / "a.txt").write_text("through the proxy")
        await user("put", "a.txt", "some/where/a b%2F.txt", "--create-bucket")
        assert (await user("get", "some/where/a b%2F.txt", "-o", "-")).out == "through the proxy"
        done = await user(
            "login", world.platform.address, "--name", "near", "--no-use", "--token-stdin", stdin=world.password
        )
        assert "'near'" in done.out
        listed = (await user("context", "ls", "--output", "json")).json["contexts"]
        assert [(one["name"], one["in_use"]) for one in listed] == [("lab", True), ("near", False)]
    # The proxy is gone: what is in use cannot be reached, the other one can.
    await user("ls", code=3)
    await user("--context", "near", "ls")
    await user("ls", PENSTOCK_CONTEXT="near")
    await user("context", "use", "near")
    await user("ls")
    await user("context", "rm", "near", "lab")
    assert "login" in (await user("ls", code=3)).err
    missing = await user("context", "use", "lab", code=5)
    assert "there is no context 'lab'" in missing.err


async def test_the_device_flow_and_renewal(world: World, user: User, issuer: DeviceIssuer) -> None:
    issuer.script = ["authorization_pending", "authorization_pending"]
    issuer.lifetime_s = 30  # shorter than the margin: each command has to renew it
    server = world.platform.address
    done = await user("login", server, "--issuer", issuer.address)
    assert "WDJB-MJHT" in done.err
    assert f"{issuer.address}/confirm" in done.err
    first = kept(user, "127.0.0.1")
    assert (first["issuer"], first["client_id"]) == (issuer.address, "penstock")
    assert user.contexts.stat().st_mode & 0o777 == 0o600
    await asyncio.gather(*(user("function", "ls") for _ in range(3)))
    last = kept(user, "127.0.0.1")
    assert last["refresh_token"] != first["refresh_token"]
    assert {last["refresh_token"]} == issuer.refresh_tokens
    # Ended at the issuer: one sentence, and what to do.
    issuer.refresh_tokens.clear()
    over = await user("function", "ls", code=4)
    assert "used already" in over.err
    assert "penstock login" in over.err
    assert str(last["refresh_token"]) not in over.err


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("access_denied", "refused in the browser"),
        ("expired_token", "in time"),
        ("invalid_grant", "invalid_grant"),
    ],
)
async def test_a_login_that_does_not_come_about_keeps_nothing(
    world: World, user: User, issuer: DeviceIssuer, word: str, sentence: str
) -> None:
    issuer.script = [word]
    done = await user("login", world.platform.address, "--issuer", issuer.address, code=4)
    assert sentence in done.err
    assert not user.contexts.exists()


async def test_issuers_that_are_none(world: World, user: User, issuer: DeviceIssuer) -> None:
    server = world.platform.address
    told = await user("login", server, "--issuer", issuer.address, "--client-id", "stranger", code=7)
    assert "who is that?" in told.err
    issuer.with_device_flow = False
    assert "no device flow" in (await user("login", server, "--issuer", issuer.address, code=7)).err
    assert "no OpenID issuer" in (await user("login", server, "--issuer", server, code=7)).err
    assert "https://" in (await user("login", server, "--issuer", "http://sso.example.org", code=7)).err
    await user("login", server, "--issuer", "http://127.0.0.1:9", code=3)


async def test_slowing_down_and_waiting_have_their_measure(issuer: DeviceIssuer) -> None:
    issuer.script = ["slow_down", "authorization_pending", "slow_down"]
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    login = DeviceLogin("penstock")
    known = await login.discover(issuer.address)
    invitation = await login.invite(known)
    assert invitation.code == "WDJB-MJHT"
    tokens = await login.finish(known, invitation, sleep=sleep)
    assert slept == pytest.approx([0.01, 5.01, 5.01, 10.01])
    assert tokens.access_token not in repr(tokens)
    issuer.script = ["authorization_pending"] * 100
    late = Invitation(code="x", address="y", expires_in_s=20, interval_s=5, device_code="the-device-code")
    with pytest.raises(Unauthenticated, match="in time"):
        await login.finish(known, late, sleep=sleep)


@pytest.mark.parametrize("address", ["http://sso.example.org", "ftp://x", "sso.example.org", "https://"])
def test_codes_and_tokens_go_to_https_alone(address: str) -> None:
    with pytest.raises(InvalidInput, match="https://"):
        check_address(address)


async def test_usage(world: World, user: User) -> None:
    server = world.platform.address
    assert "Give one of" in (await user("login", server, "--user", "a", "--token-stdin", code=2)).err
    assert "--password-stdin" in (await user("login", server, "--user", "a", code=2)).err
    assert "Give --user" in (await user("login", server, code=2)).err
    assert "on one line" in (await user("login", server, "--token-stdin", stdin="a\nb\n", code=7)).err
    assert "no name" in (await user("login", server, "--name", "a/b", "--token-stdin", stdin="x", code=7)).err
    assert "not both" in (await user("--server", server, "--context", "x", "ls", code=7)).err


@pytest.mark.components
async def test_certificates_are_verified(world: World, user: User, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    argv: list[str | Path] = [
        obtain("openssl"),
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    argv += ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate]
    await asyncio.to_thread(lambda: subprocess.run(argv, check=True, capture_output=True))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    async with below_a_path(world.platform.address, "/p", ssl_context=context) as server:
        refused = await user("login", server, "--token-stdin", stdin=world.password, code=3)
        assert "is not trusted" in refused.err
        assert "--ca" in refused.err
        await user("--ca", str(certificate), "login", server, "--token-stdin", stdin=world.password)
        assert kept(user, "localhost")["ca"] == str(certificate)
        await user("ls")  # the context brings it
        await user("--server", server, "--token", world.password, "ls", PENSTOCK_CA=str(certificate))
        missing = await user("--ca", "nowhere.pem", "ls", code=7)
        assert "nowhere.pem" in missing.err
        assert "PEM" in (await user("--ca", str(key), "ls", code=7)).err
