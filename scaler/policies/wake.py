"""First policy: nodes for what waits. Room that is on or coming is used first, then nodes taken back from their
removal, then new ones. Who is promised a place is written down as a reservation, so that no later policy takes it
away (C9).
"""

from __future__ import annotations

from collections import defaultdict

from msgspec.structs import replace

from scaler.demand import Group
from scaler.draft import Draft
from scaler.model import DRAINING, IDLE, STARTING, USED, Node, Reservation, Snapshot, Unhelped
from scaler.packing import Bin, Need
from scaler.pools import capacity
from scaler.trial import Trial


def wake(snapshot: Snapshot, draft: Draft) -> Draft:
    promised = _carried(snapshot, draft)
    in_vain = _given_up(promised)
    if draft.groups and not draft.verdict.all:
        wanted = [group for each in draft.groups if (group := _without(each, in_vain)) is not None]
        _tell_in_vain(draft, in_vain)
        if wanted:
            best = _best(snapshot, draft, wanted)
            _commit(draft, best, promised)
    elif draft.groups:
        for group in draft.groups:
            if group.wakes:
                draft.unhelped.append(Unhelped(owners=group.owners[:20], count=group.count, reason=draft.verdict.all))
    for name, reservation in promised.items():
        draft.reservations.setdefault(name, reservation)
    ends = [one.until_ms for one in draft.reservations.values() if one.until_ms > draft.now]
    if ends:
        draft.wait_until(min(ends))
    return draft


def _carried(snapshot: Snapshot, draft: Draft) -> dict[str, Reservation]:
    """Promises that still mean something: an owner waits. One that is over is kept only as long as nobody used the
    node: it then says that the node came up in vain.
    """
    if not snapshot.reservations:
        return {}
    if draft.verdict.all or draft.verdict.backlog:
        # Nobody can tell who still waits.
        return {reservation.node: reservation for reservation in snapshot.reservations}
    waiting = {owner for group in draft.groups for owner in group.owners}
    idle = {node.name for node in snapshot.nodes if node.state is IDLE}
    patience = draft.fleet.options.backoff_limit_ms
    carried = {}
    for reservation in snapshot.reservations:
        owners = reservation.owners
        if not waiting.issuperset(owners):
            owners = tuple([owner for owner in owners if owner in waiting])
        until = reservation.until_ms
        if 0 <= until <= draft.now:
            # Over. Nobody used the node although it was ready: mark that, by the time with its sign turned.
            vain = reservation.node in idle and not draft.situation.work.get(reservation.node)
            until = -draft.now if vain else 0
        elif until < 0 and draft.now + until >= patience:
            until = 0
        if owners and until:
            same = until == reservation.until_ms and len(owners) == len(reservation.owners)
            carried[reservation.node] = (
                reservation if same else Reservation(node=reservation.node, owners=owners, until_ms=until)
            )
    for reservation in carried.values():
        if reservation.until_ms < 0:
            draft.wait_until(patience - reservation.until_ms)
    return carried


def _given_up(promised: dict[str, Reservation]) -> set[str]:
    """Owners for whom a node was ready until their promise was over and who were not placed on it."""
    return {owner for reservation in promised.values() if reservation.until_ms < 0 for owner in reservation.owners}


def _without(group: Group, in_vain: set[str]) -> Group | None:
    if in_vain.isdisjoint(group.owners):
        return group
    left = tuple(owner for owner in group.owners if owner not in in_vain)
    if not left:
        return None
    # Only where each unit has an owner of its own can some be left out.
    alone = len(group.owners) == group.count and not group.gang
    return replace(group, owners=left, count=len(left)) if alone else group


def _tell_in_vain(draft: Draft, in_vain: set[str]) -> None:
    for group in draft.groups:
        if in_vain.issuperset(group.owners) and group.wakes:
            reason = "a node with room for it was on until its promise was over and the scheduler did not use it"
            draft.unhelped.append(Unhelped(owners=group.owners[:20], count=group.count, reason=reason))


def _best(snapshot: Snapshot, draft: Draft, groups: list[Group]) -> Trial:
    sizes = _sizes(draft)
    orders = [lambda group: _shares(group, sizes)]
    first = _trial(snapshot, draft, sorted(groups, key=orders[0], reverse=True))
    opened = sum(len(opening.names) for opening in first.openings)
    if len(groups) < 2 or opened < 2 or len(groups) > draft.fleet.options.orders_tried_up_to:
        return first
    best, cost = first, first.cost()
    for name in ("cpu", "memory"):
        by_name = sorted(groups, key=lambda group, name=name: _by(group, name, sizes), reverse=True)  # type: ignore[misc]
        other = _trial(snapshot, draft, by_name)
        if other.cost() < cost:
            best, cost = other, other.cost()
    return best


