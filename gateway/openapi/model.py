"""The words in which an operation is described. Plain data."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TEXT, BYTES, EVENTS = "text/plain", "application/octet-stream", "text/event-stream"


class Access(enum.Enum):
    """Whose credential an operation takes."""

    OPEN = "none needed"
    USER = "administrator or user"
    ADMIN = "administrator"
    INVOKE = "administrator, user, or the function's own token"


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter of the query. `kind` is a JSON type."""

    name: str
    kind: str = "string"
    says: str = ""
    low: int | None = None
    high: int | None = None
    words: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Body:
    """What is sent: a type as JSON, or a media type. `open` = further fields are ignored."""

    kind: Any = None
    media: str = "application/json"
    needed: bool = True


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What is answered: a type as JSON, a media type, or nothing."""

    says: str
    kind: Any = None
    media: str = ""


@dataclass(frozen=True, kw_only=True)
class Operation:
    method: str
    path: str
    says: str
    subject: str
    replies: Mapping[int, Reply]
    #: Refusals beside those that come with the access.
    errors: tuple[int, ...] = ()
    access: Access = Access.USER
    query: tuple[Parameter, ...] = field(default=())
    body: Body | None = None

    @property
    def refusals(self) -> tuple[int, ...]:
        """Every status with an error's sentence."""
        known = {401, 403, 503} if self.access is not Access.OPEN else set()
        bodies = {400, 413} if self.body is not None else set()
        return tuple(sorted(known | bodies | set(self.errors)))


#: What each status means, once for all operations.
MEANINGS = {
    400: "What was sent cannot be accepted; the sentence says what would be right.",
    401: "No credential, or none that is known.",
    403: "The caller may not do this, or has as much as one user may have.",
    404: "There is no such thing.",
    409: "The name is taken, or somebody else was faster, or the thing is past this.",
    413: "The body is larger than this server takes.",
    416: "The range lies outside the object.",
    422: "Understood, and not possible here.",
    429: "The function has as much waiting as it may.",
    500: "The function's script failed.",
    503: "Not now: starting, stopping, busy, or a stalled body.",
    504: "No answer in time; the work goes on.",
    507: "The disk is full; nothing was written.",
}
