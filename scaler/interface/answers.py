"""What the interface of the scaler says over HTTP, as types: the server encodes them, the command line decodes them.

Amounts go over the wire as Kubernetes quantities by resource name, because that is how people write them.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from penstock.errors import InvalidInput
from penstock.quantity import format_bytes, format_cpu
from scaler.configuration import parse_amounts
from scaler.control import Explanation, NodeInfo, RequestInfo, RequestSpec
from scaler.interface.expressions import parse_expressions
from scaler.interface.wording import expression_of
from scaler.model import Amounts, Toleration, View

Quantities = dict[str, str]


class NodeView(msgspec.Struct, kw_only=True):
    """As `scaler.control.NodeInfo`."""

    name: str
    pool: str
    state: str
    enabled: bool
    reason: str = ""
    reason_until_ms: int = 0
    since_ms: int = 0
    on_since_ms: int = 0
    idle_since_ms: int = 0
    dark_since_ms: int = 0
    failures_on: int = 0
    failures_off: int = 0
    backoff_until_ms: int = 0
    not_yet_until_ms: int = 0
    cycles: int = 0
    provider_id: str = ""
    offers: Quantities = {}
    used: Quantities = {}
    pods: int = 0
    labels: dict[str, str] = {}


class NodeList(msgspec.Struct):
    nodes: list[NodeView]


class OrderView(msgspec.Struct, kw_only=True):
    kind: str
    node: str
    pool: str
    reason: str


class KeptView(msgspec.Struct, kw_only=True):
    node: str
    reason: str
    until_ms: int = 0


class UnhelpedView(msgspec.Struct, kw_only=True):
    """Owners are pods' uids, requests' ids or functions; at most some are named, `count` says how many there are."""

    owners: list[str]
    count: int
    reason: str
    hopeless: bool = False


class PromiseView(msgspec.Struct, kw_only=True):
    node: str
    owners: int
    until_ms: int


class PoolView(msgspec.Struct, kw_only=True):
    name: str
    failures: int = 0
    backoff_until_ms: int = 0
    why: str = ""


class ExplanationView(msgspec.Struct, kw_only=True):
    """As `scaler.control.Explanation`, the plan laid open. `decided_ms` 0 = nothing was decided yet."""

    blocked: str = ""
    decided_ms: int = 0
    next_ms: int = 0
    decisions: int = 0
    seconds: float = 0.0
    views: dict[str, View] = {}
    orders: list[OrderView] = []
    kept: list[KeptView] = []
    unhelped: list[UnhelpedView] = []
    promises: list[PromiseView] = []
    steered: list[str] = []
    pools: list[PoolView] = []
    alarms: list[str] = []


class RequestDocument(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is asked for: room for `tasks` alike tasks at once, at most `per_node` on one node (0 = no limit)."""

    #: Of one task, as quantities: {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": 1}.
    resources: dict[str, str | int | float]
    tasks: int = 1
    per_node: int = 0
    #: Node expressions, all of which must hold.
    expressions: list[str] = []
    #: Taints of nodes that are put up with: KEY (any value), KEY=VALUE, each with :EFFECT or for all effects.
    tolerations: list[str] = []
    hold_s: float = 600.0


class RequestView(msgspec.Struct, kw_only=True):
    id: str
    state: str
    reason: str = ""
    nodes: list[str] = []
    resources: Quantities = {}
    tasks: int = 1
    per_node: int = 0
    expression: str = ""
    until_ms: int = 0


class RequestList(msgspec.Struct):
    requests: list[RequestView]


def quantities(amounts: Amounts) -> Quantities:
    return {name: _quantity(name, amount) for name, amount in amounts}


def _quantity(name: str, amount: int) -> str:
    if name == "cpu":
        return format_cpu(amount)
    return format_bytes(amount) if name in {"memory", "ephemeral-storage"} or name.startswith("huge") else str(amount)


