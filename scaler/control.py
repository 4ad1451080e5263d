"""What a person or program may ask of a running scaler and order from it: the seam between service and interfaces.

REST, command line and hooks are written against these types alone; `scaler.service.ScalerService` is the one
implementation. Every answer is a value taken at one moment: nothing in it changes later. Times are milliseconds since
the epoch, 0 = never.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol

import msgspec

from scaler.model import (
    Amounts,
    Labels,
    NodeState,
    PoolRecord,
    Request,
    Requirement,
    ScalePlan,
    Toleration,
    View,
)


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One node, as a person wants to see it."""

    name: str
    pool: str
    state: NodeState
    enabled: bool
    #: Why it stays as it is or what was ordered for it, in one sentence; "" = the last decision had nothing to say.
    reason: str = ""
    #: When that reason ends by itself; 0 = by an event only.
    reason_until_ms: int = 0
    #: Start of the present state; of being on; of being without work; of not being seen.
    since_ms: int = 0
    on_since_ms: int = 0
    idle_since_ms: int = 0
    dark_since_ms: int = 0
    failures_on: int = 0
    failures_off: int = 0
    backoff_until_ms: int = 0
    not_yet_until_ms: int = 0
    #: Times it was ordered on.
    cycles: int = 0
    provider_id: str = ""
    #: What it offers to pods and what bound pods take of it; cpu in thousandths of a core, the rest in whole units.
    offers: Amounts = ()
    used: Amounts = ()
    #: Pods on it other than daemons and static pods.
    pods: int = 0
    labels: Labels = ()


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The last decision with everything it was made from that a person may want to check."""

    #: None = nothing was decided yet (see `blocked`).
    plan: ScalePlan | None
    #: Why nothing can be decided now, in words; "" = it can.
    blocked: str = ""
    #: Age and completeness of what was looked at: "nodes", "pods", "backlog", and "driver NAME" for each driver.
    views: dict[str, View] = {}
    pools: tuple[PoolRecord, ...] = ()
    #: Sentences: the plan's, and those of drivers (paused for wrong credentials, ...).
    alarms: tuple[str, ...] = ()
    #: Decisions made since the start, and seconds that the last one took.
    decisions: int = 0
    seconds: float = 0.0


class RequestSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Room asked for before any pod exists: all tasks at once, or none (CLUES's request)."""

    #: Of one task; cpu in thousandths of a core.
    requests: Amounts
    tasks: int = 1
    #: Most tasks on one node; 0 = no limit.
    per_node: int = 0
    selector: Labels = ()
    #: Node expressions: any of the terms, all of its requirements, on any label key.
    affinity: tuple[tuple[Requirement, ...], ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    #: How long the room is wanted.
    hold_ms: int = 600_000


class RequestState(enum.StrEnum):
    WAITING = "waiting"  # nodes are coming, or it waits for its turn
    SERVED = "served"  # the room is there and promised until the request ends
    REFUSED = "refused"  # no node this scaler can bring would ever serve it
    OVER = "over"  # its time is over or it was withdrawn


class RequestInfo(msgspec.Struct, frozen=True, kw_only=True):
    request: Request
    state: RequestState
    #: Why it waits or was refused; "" when served.
    reason: str = ""
    #: Where the room is promised.
    nodes: tuple[str, ...] = ()


class Control(Protocol):
    """Raises NotFound for a name that is not known, InvalidInput for what cannot be, Conflict when the node's state
    does not allow it (the sentence says which does), Unavailable when what was ordered cannot be written down now.
    """

    async def nodes(self) -> list[NodeInfo]:
        """All nodes, in order of pool and name."""
        ...

    async def node(self, name: str) -> NodeInfo: ...

    async def explain(self) -> Explanation: ...

    async def on(self, name: str) -> NodeInfo:
        """Order one node on. One that is on or coming is returned as it is. Bounds hold for people too."""
        ...

    async def off(self, name: str, *, force: bool = False) -> NodeInfo:
        """Take a node out in the order of C13. With work on it: Conflict, unless `force`, which cordons it, waits until
        its work has ended and then takes it out. Running pods are killed in neither case.
        """
        ...

    async def enable(self, name: str) -> NodeInfo: ...

    async def disable(self, name: str) -> NodeInfo:
        """No policy switches it from now on; while it is on its room still counts."""
        ...

    async def reset(self, name: str) -> NodeInfo:
        """Forget failures and waits; a failed or hanging node is looked at afresh (unknown until seen)."""
        ...

    async def submit(self, spec: RequestSpec) -> RequestInfo: ...

    async def request(self, id: str) -> RequestInfo: ...

    async def requests(self) -> list[RequestInfo]: ...

    async def withdraw(self, id: str) -> RequestInfo: ...


class Happening(enum.StrEnum):
    """CLUES's fourteen hooks, by its names in small letters."""

    PRE_POWERON = "pre_poweron"  # may veto
    PRE_POWEROFF = "pre_poweroff"  # may veto
    POST_POWERON = "post_poweron"  # the driver answered
    POST_POWEROFF = "post_poweroff"
    POWEREDON = "poweredon"  # seen ready
    POWEREDOFF = "poweredoff"
    UNEXPECTED_POWERON = "unexpected_poweron"
    UNEXPECTED_POWEROFF = "unexpected_poweroff"
    ONERR = "onerr"  # told to go off, still on
    OFFERR = "offerr"  # told to go on, still off
    UNKNOWN = "unknown"
    IDLE = "idle"
    USED = "used"
    REQUEST = "request"


class HookEvent(msgspec.Struct, frozen=True, kw_only=True):
    kind: Happening
    time_ms: int
    #: "" for REQUEST.
    node: str = ""
    pool: str = ""
    #: POST_*: whether the driver accepted, and the node's real name.
    accepted: bool = False
    name: str = ""
    #: ONERR, OFFERR: failures in a row.
    failures: int = 0
    #: Why it was ordered.
    reason: str = ""
    request: Request | None = None


class Hooks(Protocol):
    """Told of everything that happens to nodes. The service never waits for `told` and bounds `allow` in time."""

    async def allow(self, event: HookEvent) -> str:
        """Asked before a node is switched (PRE_POWERON, PRE_POWEROFF): "" = go on, else why not. May take up to the
        service's `hook_s`; an answer that comes later, or an error, is no veto for PRE_POWERON and a veto for
        PRE_POWEROFF.
        """
        ...

    def told(self, events: Sequence[HookEvent]) -> None:
        """Something happened. Returns at once; what takes time is done in a task of the listener's own."""
        ...


class NoHooks:
    """Nobody listens."""

    async def allow(self, event: HookEvent) -> str:  # noqa: ARG002 - the protocol's shape
        return ""

    def told(self, events: Sequence[HookEvent]) -> None:
        """Nothing to do."""
