"""The decision: a pure function of a snapshot and the configuration. The service, dry runs and the simulation call
this.

The same snapshot always gives the same plan (C18): no clock, no random source, no order of hashing enters. The service
observes (`scaler.observe`), decides here, writes the orders down, checks each again (`scaler.recheck`) and sends it.
"""

from __future__ import annotations

from collections.abc import Sequence

from scaler.draft import Draft
from scaler.model import ScalePlan, Snapshot
from scaler.policies import POLICIES, Policy
from scaler.pools import Fleet


def decide(snapshot: Snapshot, fleet: Fleet, policies: Sequence[Policy] = POLICIES) -> ScalePlan:
    """What to order now and why, what stays and why, whom nobody helps and why, and when to look again."""
    draft = Draft(snapshot, fleet)
    for policy in policies:
        draft = policy(snapshot, draft)
    return draft.plan()
