"""The life of a node as a table: what each event makes of each state, and which clocks move. Pure.

Every pair of state and event has a row, so nothing is left to an else-branch; a pair that must not happen is refused
with the node's history rather than guessed. What CLUES got wrong and this table fixes: a node that is not seen is
never off, a glitch keeps the clocks (measured from when the node went dark), "not yet" costs no retry, a failed
power-off does not look like a fresh start, and a node whose power-off was sent cannot be ordered on before it is off.
"""

from __future__ import annotations

import enum

import msgspec
from msgspec.structs import replace

from penstock.errors import PenstockError
from scaler.backoff import backoff_ms
from scaler.model import Node, NodeState
from scaler.pools import Options


class NodeEvent(enum.StrEnum):
    # Orders of ours
    ORDER_ON = "order_on"
    DRAIN = "drain"  # first step of a removal
    RELEASE = "release"  # the removal is taken back
    POWER_OFF = "power_off"  # the power-off or deletion is sent
    # What is seen
    SEEN_IDLE = "seen_idle"  # ready in the cluster, no work
    SEEN_USED = "seen_used"
    SEEN_OFF = "seen_off"  # a complete provider list says off, or has no such machine
    NOT_SEEN = "not_seen"  # a complete node list does not have it ready, and it is not known to be off
    # What did not work
    TIMEOUT = "timeout"  # the time-out of the present state passed
    REFUSED = "refused"  # the driver refused the last order
    NOT_YET = "not_yet"  # the driver said: not now, by a rule
    # A person
    RESET = "reset"


class IllegalTransition(PenstockError):
    """The event cannot happen to a node in this state: a defect of the caller, never of the world."""

    code = "illegal_transition"


class Move(msgspec.Struct, frozen=True):
    to: NodeState
    #: Somebody else did this: accepted and told.
    unexpected: bool = False


#: The event is true and changes nothing; the event must not be given.
STAY, NEVER = "stay", "never"
Row = Move | str

_S, _E = NodeState, NodeEvent


def _odd(state: NodeState) -> Move:
    return Move(state, unexpected=True)


#: Order of columns below.
EVENTS = tuple(NodeEvent)
_ROWS: dict[NodeState, tuple[Row, ...]] = {
    # ORDER_ON, DRAIN, RELEASE, POWER_OFF | SEEN_IDLE, SEEN_USED, SEEN_OFF, NOT_SEEN | TIMEOUT, REFUSED, NOT_YET | RESET
    _S.OFF: (
        *(Move(_S.STARTING), NEVER, STAY, NEVER),
        *(_odd(_S.IDLE), _odd(_S.USED), STAY, STAY),
        *(NEVER, STAY, STAY, STAY),
    ),
    _S.STARTING: (
        *(STAY, NEVER, STAY, NEVER),
        *(Move(_S.IDLE), Move(_S.USED), STAY, STAY),
        *(Move(_S.FAILED_ON), Move(_S.FAILED_ON), Move(_S.OFF), Move(_S.UNKNOWN)),
    ),
    _S.IDLE: (
        *(STAY, Move(_S.DRAINING), STAY, NEVER),
        *(STAY, Move(_S.USED), _odd(_S.OFF), Move(_S.UNKNOWN)),
        *(NEVER, STAY, STAY, STAY),
    ),
    _S.USED: (
        *(STAY, NEVER, STAY, NEVER),
        *(Move(_S.IDLE), STAY, _odd(_S.OFF), Move(_S.UNKNOWN)),
        *(NEVER, STAY, STAY, STAY),
    ),
    _S.DRAINING: (
        *(NEVER, STAY, Move(_S.IDLE), Move(_S.STOPPING)),
        *(STAY, Move(_S.USED), _odd(_S.OFF), Move(_S.UNKNOWN)),
        *(Move(_S.IDLE), Move(_S.FAILED_OFF), Move(_S.IDLE), Move(_S.IDLE)),
    ),
    _S.STOPPING: (
        *(NEVER, STAY, NEVER, STAY),
        *(STAY, STAY, Move(_S.OFF), STAY),
        *(Move(_S.FAILED_OFF), Move(_S.FAILED_OFF), Move(_S.IDLE), Move(_S.UNKNOWN)),
    ),
    _S.FAILED_ON: (
        *(NEVER, NEVER, STAY, Move(_S.STOPPING)),
        *(Move(_S.IDLE), Move(_S.USED), Move(_S.OFF), STAY),
        *(NEVER, STAY, STAY, Move(_S.UNKNOWN)),
    ),
    _S.FAILED_OFF: (
        *(NEVER, NEVER, STAY, Move(_S.STOPPING)),
        *(Move(_S.IDLE), Move(_S.USED), Move(_S.OFF), STAY),
        *(NEVER, STAY, STAY, Move(_S.UNKNOWN)),
    ),
    _S.UNKNOWN: (
        *(NEVER, NEVER, STAY, NEVER),
        *(Move(_S.IDLE), Move(_S.USED), Move(_S.OFF), STAY),
        *(NEVER, STAY, STAY, STAY),
    ),
}
TABLE: dict[tuple[NodeState, NodeEvent], Row] = {
    (state, event): row for state, rows in _ROWS.items() for event, row in zip(EVENTS, rows, strict=True)
}

