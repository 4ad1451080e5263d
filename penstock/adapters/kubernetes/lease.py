"""Who may be the one active dispatcher: the decision over a Kubernetes Lease. Pure, time is an argument.

Clocks of two machines need not agree: a standby takes over when the Lease has not *changed* for its duration by the
standby's own clock, never by comparing a written time with its own. The holder stops earlier than that by its own
clock, so two are never active at once; `epoch` (the count of changes of hands) fences one that slept through it all.
"""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from typing import Any

import msgspec


class LeaseSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """`coordination.k8s.io/v1`, with the API's names."""

    holderIdentity: str | None = None  # noqa: N815
    leaseDurationSeconds: int | None = None  # noqa: N815
    acquireTime: str | None = None  # noqa: N815
    renewTime: str | None = None  # noqa: N815
    leaseTransitions: int | None = None  # noqa: N815


class Seen(msgspec.Struct, frozen=True):
    """A Lease as it was last read, and when it was first seen to be like this (own monotonic clock, seconds)."""

    spec: LeaseSpec
    version: str
    since: float


class Action(enum.Enum):
    CREATE = "create"
    TAKE = "take"
    RENEW = "renew"
    WAIT = "wait"


class LeaseTiming(msgspec.Struct, frozen=True, kw_only=True):
    #: Without a renewal for this long a standby takes over.
    duration_s: float = 6.0
    renew_every_s: float = 2.0
    #: How often a standby looks.
    look_every_s: float = 1.0
    #: The holder gives up this much before others may take it, for what is on its way and clocks of unequal speed.
    margin_s: float = 1.5


def observe(before: Seen | None, spec: LeaseSpec, version: str, now: float) -> Seen:
    """What was read now, dated by when it first was so."""
    if before is not None and before.version == version:
        return before
    return Seen(spec, version, now)


def decide(seen: Seen | None, me: str, now: float, timing: LeaseTiming) -> Action:
    """`seen` None = there is no Lease."""
    if seen is None:
        return Action.CREATE
    if seen.spec.holderIdentity == me:
        return Action.RENEW
    if not seen.spec.holderIdentity:
        return Action.TAKE
    # The holder's own duration counts, should it be configured otherwise than ours.
    duration = seen.spec.leaseDurationSeconds or timing.duration_s
    return Action.TAKE if now - seen.since > duration else Action.WAIT


def claimed(seen: Seen | None, me: str, wall: datetime, timing: LeaseTiming) -> LeaseSpec:
    """What to write to take or renew it. Every change of hands counts one more, the first holder being 1."""
    stamp = wall.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    old = seen.spec if seen is not None else LeaseSpec()
    mine = old.holderIdentity == me
    return LeaseSpec(
        holderIdentity=me,
        leaseDurationSeconds=max(1, round(timing.duration_s)),
        acquireTime=old.acquireTime if mine else stamp,
        renewTime=stamp,
        leaseTransitions=(old.leaseTransitions or 0) + (0 if mine else 1),
    )


def released(spec: LeaseSpec) -> LeaseSpec:
    """What the holder writes when it steps down: the next may take it at once."""
    return msgspec.structs.replace(spec, holderIdentity="", leaseDurationSeconds=1)


def trusted(renewed_at: float | None, now: float, timing: LeaseTiming) -> bool:
    """Whether a holder may still act. `renewed_at` = its clock *before* the last renewal that succeeded was sent."""
    return renewed_at is not None and now - renewed_at < timing.duration_s - timing.margin_s


def manifest(name: str, namespace: str, spec: LeaseSpec, version: str = "") -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    if version:
        metadata["resourceVersion"] = version
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata,
        "spec": msgspec.to_builtins(spec),
    }
