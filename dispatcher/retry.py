"""Retry rules: who caused a failure, whether there is another attempt, and when. Pure."""

from __future__ import annotations

import enum
import hashlib

from dispatcher.settings import DispatcherSettings
from penstock.model import ErrorClass


class Blame(enum.Enum):
    """Who answers for an error: decides which budget of retries it uses, and the final phase."""

    SCRIPT = "script"  # the function's own `retries`, then `failed`
    PLATFORM = "platform"  # the platform's retries, then `dead`
    NOBODY = "nobody"  # the input went away or a user cancelled: no retry


_BLAME = {
    ErrorClass.SCRIPT: Blame.SCRIPT,
    ErrorClass.DEADLINE: Blame.SCRIPT,
    ErrorClass.OUT_OF_MEMORY: Blame.SCRIPT,
    # A container killed from outside while it ran: most often by its own doing, and the data plane contract calls it
    # Failed 137. Loss of the node or an eviction is LOST.
    ErrorClass.KILLED: Blame.SCRIPT,
    ErrorClass.INVALID: Blame.NOBODY,
    ErrorClass.STAGE_IN: Blame.PLATFORM,
    ErrorClass.PUBLISH: Blame.PLATFORM,
    ErrorClass.LOST: Blame.PLATFORM,
    ErrorClass.UNSTARTABLE: Blame.PLATFORM,
    ErrorClass.SUPERSEDED: Blame.NOBODY,
    ErrorClass.GONE: Blame.NOBODY,
    ErrorClass.HOP_LIMIT: Blame.NOBODY,
    ErrorClass.CANCELLED: Blame.NOBODY,
}


def blame(error: ErrorClass) -> Blame:
    return _BLAME[error]


def backoff_ms(invocation: str, failures: int, settings: DispatcherSettings) -> int:
    """Milliseconds before the next attempt after the nth failure (n from 1): doubling, capped, with jitter.

    The jitter (half to whole of the nominal delay) comes from the invocation and the count, not from a random source:
    the same history always gives the same plan, and a thousand items that failed together still spread out.
    """
    nominal = min(settings.retry_limit_s, settings.retry_base_s * 2 ** min(failures - 1, 30))
    word = hashlib.sha256(f"{invocation}/{failures}".encode()).digest()
    share = int.from_bytes(word[:4], "big") / 2**32
    return int(nominal * 1000 * (0.5 + share / 2))