def node_view(node: NodeInfo) -> NodeView:
    plain = {
        field: getattr(node, field)
        for field in NodeView.__struct_fields__
        if field not in {"state", "offers", "used", "labels"}
    }
    return NodeView(
        **plain,
        state=node.state.value,
        offers=quantities(node.offers),
        used=quantities(node.used),
        labels=dict(node.labels),
    )


def explanation_view(found: Explanation) -> ExplanationView:
    view = ExplanationView(
        blocked=found.blocked,
        decisions=found.decisions,
        seconds=found.seconds,
        views=found.views,
        pools=[
            PoolView(name=one.name, failures=one.failures, backoff_until_ms=one.backoff_until_ms, why=one.why)
            for one in found.pools
        ],
        alarms=list(found.alarms),
    )
    plan = found.plan
    if plan is None:
        return view
    view.decided_ms, view.next_ms = plan.now_ms, plan.next_ms
    view.orders = [
        OrderView(kind=one.kind.value, node=one.node, pool=one.pool, reason=one.reason) for one in plan.orders
    ]
    view.kept = [KeptView(node=one.node, reason=one.reason, until_ms=one.until_ms) for one in plan.kept]
    view.unhelped = [
        UnhelpedView(owners=list(one.owners), count=one.count, reason=one.reason, hopeless=one.hopeless)
        for one in plan.unhelped
    ]
    view.promises = [
        PromiseView(node=one.node, owners=len(one.owners), until_ms=one.until_ms)
        for one in plan.reservations
        if one.until_ms > 0
    ]
    view.steered = sorted(plan.steered)
    return view


def request_view(found: RequestInfo) -> RequestView:
    request = found.request
    spec = request.spec
    selected = [f'{key} == "{value}"' for key, value in spec.selector]
    affinity = expression_of(spec.affinity)
    parts = [*selected, *([f"({affinity})" if selected and "||" in affinity else affinity] if affinity else [])]
    return RequestView(
        id=request.id,
        state=found.state.value,
        reason=found.reason,
        nodes=list(found.nodes),
        resources=quantities(tuple((name, amount) for name, amount in spec.requests if name != "pods")),
        tasks=request.tasks,
        per_node=request.per_node,
        expression=" && ".join(parts),
        until_ms=request.until_ms,
    )


def request_spec(document: RequestDocument) -> RequestSpec:
    """Check what is asked for. Raises InvalidInput with the field."""
    amounts = parse_amounts(_texts(document.resources), where="resources")
    _whole("tasks", document.tasks, least=1)
    _whole("per_node", document.per_node, least=0)
    if not any(amount for _, amount in amounts):
        raise InvalidInput('is empty; ask for something, like {"cpu": "2"}', where="resources")
    if not 0 < document.hold_s <= LONGEST_HOLD_S:
        raise InvalidInput(f"{document.hold_s:g} is not from 0 to {LONGEST_HOLD_S} seconds", where="hold_s")
    wanted = dict(amounts) | {"pods": 1}
    return RequestSpec(
        requests=tuple(sorted((name, amount) for name, amount in wanted.items() if amount)),
        tasks=document.tasks,
        per_node=document.per_node,
        affinity=parse_expressions(document.expressions),
        tolerations=tuple(_toleration(text) for text in document.tolerations),
        hold_ms=round(document.hold_s * 1000),
    )


#: A day: room that nobody uses costs like any other.
LONGEST_HOLD_S = 86_400
_MOST_TASKS = 1_000_000


def _toleration(text: str) -> Toleration:
    taint, colon, effect = text.partition(":")
    key, sign, value = taint.partition("=")
    if not key or (colon and effect not in _EFFECTS):
        known = ", ".join(_EFFECTS)
        raise InvalidInput(f"{text!r} is not KEY, KEY=VALUE or either with :EFFECT of {known}", where="tolerations")
    return Toleration(key=key, operator="Equal" if sign else "Exists", value=value, effect=effect)


_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def _texts(resources: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in resources.items()}


def _whole(field: str, value: int, *, least: int) -> None:
    if not least <= value <= _MOST_TASKS:
        raise InvalidInput(f"{value} is not a whole number from {least} to {_MOST_TASKS:,}", where=field)
