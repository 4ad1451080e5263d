"""The client: answers told apart, back-off, credentials, long answers; against a server that misbehaves as told."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from penstock.adapters.kubernetes import Access, ClientSettings, KubernetesClient, from_kubeconfig, in_cluster
from penstock.adapters.kubernetes.access import Token
from penstock.adapters.kubernetes.pressure import Pressure
from penstock.adapters.kubernetes.trouble import Expired, NamespaceMissing, Pushback, QuotaExceeded, Refused, trouble
from penstock.adapters.kubernetes.watching import Follower, Snapshot, lines
from penstock.errors import (
    AlreadyExists,
    Closed,
    Conflict,
    Corrupt,
    Forbidden,
    InvalidInput,
    NotFound,
    OutOfSpace,
    Unavailable,
    Unsupported,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def serving(handler: Handler, **settings: Any) -> AsyncIterator[KubernetesClient]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    client = KubernetesClient(Access(server=f"http://{host}:{port}", token="t0p"), ClientSettings(**settings))
    try:
        yield client
    finally:
        await client.close()
        await runner.cleanup()


def said(message: str, reason: str = "", **details: Any) -> bytes:
    return msgspec.json.encode({"kind": "Status", "message": message, "reason": reason, "details": details})


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, said("bad"), Refused),
        (403, said('jobs "x" is forbidden: exceeded quota: few'), QuotaExceeded),
        (403, said("no rights", "Forbidden"), Forbidden),
        (403, said("terminating", causes=[{"reason": "NamespaceTerminating"}]), NamespaceMissing),
        (404, said('namespaces "x" not found', kind="namespaces"), NamespaceMissing),
        (404, said('jobs "x" not found', kind="jobs"), NotFound),
        (409, said("there", "AlreadyExists"), AlreadyExists),
        (409, said("the object has been modified", "Conflict"), Conflict),
        (409, said('Operation cannot be fulfilled on resourcequotas "few"', "Conflict"), Pushback),
        (410, said("too old", "Expired"), Expired),
        (413, b"too large", Refused),
        (422, said("invalid", "Invalid"), Refused),
        (429, said("slow down", retryAfterSeconds=3), Pushback),
        (500, said("etcdserver: mvcc: database space exceeded"), OutOfSpace),
        (503, b"<html>\xff", Pushback),
    ],
)
def test_each_answer_has_its_error(status: int, body: bytes, kind: type[Exception]) -> None:
    found = trouble(status, body, what="POST jobs")
    assert type(found) is kind
    assert str(found).startswith("POST jobs: ")


@given(st.integers(400, 599), st.binary(max_size=300), st.text(max_size=10))
def test_no_answer_breaks_the_translation(status: int, body: bytes, header: str) -> None:
    found = trouble(status, body, what="x", retry_after=header)
    assert isinstance(found, Unavailable) == (status in {401, 408, 429} or status >= 500 or isinstance(found, Pushback))


def test_a_servers_word_on_waiting_is_bounded() -> None:
    waits = [trouble(429, b"", what="x", retry_after=word) for word in ("2", "99999", "-1", "Wed, 21 Oct 2026")]
    assert [error.after_s for error in waits if isinstance(error, Pushback)] == [2, 60, 0, 0]


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 5), st.floats(0, 3)), max_size=60))
def test_pressure_stays_within_its_bounds(steps: list[tuple[bool, float, float]]) -> None:
    pressure, now = Pressure(32), 0.0
    for good, wait, after in steps:
        now += wait
        if good:
            pressure.answered()
        else:
            assert 0 <= pressure.pushed_back(now, after) <= 60
            assert pressure.held_until >= now
        assert 1 <= pressure.allowed <= 32


def test_one_wave_of_push_backs_halves_once_and_answers_win_it_back() -> None:
    pressure = Pressure(32)
    for _ in range(20):
        pressure.pushed_back(100.0)
    assert pressure.allowed == 16
    pressure.pushed_back(102.0)
    assert pressure.allowed == 8
    for _ in range(1000):
        pressure.answered()
    assert pressure.allowed == 32


async def test_a_push_back_is_waited_out_and_the_answer_returned() -> None:
    pushed = web.Response(status=429, headers={"Retry-After": "0.05"})
    answers = [pushed, web.Response(status=503), web.Response(body=b"ok")]
    seen: list[tuple[str, str, bytes]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.method, request.headers["Authorization"], await request.read()))
        return answers[len(seen) - 1]

    async with serving(handler) as client:
        assert await client.request("POST", "/x", b"body") == b"ok"
        assert client.pressure.limit < client.settings.in_flight
    assert seen == [("POST", "Bearer t0p", b"body")] * 3


async def test_patience_ends() -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=500, body=said("broken"))

    async with serving(handler, patience_s=0.5) as client:
        with pytest.raises(Pushback, match="broken"):
            await client.request("GET", "/x")
    with pytest.raises(Closed):
        await client.request("GET", "/x")


async def test_a_server_that_does_not_answer_is_unavailable() -> None:
    silence = asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        await silence.wait()
        return web.Response()

    async with serving(handler, attempt_s=0.1, patience_s=0.3) as client:
        with pytest.raises(Unavailable, match="does not answer"):
            await client.request("GET", "/x")
        silence.set()
    nowhere = KubernetesClient(Access(server="http://127.0.0.1:9"), ClientSettings(patience_s=0.1))
    with pytest.raises(Unavailable):
        await nowhere.request("GET", "/x")
    await nowhere.close()


async def test_no_more_are_under_way_than_allowed_and_a_cancelled_one_frees_its_place() -> None:
    inside, most, go = 0, 0, asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await go.wait()
        inside -= 1
        return web.Response()

    async with serving(handler, in_flight=4) as client:
        tasks = [asyncio.create_task(client.request("GET", "/x")) for _ in range(20)]
        while most < 4:
            await asyncio.sleep(0.01)
        for task in (*tasks[:2], *tasks[10:12]):
            task.cancel()
        await asyncio.wait(tasks[:2])
        go.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
    assert most == 4
    assert sum(isinstance(one, asyncio.CancelledError) for one in done) == 4
    assert sum(one == b"" for one in done) == 16


async def test_what_is_urgent_waits_neither_for_its_turn_nor_for_a_pause_that_the_server_asked_for() -> None:
    """A Lease must be renewed also while thousands of Jobs wait to be created."""
    go = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        if request.method == "POST":
            await go.wait()
        return web.Response(body=b"held")

    async with serving(handler, in_flight=2) as client:
        tasks = [asyncio.create_task(client.request("POST", "/jobs")) for _ in range(50)]
        await asyncio.sleep(0)
        client.pressure.pushed_back(time.monotonic(), 60)
        async with asyncio.timeout(10):
            assert await client.request("GET", "/lease", urgent=True) == b"held"
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        go.set()


async def test_a_refused_token_is_read_again_at_once(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old")

    async def handler(request: web.Request) -> web.Response:
        good = request.headers["Authorization"] == "Bearer new"
        file.write_text("new")
        return web.Response(body=b"in") if good else web.Response(status=401)

    async with serving(handler) as client:
        client._token = Token(Access(server="", token_file=str(file)))
        assert await client.request("GET", "/x") == b"in"


# Access


def test_a_token_file_is_read_again_now_and_then(tmp_path: Path) -> None:
    now = 0.0
    file = tmp_path / "token"
    file.write_text("one\n")
    token = Token(Access(server="", token_file=str(file)), clock=lambda: now)
    assert token.header() == "Bearer one"
    file.write_text("two")
    assert token.header() == "Bearer one"
    now = 31.0
    assert token.header() == "Bearer two"
    file.unlink()
    now = 70.0
    assert token.header() == "Bearer two"


def test_a_kubeconfig_is_read_with_its_files_beside_it(tmp_path: Path) -> None:
    document = {
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u", "namespace": "ns"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://h:1/", "certificate-authority": "ca.crt"}}],
        "users": [{"name": "u", "user": {"token": "s3cret", "client-key-data": base64.b64encode(b"K").decode()}}],
    }
    file = tmp_path / "config"
    file.write_text(yaml.safe_dump(document))
    access = from_kubeconfig(file)
    assert (access.server, access.namespace, access.token, access.key_pem) == ("https://h:1", "ns", "s3cret", "K")
    assert access.ca_file == str(tmp_path / "ca.crt")
    assert "s3cret" not in repr(access)


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("{", InvalidInput, "not valid YAML"),
        ("[]", InvalidInput, "not a mapping"),
        ("current-context: a", InvalidInput, "no context named 'a'"),
        (
            json.dumps(
                {
                    "current-context": "a",
                    "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u"}}],
                    "clusters": [{"name": "c", "cluster": {"server": "x"}}],
                    "users": [{"name": "u", "user": {"exec": {}}}],
                }
            ),
            Unsupported,
            "plugin",
        ),
    ],
)
def test_an_unusable_kubeconfig_says_why(tmp_path: Path, text: str, kind: type[Exception], words: str) -> None:
    file = tmp_path / "config"
    file.write_text(text)
    with pytest.raises(kind, match=words):
        from_kubeconfig(file)


def test_a_pod_finds_its_own_service_account(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no Kubernetes pod"):
        in_cluster({}, tmp_path)
    for name, text in (("token", "t"), ("namespace", "mine\n"), ("ca.crt", "")):
        (tmp_path / name).write_text(text)
    access = in_cluster({"KUBERNETES_SERVICE_HOST": "::1", "KUBERNETES_SERVICE_PORT": "6443"}, tmp_path)
    assert (access.server, access.namespace) == ("https://[::1]:6443", "mine")


# Following


class Meta(msgspec.Struct):
    name: str = ""


class Thing(msgspec.Struct):
    metadata: Meta


@given(st.lists(st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"") + b"x"), max_size=10), st.data())
async def test_lines_are_whole_however_they_are_cut(content: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in content) + b"torn"

    async def chunks() -> AsyncIterator[bytes]:
        rest = stream
        while rest:
            size = data.draw(st.integers(1, len(rest)))
            yield rest[:size]
            rest = rest[size:]

    assert [line async for line in lines(chunks())] == [line for line in content if line.strip()]


async def test_a_watch_goes_on_after_each_kind_of_end() -> None:
    """A break continues from the last version, bookmarks included; a lost history lists anew."""
    asked: list[dict[str, str]] = []

    def event(kind: str, name: str, version: int) -> bytes:
        body = {"type": kind, "object": {"metadata": {"name": name, "resourceVersion": str(version)}}}
        return msgspec.json.encode(body) + b"\n"

    gone = b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}\n'
    watches = [
        event("ADDED", "a", 11) + event("BOOKMARK", "", 15) + b'{"type":"ADD',
        event("DELETED", "a", 16) + gone,
        event("MODIFIED", "b", 21),
    ]

    async def handler(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        if "watch" in request.query:
            return web.Response(body=watches.pop(0)) if watches else web.Response(status=403)
        if "continue" in request.query:
            return web.json_response({"metadata": {"resourceVersion": "10"}, "items": [{"metadata": {"name": "y"}}]})
        page = {"resourceVersion": "10", "continue": "next"} if len(asked) == 1 else {"resourceVersion": "20"}
        return web.json_response({"metadata": page, "items": [{"metadata": {"name": "x"}}]})

    heard: list[tuple[str, ...]] = []

    async def listen(client: KubernetesClient) -> None:
        async for news in Follower(client, "/things", Thing, selector="a=b").follow():
            if isinstance(news, Snapshot):
                heard.append(("list", *(item.metadata.name for item in news.items)))
            else:
                heard.append(("gone" if news.deleted else "is", news.item.metadata.name))

    async with serving(handler) as client:
        with pytest.raises(Forbidden):
            await listen(client)
    assert heard == [("list", "x", "y"), ("is", "a"), ("gone", "a"), ("list", "x"), ("is", "b")]
    versions = [query["resourceVersion"] for query in asked if "watch" in query]
    assert versions == ["10", "15", "20", "21"]
    assert all(query["labelSelector"] == "a=b" for query in asked)


async def test_what_cannot_be_read_is_corrupt_never_empty() -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"metadata": {}, "items": [{"metadata": {"name": 5}}]})

    async with serving(handler) as client:
        with pytest.raises(Corrupt):
            await Follower(client, "/things", Thing).list()
