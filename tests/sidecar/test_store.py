"""The sidecars' own store client against a real MinIO: what is lost on the way, replaced meanwhile, or refused."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.sidecar import pod
from dispatcher.sidecar.http1 import Broken, Connection, Peer
from dispatcher.sidecar.s3 import S3, Settings, time_s
from dispatcher.sidecar.s3_writes import Content, Write
from penstock.adapters.s3 import Credentials, S3Config, S3Store
from penstock.errors import Conflict, Forbidden, InvalidInput, NotFound, Superseded, Unavailable
from penstock.model import BucketEvent, Origin
from tests.sidecar.pods import Shop, opened_shop
from tests.testbed.minio import Minio

components = pytest.mark.components


@pytest.fixture
async def shop(minio: Minio) -> AsyncIterator[Shop]:
    async with opened_shop(minio, "client") as made:
        yield made


@pytest.fixture
def opened(minio: Minio) -> Iterator[Callable[..., S3]]:
    """Makes clients, which are closed in the end."""
    with contextlib.ExitStack() as clients:

        def make(*, url: str = "", secret: str = "", patience_s: float = 20, off_s: float = 0) -> S3:
            account = Credentials(minio.user, secret or minio.password)
            made = S3(
                Settings(
                    endpoint=url or minio.url,
                    account=lambda: account,
                    patience_s=patience_s,
                    clock=lambda: time.time() + off_s,
                )
            )
            clients.callback(made.close)
            return made

        yield make


@components
async def test_what_is_written_is_read_with_its_metadata(shop: Shop, opened: Callable[..., S3]) -> None:
    store = opened()
    odd = {"a": "plain", "b": "ñ  two\nlines", "c": "=?x?="}
    key = "deep/a b+%2F&?=ñ.txt"
    etag = Write(store, shop.results, key, metadata=odd).put(Content.of_bytes(b"hello"))
    info = store.head(shop.results, key)
    theirs = await shop.store.head(shop.results, key)
    assert info.etag == theirs.etag == etag
    assert info.metadata == theirs.metadata == odd
    pieces: list[bytes] = []
    store.fetch(theirs, pieces.append)
    assert b"".join(pieces) == b"hello"


@components
@pytest.mark.parametrize("off_s", [-3 * 3600.0, 86_400.0])
async def test_a_node_whose_clock_is_wrong_reads_and_writes_all_the_same(
    shop: Shop, opened: Callable[..., S3], tmp_path: Path, off_s: float
) -> None:
    reader, writer = opened(off_s=off_s), opened(off_s=off_s)
    Write(writer, shop.results, "clock/k").put(Content.of_bytes(b"hello"))
    info = reader.head(shop.results, "clock/k")
    pieces: list[bytes] = []
    reader.fetch(info, pieces.append)
    assert b"".join(pieces) == b"hello"
    assert list(opened(off_s=off_s).keys(shop.results, "clock/")) == ["clock/k"]


@components
async def test_errors_have_their_meaning(shop: Shop, opened: Callable[..., S3]) -> None:
    store = opened()
    with pytest.raises(NotFound, match="no object 'nothing'"):
        store.head(shop.results, "nothing")
    with pytest.raises(NotFound, match="no bucket"):
        list(store.keys("no-such-bucket", ""))
    with pytest.raises(Forbidden) as refused:
        opened(secret="wr0ng-key").head(shop.results, "x")
    assert "wr0ng" not in str(refused.value)
    with pytest.raises(Unavailable, match="does not answer"):
        opened(url="http://127.0.0.1:9", patience_s=0.2).head(shop.results, "x")


@components
async def test_another_version_is_never_taken_for_the_one_that_was_asked_for(
    shop: Shop, opened: Callable[..., S3]
) -> None:
    event = await shop.put("a", b"one")
    info = await shop.store.head(shop.pictures, "a")
    await shop.put("a", b"two")
    with pytest.raises(Superseded):
        opened().fetch(info, lambda _: None)
    assert BucketEvent.of(info, Origin.PUSH, 0) == event


@contextlib.contextmanager
def relay(minio: Minio, *, lose: bytes, times: int) -> Iterator[str]:
    """In front of the store: the first answers to requests that begin so are lost, after they were carried out."""
    left = [times]
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection((minio.direct.host, minio.direct.port)) as server:
            request = client.recv(2**20)
            while request:
                server.sendall(request)
                server.settimeout(0.3)
                answer = server.recv(2**20) if b"\r\n\r\n" in request else b""
                if left[0] and request.startswith(lose):
                    left[0] -= 1
                    return
                client.sendall(answer)
                request = client.recv(2**20)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@components
async def test_a_write_whose_answer_was_lost_is_not_written_again(minio: Minio, opened: Callable[..., S3]) -> None:
    """A second version would fire the next function again."""
    config = S3Config(endpoint=minio.url, credentials=Credentials(minio.user, minio.password), versioned=True)
    store = S3Store(config)
    try:
        await store.create_bucket("client-versions")
        with relay(minio, lose=b"PUT ", times=1) as url:
            etag = Write(opened(url=url), "client-versions", "once").put(Content.of_bytes(b"once"))
        versions = list(minio.client().list_objects("client-versions", "once", include_version=True))
        assert [version.etag for version in versions] == [etag]
    finally:
        await store.close()


@components
async def test_a_file_that_changes_while_it_is_uploaded_is_refused(
    shop: Shop, opened: Callable[..., S3], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    for size in (100, 9_000_000):
        path.write_bytes(bytes(size))
        descriptor = os.open(path, os.O_RDONLY)
        try:
            content = Content.of_file(descriptor, size)
            path.write_bytes(b"x" * size)
            with pytest.raises(Conflict, match="changed while it was uploaded"):
                Write(opened(), shop.results, f"torn-{size}").put(content)
        finally:
            os.close(descriptor)
        with pytest.raises(NotFound):
            await shop.store.head(shop.results, f"torn-{size}")


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", b"hello"),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nt: x\r\n\r\n",
            b"hello",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello", None),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", None),
        (b"SSH-2.0-OpenSSH\r\n", None),
        (b"", None),
    ],
)
def test_answers_are_read_whole_or_not_at_all(answer: bytes, body: bytes | None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(65536)
                client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        connection = Connection(Peer("127.0.0.1", port, stall_s=10))
        try:
            if body is None:
                with pytest.raises(Broken):
                    connection.request("GET", "/", {"host": "h"}).body()
            else:
                assert connection.request("GET", "/", {"host": "h"}).body() == body
        finally:
            connection.close()
            thread.join()


@given(st.integers(0, 4_000_000_000))
def test_times_of_headers(second: int) -> None:
    from email.utils import formatdate  # noqa: PLC0415 - the standard's own writer is the oracle

    assert time_s(formatdate(second, usegmt=True)) == second
    assert time_s("yesterday") == 0


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, "PENSTOCK_S3_ENDPOINT"),
        ({"PENSTOCK_S3_ENDPOINT": "h", "PENSTOCK_S3_STYLE": "round"}, "path or virtual"),
        ({"PENSTOCK_S3_ENDPOINT": "h", "PENSTOCK_S3_PATIENCE_S": "long"}, "no number of seconds"),
    ],
)
def test_settings_that_cannot_be_are_named(environ: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        pod.store_settings(pod.Places(), environ)


def test_the_account_is_read_anew_at_each_use(tmp_path: Path) -> None:
    place = pod.Places(store=str(tmp_path))
    with pytest.raises(InvalidInput, match="no access_key"):
        pod.account(place)
    (tmp_path / "access_key").write_text("one\n")
    (tmp_path / "secret_key").write_text("two")
    assert pod.account(place) == ("one", "two", None)
    (tmp_path / "session_token").write_text("three")
    assert pod.account(place).session_token == "three"


def test_a_bundle_that_is_none_is_refused() -> None:
    account = Credentials("a", "b")
    for ca in ("/no/such/file", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----"):
        with pytest.raises(InvalidInput, match="PENSTOCK_S3_CA"):
            S3(Settings(endpoint="https://h", account=lambda: account, ca=ca))


def test_files_are_opened_inside_of_their_folder_alone(tmp_path: Path) -> None:
    root = tmp_path / "out"
    (root / "in").mkdir(parents=True)
    (root / "in" / "file").write_text("x")
    (tmp_path / "secret").write_text("s")
    os.close(pod.open_inside(f"{root}/in/file", str(root)))
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "folder").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    for name in ("link", "folder/secret", "pipe", "../secret", "in"):
        with pytest.raises(OSError, match=r".+"):
            pod.open_inside(f"{root}/{name}", str(root))


def test_a_sidecar_starts_without_what_it_does_not_use() -> None:
    """Start-up time is a promise; these are what would break it."""
    code = (
        "import sys; sys.modules['typing_extensions'] = None\n"
        "import dispatcher.sidecar.input, dispatcher.sidecar.output\n"
        "heavy = {'asyncio', 'aiohttp', 'http.client', 'email', 'inspect', 'pathlib', 'ssl', 'structlog', 'yaml'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_wrong_use_is_said(tmp_path: Path) -> None:
    def start(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {"PENSTOCK_POD_RUN": str(tmp_path), "PENSTOCK_POD_OWN": str(tmp_path), "PATH": os.environ["PATH"]}
        command = [sys.executable, "-m", "dispatcher.sidecar", *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    assert start("inputs").returncode == 2
    assert "usage:" in start().stderr
    broken = start("input")  # there is no plan
    assert broken.returncode == 1
    assert broken.stderr.startswith("input: the pod cannot be read or written")
    assert "Traceback" not in broken.stderr
    (tmp_path / "plan.json").write_bytes(msgspec.json.encode({}))
