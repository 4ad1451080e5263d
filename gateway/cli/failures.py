"""How a failure leaves the program: one sentence on stderr and an exit code that tells the cause."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from penstock import errors
from penstock.client_errors import NoServer

__all__ = ["EXIT_CODES", "NoServer", "WorkFailed", "exit_code"]

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NO_SERVER: Final = 3
NOT_AUTHORISED: Final = 4
NOT_FOUND: Final = 5
CONFLICT: Final = 6
INVALID: Final = 7
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141

#: By the error's own code, so that importing this needs no HTTP client.
EXIT_CODES: Mapping[str, int] = {
    "invalid": INVALID,
    "unsupported": INVALID,
    "too_large": INVALID,
    "not_found": NOT_FOUND,
    "forbidden": NOT_AUTHORISED,
    "unauthenticated": NOT_AUTHORISED,
    "already_exists": CONFLICT,
    "conflict": CONFLICT,
    "superseded": CONFLICT,
    "unavailable": NO_SERVER,
    "unreachable": NO_SERVER,
    "no_server": NO_SERVER,
}


class WorkFailed(errors.PenstockError):
    """The command itself worked, and what it was to bring about failed."""

    code = "work_failed"


def exit_code(error: errors.PenstockError) -> int:
    """Return the exit code of an error; what the table does not name is plain failure."""
    return EXIT_CODES.get(error.code, FAILED)
