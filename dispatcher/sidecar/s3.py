"""The object store as a sidecar sees it: a small blocking S3 client that shares signatures, endpoints, metadata and
errors with the asynchronous adapter, and starts in a fraction of its time.

Requests that only read are sent again when they fail for a reason that passes. A write whose answer was lost is looked
for first, and sent again only on condition that nothing has come there since: a second version would fire the next
function again.
"""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from dispatcher.sidecar.http1 import Answer, Broken, Connection, FilePart, Peer
from penstock.adapters.s3 import metadata as meta
from penstock.adapters.s3.endpoint import Style, parse_endpoint
from penstock.adapters.s3.etags import plain_md5, version_of
from penstock.adapters.s3.retrying import pause_s, retry_after_s
from penstock.adapters.s3.sigv4 import EMPTY_SHA256, Credentials, Scope, query_string, sign
from penstock.adapters.s3.store_clock import StoreClock
from penstock.adapters.s3.trouble import Failure, Refused, Target, Wish, code_of, translate
from penstock.errors import Corrupt, InvalidInput, PenstockError, Superseded, Unavailable
from penstock.model import ObjectInfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl

_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,64})</Code>")
_KEY = re.compile(rb"<Key>([^<]*)</Key>")
_NO_SPACE = b"no space left on device"
_MONTHS = "JanFebMarAprMayJunJulAugSepOctNovDec"

