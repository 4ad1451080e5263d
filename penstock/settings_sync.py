"""The settings of synchronous runs on a cluster: how many pods a function keeps, and how long a caller waits for one.

Apart from `settings` for its length; the rules are the same. Embedded mode, which runs scripts itself, uses none of it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from penstock.settings_production import ProductionGroup


class SyncGroup(ProductionGroup):
    """Synchronous runs (`/run`) on a cluster."""

    backend: Literal["auto", "resident", "knative"] = "auto"
    """What keeps the pods: `resident` = our own Deployments, `knative` = Knative Services, `auto` = Knative where it is
    installed and we have the right to use it."""
    idle_s: float = Field(default=300.0, ge=1)
    """Seconds without a run after which a pod is given back, down to the function's `min_scale`. 300: people who try
    something do not wait for a start each time."""
    start_timeout_s: float = Field(default=120.0, gt=0)
    """Seconds that a run waits for a free pod; after that 503. 120: a node that is on pulls most images in that
    time."""
    queue: int = Field(default=100, ge=1)
    """Runs of one function that wait in one gateway at once; further ones get 503 at once. Each holds its body in
    memory."""
    max_pods: int = Field(default=20, ge=1)
    """Most pods of one function, whatever its `max_scale` says (0 = unlimited there)."""
    pod_slots: int = Field(default=1, ge=1, le=16)
    """Runs at once in one pod. Each has a container of its own in it, with the function's whole resources, so that runs
    see nothing of each other; more than one saves pods and sidecars, not processors."""
    look_s: float = Field(default=2.0, gt=0)
    """Seconds between two looks at which pods are idle. 2: scaling up does not wait for it."""
