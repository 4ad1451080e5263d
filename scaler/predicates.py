"""Whether a pod may run on a node, by the scheduler's rules for selectors, required node affinity and taints. Pure.

Answers are remembered per (constraints, labels, taints): a thousand alike nodes cost one evaluation. What is not
modelled here is named in `PodSpec.unmodelled` by whoever read the pod, and the engine then refuses to help instead of
guessing.
"""

from __future__ import annotations

from functools import lru_cache

from scaler.model import Labels, PodSpec, Requirement, Taint, Toleration

#: Effects that keep a pod away; PreferNoSchedule only sorts.
_BARRING = frozenset({"NoSchedule", "NoExecute"})
#: Taint that the scaler itself puts on nodes it would rather see empty.
STEER_TAINT = "penstock.dev/steer"


def obstacle(spec: PodSpec, labels: Labels, taints: tuple[Taint, ...]) -> str:
    """Why the pod may not run on a node with these labels and taints; "" = it may."""
    if not spec.selector and not spec.affinity and not taints:
        return ""
    return _obstacle(spec.selector, spec.affinity, spec.tolerations, labels, taints)


@lru_cache(maxsize=65_536)
def _obstacle(
    selector: Labels,
    affinity: tuple[tuple[Requirement, ...], ...],
    tolerations: tuple[Toleration, ...],
    labels: Labels,
    taints: tuple[Taint, ...],
) -> str:
    for taint in taints:
        if taint.effect in _BARRING and not any(tolerates(one, taint) for one in tolerations):
            return f"taint {taint.key}={taint.value}:{taint.effect} is not tolerated"
    present = dict(labels)
    for key, value in selector:
        if present.get(key) != value:
            return f"selector {key}={value} does not match"
    if affinity and not any(term and all(matches(one, present) for one in term) for term in affinity):
        return "no term of its required node affinity matches"
    return ""


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    """An empty effect or key (the latter with Exists) stands for all."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if not toleration.key:
        return toleration.operator == "Exists"
    if toleration.key != taint.key:
        return False
    return toleration.operator == "Exists" or toleration.value == taint.value


def matches(requirement: Requirement, labels: dict[str, str]) -> bool:
    """One expression. NotIn and DoesNotExist hold for a missing label; Gt and Lt need whole numbers on both sides."""
    value = labels.get(requirement.key)
    match requirement.operator:
        case "In":
            return value is not None and value in requirement.values
        case "NotIn":
            return value is None or value not in requirement.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            number, bound = _number(value), _number(requirement.values[0] if requirement.values else None)
            if number is None or bound is None:
                return False
            return number > bound if requirement.operator == "Gt" else number < bound
        case _:
            return False


def _number(text: str | None) -> int | None:
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def ports_free(wanted: tuple[str, ...], taken: frozenset[str] | set[str]) -> bool:
    """Host ports do not collide: same protocol and port on the same address, or on all addresses of either side."""
    return not any(_collides(port, other) for port in wanted for other in taken)


def _collides(one: str, other: str) -> bool:
    address, _, port = one.rpartition(":")
    other_address, _, other_port = other.rpartition(":")
    return port == other_port and (address == other_address or _ANY in {address or _ANY, other_address or _ANY})


_ANY = "0.0.0.0"  # noqa: S104 - Kubernetes writes "all addresses" so; nothing is bound here