#: Ready in the cluster, so pods can run there.
READY = frozenset({_S.IDLE, _S.USED, _S.DRAINING})


class Step(msgspec.Struct, frozen=True):
    node: Node
    changed: bool
    unexpected: bool = False


def advance(node: Node, event: NodeEvent, now_ms: int, options: Options) -> Step:
    """Apply one event. Raises IllegalTransition for a pair that must not happen."""
    row = TABLE[node.state, event]
    if isinstance(row, str):
        if row is NEVER:
            raise IllegalTransition(
                f"node {node.name} cannot take {event.value!r} in state {node.state.value!r} (since {node.since_ms}, "
                f"generation {node.generation}, now {now_ms})"
            )
        kept = replace(node, failures_on=0, failures_off=0, backoff_until_ms=0) if event is _E.RESET else node
        return Step(kept, changed=False)
    moved = _clocks(replace(node, state=row.to, since_ms=now_ms), node, event, now_ms, options)
    return Step(moved, changed=True, unexpected=row.unexpected)


def _clocks(moved: Node, old: Node, event: NodeEvent, now_ms: int, options: Options) -> Node:
    if event is _E.RESET:
        moved = replace(moved, failures_on=0, failures_off=0, backoff_until_ms=0)
    match moved.state:
        case NodeState.STARTING:
            # It is paid for, and draws power, from the order on.
            return replace(
                moved, generation=old.generation + 1, paid_since_ms=now_ms, on_since_ms=0, cycles=old.cycles + 1
            )
        case NodeState.DRAINING:
            return replace(moved, generation=old.generation + 1)
        case NodeState.STOPPING:
            # A removal that began with draining is one order; that of a failed node begins here.
            return moved if old.state is NodeState.DRAINING else replace(moved, generation=old.generation + 1)
        case NodeState.OFF:
            return replace(
                moved,
                failures_off=0,
                on_since_ms=0,
                idle_since_ms=0,
                paid_since_ms=0,
                dark_since_ms=0,
                before_dark=None,
                not_yet_until_ms=0,
            )
        case NodeState.FAILED_ON:
            failures = old.failures_on + 1
            return replace(
                moved, failures_on=failures, backoff_until_ms=now_ms + backoff_ms(old.name, failures, options)
            )
        case NodeState.FAILED_OFF:
            failures = old.failures_off + 1
            return replace(
                moved, failures_off=failures, backoff_until_ms=now_ms + backoff_ms(old.name, failures, options)
            )
        case NodeState.UNKNOWN:
            return replace(moved, dark_since_ms=now_ms, before_dark=old.state)
        case NodeState.IDLE | NodeState.USED:
            return _came_on(moved, old, event, now_ms, options)


def _came_on(moved: Node, old: Node, event: NodeEvent, now_ms: int, options: Options) -> Node:
    if moved.state is NodeState.USED:
        moved = replace(moved, idle_since_ms=0)
    elif old.state is NodeState.USED or not old.idle_since_ms:
        moved = replace(moved, idle_since_ms=now_ms)
    if old.state in _WAS_ON or event is NodeEvent.NOT_YET:
        # Between work and none, or a removal that failed or was called off: on all the time, idle clock running.
        return moved
    moved = replace(moved, dark_since_ms=0, before_dark=None, failures_on=0, backoff_until_ms=0)
    if old.state is NodeState.UNKNOWN and old.on_since_ms and now_ms - old.dark_since_ms < options.glitch_ms:
        return moved
    idle_since = now_ms if moved.state is NodeState.IDLE else 0
    return replace(moved, on_since_ms=now_ms, paid_since_ms=old.paid_since_ms or now_ms, idle_since_ms=idle_since)


_WAS_ON = READY | {NodeState.STOPPING, NodeState.FAILED_OFF}
