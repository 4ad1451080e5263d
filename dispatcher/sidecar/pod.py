"""Where things are in the pod, and what the two sidecars are told: places, the plan, the items, cancels, the store.

/oscar/run is shared with user code, which may put anything there, links too; so what is read from it is opened by
`open_inside`, which looks where the opened file really lies.
"""

# Plain os calls, no Path objects: pathlib is not even imported, which is a part of the start-up time.
# ruff: noqa: PTH110, PTH115, PTH116, PTH123

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

import msgspec

from dispatcher.sidecar import s3
from penstock.adapters.s3.endpoint import Style
from penstock.adapters.s3.sigv4 import Credentials
from penstock.errors import InvalidInput
from penstock.model import JobItem, JobPlan

#: FIFOs in the folder shared with user code: the launcher's words, and those for it.
ALIVE, ACK = "alive", "ack"
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LONGEST_SECRET = 64 * 1024


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Folders of the pod. Only tests have others than these."""

    run: str = "/oscar/run"
    job: str = "/oscar/job"
    store: str = "/oscar/store"
    #: Keys of the other stores that outputs go to; only `output` has it.
    stores: str = "/oscar/stores"
    #: The sidecars' own, which user code does not see.
    own: str = "/tmp"  # noqa: S108 - a mount of theirs

    @property
    def pair(self) -> str:
        """The socket between the two sidecars."""
        return f"{self.own}/pair"

    def item(self, index: int) -> str:
        return f"{self.run}/items/{index}"


def places(environ: Mapping[str, str]) -> Places:
    return Places(
        run=os.path.realpath(environ.get("PENSTOCK_POD_RUN", Places().run)),
        job=environ.get("PENSTOCK_POD_JOB", Places().job),
        store=environ.get("PENSTOCK_POD_STORE", Places().store),
        stores=environ.get("PENSTOCK_POD_STORES", Places().stores),
        own=environ.get("PENSTOCK_POD_OWN", Places().own),
    )


def read_plan(place: Places) -> JobPlan:
    """Raises OSError, msgspec.DecodeError."""
    return msgspec.json.decode(_whole(f"{place.job}/plan.json"), type=JobPlan)


def read_items(place: Places) -> tuple[JobItem, ...]:
    """Raises OSError, msgspec.DecodeError."""
    packed = f"{place.job}/items.json.gz"
    if os.path.exists(packed):
        import gzip  # noqa: PLC0415 - only for lists of thousands

        return msgspec.json.decode(gzip.decompress(_whole(packed)), type=tuple[JobItem, ...])
    return msgspec.json.decode(_whole(f"{place.job}/items.json"), type=tuple[JobItem, ...])


def _whole(path: str) -> bytes:
    with open(path, "rb", buffering=0) as stream:
        return stream.readall()


class Cancels:
    """The file of cancels, which grows while the pod runs: an invocation a line, and after a blank the reason."""

    def __init__(self, place: Places) -> None:
        self._path = f"{place.job}/cancel"
        self._seen: tuple[int, int, int] | None = None
        self._reasons: dict[str, str] = {}

    def read(self) -> Mapping[str, str]:
        """Reason by invocation. A file that is not there says nothing."""
        try:
            status = os.stat(self._path)
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen != self._seen:
                text = _whole(self._path).decode("utf-8", "replace")
                pairs = (line.partition(" ") for line in text.splitlines() if line)
                self._reasons = {invocation: reason.strip() for invocation, _, reason in pairs}
                self._seen = seen
        except FileNotFoundError:
            return {}
        return self._reasons


def store_settings(place: Places, environ: Mapping[str, str]) -> s3.Settings:
    """From PENSTOCK_S3_ENDPOINT, _REGION, _STYLE, _CA and _PATIENCE_S. Raises InvalidInput."""
    endpoint = environ.get("PENSTOCK_S3_ENDPOINT", "")
    if not endpoint:
        raise InvalidInput("it is not set: give the URL of the object store", where="PENSTOCK_S3_ENDPOINT")
    style = environ.get("PENSTOCK_S3_STYLE", Style.PATH.value)
    if style not in {one.value for one in Style}:
        raise InvalidInput(f"{style!r} is no style of addresses: use path or virtual", where="PENSTOCK_S3_STYLE")
    patience = environ.get("PENSTOCK_S3_PATIENCE_S", "120")
    if not patience.isdigit():
        raise InvalidInput(f"{patience!r} is no number of seconds", where="PENSTOCK_S3_PATIENCE_S")
    return s3.Settings(
        endpoint=endpoint,
        account=lambda: account(place),
        region=environ.get("PENSTOCK_S3_REGION", "us-east-1"),
        style=Style(style),
        ca=environ.get("PENSTOCK_S3_CA", ""),
        patience_s=float(patience),
    )


def account(place: Places) -> Credentials:
    """Read anew at each use, since accounts are rotated. Raises InvalidInput, never with a part of a key."""
    return Credentials(
        _secret(place, "access_key"),
        _secret(place, "secret_key"),
        _secret(place, "session_token", optional=True) or None,
    )


def _secret(place: Places, name: str, *, optional: bool = False) -> str:
    try:
        text = _whole(f"{place.store}/{name}").decode("ascii").strip()
    except FileNotFoundError:
        text = ""
    except (OSError, ValueError) as error:
        raise InvalidInput(f"the store account's {name} cannot be read", where=place.store) from error
    if not text and not optional:
        raise InvalidInput(f"the store account has no {name}: the function's Secret must have it", where=place.store)
    return text


def open_inside(path: str, root: str) -> int:
    """Open a regular file that lies below `root` (absolute, without links) and nowhere else. Raises OSError.

    User code can replace any folder on the way by a link between a look and the opening, so the opened file is asked.
    """
    descriptor = os.open(path, _OPEN_FLAGS)
    if stat.S_ISREG(os.fstat(descriptor).st_mode) and os.readlink(f"/proc/self/fd/{descriptor}").startswith(f"{root}/"):
        return descriptor
    os.close(descriptor)
    raise OSError(22, "it is no file of the item's own")
