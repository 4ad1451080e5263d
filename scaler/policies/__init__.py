"""The policies, each `policy(snapshot, draft) -> draft`, in the order in which a decision runs them."""

from collections.abc import Callable

from scaler.draft import Draft
from scaler.model import Snapshot
from scaler.policies.headroom import headroom
from scaler.policies.retry import retry
from scaler.policies.sleep import sleep
from scaler.policies.steer import steer
from scaler.policies.wake import wake

Policy = Callable[[Snapshot, Draft], Draft]

#: CLUES's order: wake for demand, keep headroom, sleep what is idle, retry what failed, consolidate. Consolidation that
#: moves work (C14) takes its place at the end; until then `steer` lets nodes empty without moving anything. A forecast
#: (C15) belongs between headroom and sleep: it may only wake earlier or keep longer.
POLICIES: tuple[Policy, ...] = (wake, headroom, sleep, retry, steer)

__all__ = ["POLICIES", "Policy", "headroom", "retry", "sleep", "steer", "wake"]
