"""From steps of the state machine to what hooks are told, by CLUES's names. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from scaler.control import Happening, HookEvent
from scaler.model import NodeState
from scaler.states import READY, Step

_ON = READY | {NodeState.STOPPING}


def happened(steps: Iterable[Step], before: dict[str, NodeState], now_ms: int) -> list[HookEvent]:
    """`before` = the state of each node before these steps; a node that was not known counts as unknown."""
    states = dict(before)
    events = []
    for step in steps:
        node = step.node
        was = states.get(node.name, NodeState.UNKNOWN)
        states[node.name] = node.state
        failures = node.failures_on if node.state is NodeState.FAILED_ON else node.failures_off
        events += [
            HookEvent(
                kind=kind,
                time_ms=now_ms,
                node=node.name,
                pool=node.pool,
                failures=failures if kind in {Happening.ONERR, Happening.OFFERR} else 0,
            )
            for kind in _kinds(was, node.state, unexpected=step.unexpected)
        ]
    return events


def _kinds(was: NodeState, now: NodeState, *, unexpected: bool) -> list[Happening]:
    match now:
        case NodeState.IDLE | NodeState.USED:
            if was in {NodeState.IDLE, NodeState.USED}:
                return [Happening.IDLE if now is NodeState.IDLE else Happening.USED]
            # Taken back, or a failed power-off: it was on all the time, so nothing is said of it.
            up = [] if was in _ON | {NodeState.FAILED_OFF} else [Happening.POWEREDON]
            return [*up, Happening.UNEXPECTED_POWERON] if unexpected else up
        case NodeState.OFF:
            return [Happening.POWEREDOFF, Happening.UNEXPECTED_POWEROFF] if unexpected else [Happening.POWEREDOFF]
        case NodeState.FAILED_ON:
            return [Happening.OFFERR]
        case NodeState.FAILED_OFF:
            return [Happening.ONERR]
        case NodeState.UNKNOWN:
            return [Happening.UNKNOWN]
        case _:
            return []
