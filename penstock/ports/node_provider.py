"""The node provider port: whoever can bring machines up and down. Contract: `tests/contracts/test_node_provider.py`.

* Every call has a deadline of its own, may be cancelled at any point, and is idempotent by key: the same key again is
  no error and does nothing twice, also after a restart of Penstock or of the provider. The key of an `add` is kept
  with the node (a tag, a name, a file), so that after a crash between order and answer the node is found again and no
  twin is made.
* `list` answers the whole truth or raises `Unavailable`. An error answer is never an empty or a shorter list: the
  scaler takes a node that is missing from a list as gone.
* A call on several nodes answers for each of them. A raised error speaks of the whole call: nothing is known about
  it, and the caller lists before it decides anew.
* `stop` and `remove` return when the order was accepted; that a node is off is told by `list` alone (read-back).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol

import msgspec


class ProviderState(enum.StrEnum):
    OFF = "off"
    STARTING = "starting"  # powered or created, not yet able to join
    ON = "on"
    STOPPING = "stopping"
    SUSPENDED = "suspended"  # off, memory or disk kept; `start` brings it back
    FAILED = "failed"  # will not come up by itself
    UNKNOWN = "unknown"  # the provider does not know now: never the same as off


class ProviderNode(msgspec.Struct, frozen=True, kw_only=True):
    """One machine as its provider sees it."""

    #: The provider's own id, given back in `remove`, `start` and `stop`.
    id: str
    #: The cluster node's name that it has or will have.
    name: str
    pool: str = ""
    state: ProviderState
    #: Key of the `add` that made it; "" for machines that were always there.
    key: str = ""
    created_ms: int = 0
    #: True when it carries Penstock's mark: only such machines may ever be removed by Penstock.
    ours: bool = False
    message: str = ""


class NodeAdd(msgspec.Struct, frozen=True, kw_only=True):
    """One machine to create."""

    key: str
    name: str
    pool: str


class NodeTarget(msgspec.Struct, frozen=True, kw_only=True):
    """One existing machine to act on."""

    key: str
    id: str
    name: str = ""


class Outcome(enum.StrEnum):
    """What an order came to; decides who waits how long (clause C12)."""

    ACCEPTED = "accepted"
    #: Not now by a rule, such as a paid interval that is not over: neither success nor failure, burns no retry.
    NOT_YET = "not_yet"
    NO_CAPACITY = "no_capacity"  # quota or the cloud is full: the pool backs off, the next pool is tried
    CREDENTIALS = "credentials"  # the driver pauses and raises an alarm
    CONFLICT = "conflict"  # somebody else acted: read again
    TRANSIENT = "transient"  # quick retry
    CONFIGURATION = "configuration"  # reconfigure once, then create anew


class OrderAnswer(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    outcome: Outcome
    #: Where it acted: the provider's id, and the node's real name if it is not the one that was asked for.
    id: str = ""
    name: str = ""
    message: str = ""


class StopHow(enum.StrEnum):
    SOFT = "soft"  # let the operating system shut down
    HARD = "hard"  # cut the power
    SUSPEND = "suspend"


class ProviderCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    add_remove: bool = False
    start_stop: bool = False
    suspend: bool = False
    #: Most nodes that one call may name; None = no limit.
    largest_call: int | None = None


class NodeProvider(Protocol):
    @property
    def capabilities(self) -> ProviderCapabilities: ...

    async def add(self, nodes: Sequence[NodeAdd]) -> list[OrderAnswer]:
        """Create machines, in one call of the driver where it can. Raises Unavailable, Forbidden, Unsupported."""
        ...

    async def remove(self, nodes: Sequence[NodeTarget]) -> list[OrderAnswer]:
        """Delete machines for good. One that is gone already is accepted. Raises as `add`."""
        ...

    async def start(self, nodes: Sequence[NodeTarget]) -> list[OrderAnswer]:
        """Power on. One that is on already is accepted. Raises as `add`."""
        ...

    async def stop(self, nodes: Sequence[NodeTarget], *, how: StopHow = StopHow.SOFT) -> list[OrderAnswer]:
        """Power off. One that is off already is accepted. Raises as `add`."""
        ...

    async def close(self) -> None: ...

    async def list(self) -> list[ProviderNode]:
        """Every machine of the pools it was given. Raises Unavailable, Forbidden (credentials)."""
        ...
