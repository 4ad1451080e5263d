"""Writing to the object store from a sidecar: one PUT, or parts whose completion comes last; each exactly once.

A key appears whole or not at all, so nothing is staged elsewhere and copied. The store compares each body with the
SHA-256 that was computed before, so a file that something still writes to is refused, not published torn.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Mapping
from typing import NamedTuple

from dispatcher.sidecar.http1 import Answer, FilePart
from dispatcher.sidecar.s3 import S3, Blob, Doubtful
from penstock.adapters.s3 import metadata as meta
from penstock.adapters.s3.names import objection
from penstock.adapters.s3.trouble import Failure, Refused, Target, Wish, code_of, impossible, translate
from penstock.errors import AlreadyExists, Conflict, NotFound, PenstockError, Unavailable, Unsupported

MIB = 1024 * 1024
#: Largest single PUT and smallest part.
PART_BYTES = 8 * MIB
#: S3 takes 10,000.
_MOST_PARTS = 9_000
_UPLOAD = re.compile(rb"<UploadId>([^<]{1,1024})</UploadId>")
_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,64})</Code>")
_ETAG = re.compile(rb"<ETag>(?:&#34;|&quot;|\")?([^<&\"]*)")


class Content(NamedTuple):
    """What is to be written: an open file in pieces, or one piece of bytes; `sha256` is of the whole."""

    blobs: tuple[Blob, ...]
    size: int
    sha256: str

    @classmethod
    def of_bytes(cls, data: bytes) -> Content:
        digest = hashlib.sha256(data).hexdigest()
        return cls((Blob(data=data, sha256=digest),), len(data), digest)

    @classmethod
    def of_file(cls, descriptor: int, size: int, *, part_bytes: int = PART_BYTES) -> Content:
        """Reads the file once, from its beginning. Up to `part_bytes` it is one PUT. Raises OSError."""
        if size <= part_bytes:
            whole = hashlib.sha256()
            _digest(descriptor, 0, size, (whole,))
            digest = whole.hexdigest()
            return cls((Blob(data=FilePart(descriptor, 0, size), sha256=digest),), size, digest)
        step = max(part_bytes, -(-size // _MOST_PARTS))
        whole = hashlib.sha256()
        blobs: list[Blob] = []
        for position in range(0, size, step):
            length = min(step, size - position)
            part = hashlib.sha256()
            _digest(descriptor, position, length, (whole, part))
            blobs.append(Blob(data=FilePart(descriptor, position, length), sha256=part.hexdigest()))
        return cls(tuple(blobs), size, whole.hexdigest())


def _digest(descriptor: int, start: int, length: int, into: tuple[hashlib._Hash, ...]) -> None:
    position, end = start, start + length
    while position < end:
        data = os.pread(descriptor, min(MIB, end - position), position)
        if not data:
            raise OSError(5, "it became shorter while it was read")
        for digest in into:
            digest.update(data)
        position += len(data)


class Write:
    """One intended write of one object: `put` carries it out once, whatever answers are lost.

    `ours` tells from an object's metadata whether it is what this write would make, also by an earlier try of ours.
    """

    def __init__(
        self, store: S3, bucket: str, key: str, *, metadata: Mapping[str, str] | None = None,
        ours: Callable[[Mapping[str, str]], bool] = lambda _: False,
    ) -> None:  # fmt: skip
        """Raises InvalidInput (metadata), Unsupported (key)."""
        self._store = store
        self._target = Target(Wish.WRITTEN, bucket, key)
        # A server's own rules are the server's to apply; an empty key would be the bucket itself.
        if why := objection(key, any_key=True):
            raise impossible(why, self._target)
        self._headers = {
            "content-type": "application/octet-stream",
            **meta.encode(metadata, secrets.token_hex(12)),
        }
        self._number = self._headers[meta.PREFIX + meta.WRITE]
        self._ours = ours

    def put(self, content: Content) -> str:
        """Returns the etag. Raises what `trouble.translate` says, and Conflict for a file that changed meanwhile."""
        try:
            if len(content.blobs) == 1:
                return self._once(lambda condition: self._single(content.blobs[0], condition))
            return self._parts(content)
        except PenstockError as error:
            if code_of(error) in {"XAmzContentSHA256Mismatch", "BadDigest"}:
                raise Conflict(f"{self._target}: the file was changed while it was uploaded") from error
            raise

    def _single(self, blob: Blob, condition: Mapping[str, str]) -> str:
        headers = {**self._headers, **condition}
        answer = self._store.send("PUT", self._target, headers=headers, blob=blob, repeatable=False)
        return answer.headers.get("etag", "").strip('"')

    def _once(self, attempt: Callable[[Mapping[str, str]], str]) -> str:
        condition: Mapping[str, str] = {}
        waits = self._store.waits(self._target)
        doubted = False
        while True:
            try:
                return attempt(condition)
            except Doubtful as error:
                trouble: Exception = error
            except (AlreadyExists, Conflict) as error:  # the condition was not met: something has come there
                if not doubted:
                    raise
                trouble = error
            except Unsupported as error:
                if not condition:
                    raise
                condition, trouble = {}, error  # a store without conditions: a second version is better than none
                continue
            doubted = True
            waits.after(trouble, str(trouble))
            found = self._look()
            if found is None:
                condition = {"if-none-match": "*"}
                continue
            etag, about, number = found
            if number == self._number or self._ours(about):
                return etag
            condition = {"if-match": f'"{etag}"'}

    def _look(self) -> tuple[str, Mapping[str, str], str] | None:
        target = Target(Wish.READ, self._target.bucket, self._target.key)
        try:
            answer = self._store.send("HEAD", target)
        except NotFound:
            return None
        headers = answer.headers
        return headers.get("etag", "").strip('"'), meta.decode(headers), headers.get(meta.PREFIX + meta.WRITE, "")

    # In parts

    def _parts(self, content: Content) -> str:
        upload = self._begin()
        try:
            etags = [self._part(upload, number, blob) for number, blob in enumerate(content.blobs, 1)]
            return self._complete(upload, etags)
        except BaseException:
            self._abort(upload)
            raise

    def _begin(self) -> str:
        answer = self._store.send("POST", self._target, query=(("uploads", ""),), headers=self._headers)
        found = _UPLOAD.search(answer.content)
        if found is None:
            raise Unavailable(f"{self._target} cannot be written: the object store did not name the upload")
        return found.group(1).decode()

    def _part(self, upload: str, number: int, blob: Blob) -> str:
        query = (("partNumber", str(number)), ("uploadId", upload))
        answer = self._store.send("PUT", self._target, query=query, blob=blob)
        return answer.headers.get("etag", "").strip('"')

    def _complete(self, upload: str, etags: list[str]) -> str:
        lines = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>&quot;{etag}&quot;</ETag></Part>"
            for number, etag in enumerate(etags, 1)
        )
        text = f"<CompleteMultipartUpload>{lines}</CompleteMultipartUpload>".encode()
        blob = Blob(data=text, sha256=hashlib.sha256(text).hexdigest())

        def attempt(condition: Mapping[str, str]) -> str:
            headers = {"content-type": "application/xml", **condition}
            try:
                answer = self._store.send(
                    "POST", self._target, query=(("uploadId", upload),), headers=headers, blob=blob, repeatable=False
                )
            except NotFound as error:
                if code_of(error) == "NoSuchUpload":  # after a lost answer: it was carried out
                    raise Doubtful(f"{self._target} cannot be written: its parts are gone") from error
                raise
            return self._completed(answer)

        return self._once(attempt)

    def _completed(self, answer: Answer) -> str:
        """A Complete may fail after its status was sent: then the error is in the body of a 200."""
        body = answer.content
        if b"<Error" in body:
            code = _CODE.search(body)
            failure = Failure(400, code.group(1).decode() if code else "")
            error = translate(failure, self._target)
            if failure.busy:
                raise Doubtful(str(error)) from Refused(failure)
            raise error from Refused(failure)
        found = _ETAG.search(body)
        return found.group(1).decode() if found else ""

    def _abort(self, upload: str) -> None:
        """Best effort: the store itself removes parts that stay."""
        target = Target(Wish.DELETED, self._target.bucket, self._target.key)
        with contextlib.suppress(PenstockError):
            self._store.send("DELETE", target, query=(("uploadId", upload),), repeatable=False)
