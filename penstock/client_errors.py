"""What can go wrong between a client and a server, beyond `penstock.errors`, and how answers become errors.

Kept apart from `penstock.client` so that a caller can catch these without importing an HTTP client (half a second of
start-up on a small machine).
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from penstock import errors


class Unauthenticated(errors.Forbidden):
    """The server asks for a credential, or does not know the one it got."""

    code = "unauthenticated"


class Unreachable(errors.Unavailable):
    """No server answered at this address."""

    code = "unreachable"


class NoServer(errors.PenstockError):
    """No server is named, and none is found to run on this machine."""

    code = "no_server"


class TooLarge(errors.PenstockError):
    """The body is larger than the server takes."""

    code = "too_large"


class RunFailed(errors.PenstockError):
    """A synchronous run did not succeed. `invocation` names it; "" = it never became one."""

    code = "run_failed"

    def __init__(self, message: str, *, invocation: str = "") -> None:
        super().__init__(message)
        self.invocation = invocation


class RunTimedOut(RunFailed):
    """A synchronous run did not end in time. The work goes on; `invocation` names it."""

    code = "run_timed_out"


_BY_CODE: Mapping[str, type[errors.PenstockError]] = {
    kind.code: kind
    for kind in (
        errors.NotFound,
        errors.AlreadyExists,
        errors.Forbidden,
        errors.Unsupported,
        errors.Superseded,
        errors.Conflict,
        errors.Unavailable,
        errors.OutOfSpace,
        errors.Closed,
        errors.Corrupt,
        Unauthenticated,
        TooLarge,
    )
}
_BY_STATUS: Mapping[int, type[errors.PenstockError]] = {
    401: Unauthenticated,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    413: TooLarge,
    422: errors.Unsupported,
    502: errors.Unavailable,
    503: errors.Unavailable,
    504: errors.Unavailable,
    507: errors.OutOfSpace,
}


def error_of(status: int, body: bytes) -> errors.PenstockError:
    """Return the error that an answer of 400 or more means; both forms of body (JSON, one sentence) are understood."""
    text = body.decode("utf-8", "replace").strip()
    code = where = ""
    try:
        told = json.loads(text)["error"]
        code, text, where = told["code"], told["message"], told.get("where") or ""
    except (ValueError, KeyError, TypeError):
        pass  # plain text, or a proxy's page
    text = text or f"the server answered {status} without a word"
    if code == errors.InvalidInput.code or (not code and status == 400):
        # `where` may already stand at the head of the message.
        return errors.InvalidInput(text, where="" if text.startswith(f"{where}:") else where)
    return _BY_CODE.get(code, _BY_STATUS.get(status, errors.PenstockError))(text)