Query = Sequence[tuple[str, str]]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the store is and how patient to be; `account` is asked for each request, so rotated keys are taken up."""

    endpoint: str
    account: Callable[[], Credentials]
    region: str = "us-east-1"
    style: Style = Style.PATH
    #: Authorities to trust: a PEM file's path or its text; "" = the system's.
    ca: str = ""
    #: False = any certificate will do. Only for other stores whose user says so.
    verified: bool = True
    #: Seconds of trying what fails for a reason that may pass.
    patience_s: float = 120.0
    #: Seconds since the epoch by this machine.
    clock: Callable[[], float] = time.time


class Doubtful(Unavailable):
    """A write may have been carried out: no answer came, or one that says neither."""


class Blob(msgspec.Struct, frozen=True, kw_only=True):
    """What is written: bytes, or a part of an open file, with the SHA-256 that the store is to find."""

    data: bytes | FilePart
    sha256: str


class S3:
    """`waiting` is called while it waits and between pieces of a download; what it raises ends the work."""

    def __init__(self, settings: Settings, waiting: Callable[[], None] = lambda: None) -> None:
        """Raises InvalidInput for an endpoint or bundle that cannot be used."""
        self._settings = settings
        self._endpoint = parse_endpoint(settings.endpoint, settings.style)
        self._scope = Scope(settings.region)
        self._waiting = waiting
        self._tls = _trust(settings.ca, verified=settings.verified) if self._endpoint.secure else None
        self._connections: dict[str, Connection] = {}
        self._clock = StoreClock(settings.clock)

    # Requests

    def _once(
        self, method: str, target: Target, *, query: Query = (), headers: Mapping[str, str] | None = None,
        blob: Blob | None = None, stream: bool = False,
    ) -> Answer:  # fmt: skip
        """One exchange. Raises Broken, and Refused's error for what is no success."""
        host, path = self._endpoint.place(target.bucket, target.key)
        text = query_string(query)
        signed = sign(
            self._settings.account(), self._scope, self._clock.now_s(), method=method, path=path, query=text,
            headers={"host": host, **(headers or {})},
            payload_hash=EMPTY_SHA256 if blob is None else blob.sha256,
        )  # fmt: skip
        where = f"{path}?{text}" if text else path
        answer = self._connection(host).request(method, where, signed, b"" if blob is None else blob.data)
        if answer.status < 300:
            if not stream:
                answer.body()
            return answer
        body = answer.body()
        if answer.status == 403 and self._clock.corrected(time_s(answer.headers.get("date", ""))):
            return self._once(method, target, query=query, headers=headers, blob=blob, stream=stream)
        code = _CODE.search(body)
        word = code.group(1).decode() if code else ""
        if _NO_SPACE in body:
            word = "XMinioStorageFull"
        marker = answer.headers.get("x-amz-delete-marker") == "true"
        failure = Failure(answer.status, word, retry_after_s(answer.headers.get("retry-after")), marker)
        raise translate(failure, target) from Refused(failure)

    def _connection(self, host: str) -> Connection:
        found = self._connections.get(host)
        if found is None:
            name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "")
            number = int(port) if port else 443 if self._endpoint.secure else 80
            found = self._connections[host] = Connection(Peer(name.strip("[]"), number, self._tls))
        return found

    def send(
        self, method: str, target: Target, *, query: Query = (), headers: Mapping[str, str] | None = None,
        blob: Blob | None = None, repeatable: bool = True, stream: bool = False,
    ) -> Answer:  # fmt: skip
        """The answer of a success, with its `content`, or with its body unread for `stream`.

        `repeatable` = sent again until it succeeds or patience ends; else what may have been carried out raises
        Doubtful. Raises what `trouble.translate` says.
        """
        waits = self.waits(target)
        while True:
            try:
                return self._once(method, target, query=query, headers=headers, blob=blob, stream=stream)
            except Broken as error:
                if error.sent and not repeatable:
                    raise Doubtful(f"{target} cannot be {target.wish}, or is not known to be: {error}") from error
                waits.after(error, str(error))
            except Unavailable as error:
                refusal = error.__cause__
                if not isinstance(refusal, Refused) or not refusal.failure.busy:
                    raise
                if not repeatable:
                    raise Doubtful(error.message) from refusal
                waits.after(error, error.message, refusal.failure.retry_after_s)

    def waits(self, target: Target) -> Waits:
        return Waits(target, self._settings.patience_s, self._waiting)

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()

    # Reading

    def head(self, bucket: str, key: str, *, version_id: str | None = None) -> ObjectInfo:
        """Raises NotFound. The times have whole seconds."""
        target = Target(Wish.READ, bucket, key, version_id)
        answer = self.send("HEAD", target, query=_version(version_id))
        return _info(target, answer)

    def read(self, bucket: str, key: str, *, limit: int) -> bytes:
        """A small object of the platform's own. Raises NotFound, Corrupt when it is longer than `limit`."""
        target = Target(Wish.READ, bucket, key)
        data = self.send("GET", target).content
        if len(data) > limit:
            raise Corrupt(f"{target} is longer than {limit} bytes")
        return data

    def fetch(self, info: ObjectInfo, write: Callable[[bytes], object]) -> None:
        """Give exactly this version to `write`, piece by piece, over as many connections as it takes.

        Raises NotFound, Superseded (another version is there), Corrupt, Unavailable, and what `write` raises.
        """
        download = _Download(info)
        target = download.target
        waits = self.waits(target)
        while True:
            answer = self.send("GET", target, query=_version(info.version_id), headers=download.headers(), stream=True)
            began = download.position
            try:
                download.check(answer)
                for piece in answer.chunks():
                    download.take(piece)
                    write(piece)
                    self._waiting()
                broken: Exception | None = None
            except Broken as error:
                broken = error
            if download.position >= info.size or broken is None:
                break
            if download.position > began:
                waits = self.waits(target)
            waits.after(broken, str(broken))
        download.finish()

    def keys(self, bucket: str, prefix: str) -> Iterator[str]:
        """Keys that hold nothing which XML or a URL would escape. Raises NotFound (bucket)."""
        after: str | None = None
        while True:
            query = [("list-type", "2"), ("prefix", prefix), *([("start-after", after)] if after else [])]
            body = self.send("GET", Target(Wish.LISTED, bucket), query=query).content
            for found in _KEY.findall(body):
                after = found.decode()
                yield after
            if b"<IsTruncated>true</IsTruncated>" not in body or after is None:
                return

    def create_bucket(self, bucket: str) -> None:
        """Idempotent. Raises Forbidden where the account may not."""
        try:
            self.send("PUT", Target(Wish.WRITTEN, bucket))
        except PenstockError as error:
            if code_of(error) != "BucketAlreadyOwnedByYou":
                raise