def _trial(snapshot: Snapshot, draft: Draft, groups: list[Group]) -> Trial:
    present, leaving = _bins(snapshot, draft, draft.axes.least([group.spec for group in groups]))
    return Trial(draft.fleet, draft.axes, present, leaving, draft.budget.copy()).run(groups)


def _bins(snapshot: Snapshot, draft: Draft, least: Need) -> tuple[list[Bin], list[Bin]]:
    """Bins with room for the least need, in order of preference: nodes with work (so that empty ones may go), then
    steered and empty ones, then coming.
    """
    pools, axes, steered = draft.fleet.by_name, draft.axes, snapshot.steered
    bin_of = draft.situation.bin_with_room
    ranks: tuple[list[Bin], ...] = ([], [], [], [], [], [])
    leaving: list[Bin] = []
    for node in snapshot.nodes:
        state = node.state
        if state is USED:
            rank = 0
        elif state is IDLE:
            rank = 2
        elif state is STARTING:
            rank = 4
        elif state is DRAINING:
            rank = -1
        else:
            continue
        pool = pools.get(node.pool)
        if pool is None or (rank < 0 and draft.verdict.wake(pool)):
            continue
        bin_ = bin_of(node, pool, axes, least)
        if bin_ is not None:
            (ranks[rank + (node.name in steered)] if rank >= 0 else leaving).append(bin_)
    return [bin_ for rank in ranks for bin_ in rank], leaving


def _sizes(draft: Draft) -> dict[str, int]:
    """The most of each resource that a node of any pool offers."""
    sizes: dict[str, int] = {}
    for pool in draft.fleet.pools:
        for name, amount in capacity(pool).items():
            sizes[name] = max(sizes.get(name, 1), amount)
    return sizes


def _shares(group: Group, sizes: dict[str, int]) -> tuple[bool, float, float]:
    """Gangs first (they need room in one piece), then by the largest share of a node, then by the sum of shares."""
    shares = [amount / sizes.get(name, 1) for name, amount in group.spec.requests] or [0.0]
    return group.gang, max(shares), sum(shares)


def _by(group: Group, name: str, sizes: dict[str, int]) -> tuple[bool, float, float]:
    gang, _, total = _shares(group, sizes)
    return gang, dict(group.spec.requests).get(name, 0) / sizes.get(name, 1), total


def _commit(draft: Draft, trial: Trial, promised: dict[str, Reservation]) -> None:
    draft.budget = trial.budget
    draft.unhelped.extend(trial.unhelped)
    records = {node.name: node for node in draft.snapshot.nodes}
    for name, reason in trial.released.items():
        draft.release(records[name], reason)
    for opening in trial.openings:
        draft.wake(opening.pool, opening.names, opening.reason)
    owners: defaultdict[str, list[str]] = defaultdict(list)
    for group, placed in trial.placed:
        offset = 0
        for bin_, units in placed:
            draft.bins[bin_.name] = bin_
            if len(group.owners) == group.count:
                owners[bin_.name].extend(group.owners[offset : offset + units])
            else:
                owners[bin_.name].extend(group.owners)
            offset += units
    ends = {request.id: request.until_ms for request in draft.snapshot.requests}
    for name, who in owners.items():
        draft.reservations[name] = _promise(
            draft, records.get(name) or Node(name=name, pool=draft.opened[name]), tuple(who), promised.get(name), ends
        )


def _promise(
    draft: Draft, node: Node, owners: tuple[str, ...], before: Reservation | None, ends: dict[str, int]
) -> Reservation:
    if before is not None and before.until_ms > 0 and not set(before.owners).isdisjoint(owners):
        until = before.until_ms
    elif node.name in draft.opened or node.state is STARTING:
        pool = draft.fleet.by_name[node.pool]
        started = node.since_ms if node.state is STARTING else draft.now
        until = started + pool.boot_timeout_ms + draft.fleet.options.hold_ms
    else:
        until = draft.now + draft.fleet.options.hold_ms
    if ends:
        # A request holds its node as long as it lives; pods must take theirs in time.
        until = max([until, *(ends[owner] for owner in owners if owner in ends)])
    return Reservation(node=node.name, owners=owners, until_ms=until)
