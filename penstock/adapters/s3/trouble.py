"""What an error answer means: status and S3 code into Penstock's error tree, as one sentence that holds no secret.

Pure. The store's own message is never repeated: it may hold an access key, and its wording is not ours to promise.
"""

from __future__ import annotations

import enum

import msgspec

from penstock.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    OutOfSpace,
    PenstockError,
    Superseded,
    Unavailable,
    Unsupported,
)

FULL_CODES = frozenset({"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage"})
BUSY_CODES = frozenset(
    {
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "InternalError",
        "ServiceUnavailable",
        "RequestTimeout",
        "TooManyRequests",
        "RequestTimeTooSkewed",
        "XMinioServerNotInitialized",
        "XMinioBackendDown",
        "OperationAborted",
        "ConditionalRequestConflict",
    }
)
BUSY_STATUS = frozenset({408, 429, 500, 502, 503, 504})
BAD_NAME_CODES = frozenset(
    {
        "XMinioInvalidObjectName",
        "XMinioInvalidResourceName",
        "KeyTooLongError",
        "XMinioObjectExistsAsDirectory",
        "InvalidURI",
    }
)
_NO_VERSION = frozenset({"NoSuchVersion", "InvalidVersionId"})


class Refused(Exception):
    """The answer behind an error, kept as its cause. Never leaves the adapter on its own."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"the object store answered {failure.status} {failure.code}".rstrip())
        self.failure = failure


class OutOfRange(InvalidInput):
    """A read began behind the end of the object."""


def code_of(error: BaseException) -> str:
    """The S3 code behind an error; empty where there is none."""
    return error.__cause__.failure.code if isinstance(error.__cause__, Refused) else ""


def is_delete_marker(error: BaseException) -> bool:
    """Whether a NotFound is of an object that was deleted while its versions are kept."""
    return isinstance(error.__cause__, Refused) and error.__cause__.failure.delete_marker


class Wish(enum.StrEnum):
    """What was asked for, for the sentence."""

    READ = "read"
    WRITTEN = "written"
    DELETED = "deleted"
    LISTED = "listed"
    CHANGED = "changed"


class Failure(msgspec.Struct, frozen=True):
    """An answer that is no success: HTTP status, S3 code (empty where there was no body), and the wait it asks for."""

    status: int
    code: str = ""
    retry_after_s: float | None = None
    #: The object was deleted, but older versions of it are kept.
    delete_marker: bool = False

    @property
    def busy(self) -> bool:
        """The same request may succeed later."""
        if self.code in FULL_CODES or self.status == 507:
            return False
        return self.status in BUSY_STATUS or self.code in BUSY_CODES


class Target(msgspec.Struct, frozen=True):
    """What a request is about."""

    wish: Wish
    bucket: str
    key: str = ""
    version_id: str | None = None

    def __str__(self) -> str:
        if not self.bucket:
            return "the store's buckets"
        if not self.key:
            return f"the bucket {self.bucket!r}"
        version = f"the version {self.version_id!r} of " if self.version_id is not None else ""
        return f"{version}the object {self.key[:200]!r} in bucket {self.bucket!r}"


def translate(failure: Failure, target: Target) -> PenstockError:
    """The error to raise for an answer."""
    code = failure.code
    what = f"{target} cannot be {target.wish}"
    if failure.status == 404 or code in _NO_VERSION or _no_such_version(failure, target):
        return _absent(code, target)
    if failure.status == 416:
        return OutOfRange(f"{what}: the range lies behind its end")
    if code in FULL_CODES or failure.status == 507:
        return OutOfSpace(f"{what}: the object store is full or its quota is used up; free space or raise the quota")
    if code == "RequestTimeTooSkewed":
        return Unavailable(f"{what}: the clocks of this machine and of the object store differ too much; set them")
    if failure.busy:
        return Unavailable(f"{what}: the object store answered {_named(failure)}; it may work later")
    if failure.status in {401, 403}:
        return Forbidden(f"{what}: the object store refused it ({_named(failure)}); check the account and its policy")
    if failure.status == 412:
        return _unmet(target)
    if code in BAD_NAME_CODES:
        return _badly_named(code, target)
    return _refused(failure, what, target)


def _no_such_version(failure: Failure, target: Target) -> bool:
    """Stores call an id that cannot be one a bad argument, and reading a delete marker a wrong method."""
    if target.version_id is None:
        return False
    return failure.status == 405 or (failure.status == 400 and failure.code in {"", "InvalidArgument"})


def _refused(failure: Failure, what: str, target: Target) -> PenstockError:
    code = failure.code
    if code == "BucketNotEmpty":
        return Conflict(f"the bucket {target.bucket!r} is not empty: delete its objects first")
    if code == "BucketAlreadyExists":
        return AlreadyExists(f"the bucket name {target.bucket!r} is taken by another account; choose another")
    if code == "InvalidBucketName":
        return InvalidInput(f"the bucket name {target.bucket!r} is not allowed by the object store")
    if code == "MetadataTooLarge":
        return InvalidInput(f"{what}: its metadata is larger than the object store takes; shorten it")
    if failure.status == 501 or code in {"NotImplemented", "MethodNotAllowed"}:
        return Unsupported(f"{what} in this way: the object store cannot do it ({_named(failure)})")
    if failure.status == 409:
        return Conflict(f"{what}: another change came first ({_named(failure)}); try again")
    return InvalidInput(f"{what}: the object store did not accept the request ({_named(failure)})")


def _named(failure: Failure) -> str:
    return f"{failure.status} {failure.code}".rstrip()


def _absent(code: str, target: Target) -> NotFound:
    if code == "NoSuchBucket" or not target.key:
        return NotFound(f"there is no bucket {target.bucket!r}")
    if target.version_id is not None:
        return NotFound(f"there is no version {target.version_id!r} of {target.key[:200]!r} in {target.bucket!r}")
    return NotFound(f"there is no object {target.key[:200]!r} in bucket {target.bucket!r}")


def _unmet(target: Target) -> PenstockError:
    if target.wish is Wish.WRITTEN:
        return AlreadyExists(f"there is already {target}")
    return Superseded(f"{target} was replaced by another version")


def _badly_named(code: str, target: Target) -> PenstockError:
    if target.wish is Wish.WRITTEN:
        return Unsupported(f"the key {target.key[:200]!r} cannot be stored: this object store refuses it ({code})")
    return NotFound(f"there is no object {target.key[:200]!r} in bucket {target.bucket!r}: such a key is impossible")


def impossible(why: str, target: Target) -> PenstockError:
    """The error for a key that `names.objection` objects to."""
    if target.wish is Wish.WRITTEN:
        return Unsupported(f"the key {target.key[:200]!r} cannot be stored: {why}")
    return NotFound(f"there is no object {target.key[:200]!r} in bucket {target.bucket!r}: {why}")
