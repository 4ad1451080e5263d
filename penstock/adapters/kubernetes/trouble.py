"""From what the API server answers to Penstock's errors. Pure.

What may be tried again with the same words is `Unavailable` or a child of it, and nothing else is: the outcomes of a
submission (architecture, section 7) are told apart by class.
"""

from __future__ import annotations

import msgspec

from penstock.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    OutOfSpace,
    PenstockError,
    Unavailable,
)

_MESSAGE_LIMIT = 600
#: No server may make us wait longer on its own word.
_LONGEST_WAIT_S = 60.0


class QuotaExceeded(Forbidden):
    """A ResourceQuota of the namespace is used up: the function waits until something is freed."""

    code = "quota"


class NamespaceMissing(Forbidden):
    """The namespace is not there or is going away. Nothing is lost; nothing can run until somebody makes it."""

    code = "namespace_missing"


class Refused(InvalidInput):
    """The API server does not accept the document itself: trying again would change nothing."""

    code = "refused"


class Expired(Conflict):
    """The version that a list or watch was to go on from is gone: begin anew."""

    code = "expired"


class DisruptionRefused(Conflict):
    """A disruption budget does not allow an eviction now. Nothing about the server's load, although it answers 429."""

    code = "disruption_budget"


class Pushback(Unavailable):
    """The server is there and asks for less (429) or is in trouble (5xx). `after_s` = its word when to come again."""

    code = "pushback"

    def __init__(self, message: str, *, after_s: float = 0.0) -> None:
        super().__init__(message)
        self.after_s = after_s


class _Cause(msgspec.Struct):
    reason: str = ""


class _Details(msgspec.Struct):
    kind: str = ""
    retryAfterSeconds: float = 0  # noqa: N815 - the API's name
    causes: list[_Cause] = []


class _Status(msgspec.Struct):
    message: str = ""
    reason: str = ""
    details: _Details | None = None
    code: int = 0


_decode = msgspec.json.Decoder(_Status).decode


def trouble(status: int, body: bytes, *, what: str, retry_after: str = "") -> PenstockError:
    """The error for an answer of 400 or more. `what` names the request; `retry_after` is the header of that name."""
    said = _read(body)
    details = said.details or _Details()
    text = f"{what}: {said.message[:_MESSAGE_LIMIT] or f'the API server answered {status}'}"
    if status == 403:
        return _forbidden(text, said, details)
    if status == 404:
        return NamespaceMissing(text) if details.kind == "namespaces" else NotFound(text)
    if status == 409:
        return _conflict(text, said)
    if status == 410:
        return Expired(text)
    if status == 429 and any(cause.reason == "DisruptionBudget" for cause in details.causes):
        return DisruptionRefused(text)
    if status in {401, 408, 429} or status >= 500:
        if "space exceeded" in said.message:
            return OutOfSpace(text)
        return Pushback(text, after_s=_wait(retry_after, details))
    return Refused(text)


def _read(body: bytes) -> _Status:
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # A proxy on the way, or the server before it is ready, answers in plain text.
        return _Status(message=body[:200].decode("utf-8", "replace").strip())


def _forbidden(text: str, said: _Status, details: _Details) -> PenstockError:
    if "exceeded quota" in said.message or "must specify" in said.message:
        return QuotaExceeded(text)
    if any(cause.reason == "NamespaceTerminating" for cause in details.causes):
        return NamespaceMissing(text)
    return Forbidden(text)


def _conflict(text: str, said: _Status) -> PenstockError:
    if said.reason == "AlreadyExists":
        return AlreadyExists(text)
    if "resourcequotas" in said.message:
        # Two admissions counted against one quota at the same time: nothing about the object itself.
        return Pushback(text)
    return Conflict(text)


def _wait(header: str, details: _Details) -> float:
    try:
        seconds = float(header) if header else details.retryAfterSeconds
    except ValueError:  # a date: allowed by HTTP, never sent by an API server
        seconds = details.retryAfterSeconds
    return max(0.0, min(seconds, _LONGEST_WAIT_S))