class Waits:
    """The pauses between tries of one thing, as long as patience lasts."""

    def __init__(self, target: Target, patience_s: float, waiting: Callable[[], None]) -> None:
        self._target = target
        self._until = time.monotonic() + patience_s
        self._waiting = waiting
        self._tries = 0

    def after(self, error: Exception, words: str, asked_s: float | None = None) -> None:
        """Wait before the next try. Raises Unavailable: patience has ended."""
        self._tries += 1
        pause = pause_s(self._tries, random.random(), asked_s)  # noqa: S311 - spreads clients, hides nothing
        if time.monotonic() + pause >= self._until:
            what = f"{self._target} cannot be {self._target.wish}"
            message = (
                words if isinstance(error, PenstockError) else f"{what}: the object store does not answer ({words})"
            )
            raise Unavailable(message) from error
        self._waiting()
        time.sleep(pause)


class _Download:
    """How far one version has come, and whether it still is that version."""

    def __init__(self, info: ObjectInfo) -> None:
        self.target = Target(Wish.READ, info.bucket, info.key, info.version_id)
        self.position = 0
        self._info = info
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._expected: str | None = None

    def headers(self) -> dict[str, str]:
        headers = {"if-match": f'"{self._info.etag}"'} if self._info.etag else {}
        if self.position:
            headers["range"] = f"bytes={self.position}-"
        return headers

    def check(self, answer: Answer) -> None:
        """Raises Superseded, Corrupt."""
        info = self._info
        if self.position and answer.status != 206:
            raise Corrupt(f"{self.target} cannot be read from its middle: the object store ignores ranges")
        modified = time_s(answer.headers.get("last-modified", ""))
        # Without a version id the same bytes written again have the same etag: the second tells them apart.
        if info.version_id is None and info.modified_ms and modified and modified != info.modified_ms // 1000:
            raise Superseded(f"{self.target} was replaced by another version")
        if not self.position:
            self._expected = plain_md5(answer.headers.get("etag", "").strip('"'), answer.headers)

    def take(self, piece: bytes) -> None:
        self.position += len(piece)
        if self._expected is not None:
            self._md5.update(piece)

    def finish(self) -> None:
        if self.position != self._info.size:
            raise Superseded(f"{self.target} was replaced: it has {self.position} bytes instead of {self._info.size}")
        if self._expected is not None and self._md5.hexdigest() != self._expected:
            raise Corrupt(f"{self.target} arrived damaged: its content does not have the MD5 of its etag")


def _version(version_id: str | None) -> Query:
    return () if version_id is None else (("versionId", version_id),)


def _info(target: Target, answer: Answer) -> ObjectInfo:
    headers = answer.headers
    modified_ms = time_s(headers.get("last-modified", "")) * 1000
    return ObjectInfo(
        bucket=target.bucket,
        key=target.key,
        etag=headers.get("etag", "").strip('"'),
        size=int(headers.get("content-length", "0")),
        modified_ms=modified_ms,
        arrived_ms=modified_ms,
        version_id=version_of(headers.get("x-amz-version-id")),
        metadata=meta.decode(headers),
    )


def time_s(text: str) -> int:
    """Seconds since the epoch of `Wed, 21 Oct 2015 07:28:00 GMT`; 0 = it cannot be read."""
    try:
        _, day, month, year, clock, _ = text.split()
        hours, minutes, seconds = clock.split(":")
        number = _MONTHS.index(month) // 3 + 1
        moment = datetime(int(year), number, int(day), int(hours), int(minutes), int(seconds), tzinfo=UTC)
        return int(moment.timestamp())
    except ValueError:
        return 0


def _trust(ca: str, *, verified: bool) -> ssl.SSLContext:
    """Raises InvalidInput."""
    import ssl  # noqa: PLC0415 - 15 ms that a store in the clear does not cost

    try:
        if not verified:
            blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            blind.check_hostname = False
            blind.verify_mode = ssl.CERT_NONE
            return blind
        if ca.lstrip().startswith("-----BEGIN"):
            return ssl.create_default_context(cadata=ca)
        return ssl.create_default_context(cafile=ca or None)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise InvalidInput(
            "the authorities of the object store cannot be read: give a PEM file's path or its text",
            where="PENSTOCK_S3_CA",
        ) from error
