"""How `penstock node` shows what it was told. Pure: `now` is an argument."""

from __future__ import annotations

import yaml

from gateway.cli import formats
from scaler.interface.answers import ExplanationView, NodeView
from scaler.interface.clues_import import Imported
from scaler.interface.ledger import LedgerLine, LedgerReport

_CLOCKS = ("since", "on_since", "idle_since", "dark_since", "backoff_until", "not_yet_until")


def described(node: NodeView, now_ms: int) -> str:
    """One node, a line for each thing that is worth saying."""
    lines = [
        f"{node.name} in pool {node.pool}: {node.state} for {formats.age(node.since_ms, now_ms)}"
        + ("" if node.enabled else ", disabled (only a person switches it)"),
        *([node.reason + _until(node.reason_until_ms, now_ms)] if node.reason else []),
    ]
    pairs = [(name.replace("_", " "), formats.moment(getattr(node, f"{name}_ms"))) for name in _CLOCKS]
    pairs += [("starts", str(node.cycles)), ("pods", str(node.pods)), ("machine", node.provider_id)]
    pairs += [("failed starts", str(node.failures_on)), ("failed stops", str(node.failures_off))]
    pairs += [(f"{name} used", f"{node.used.get(name, '0')} of {amount}") for name, amount in node.offers.items()]
    pairs += [(f"label {name}", value) for name, value in node.labels.items()]
    width = max(len(name) for name, _ in pairs)
    lines += [f"  {name:<{width}}  {formats.printable(value)}" for name, value in pairs if value not in {"", "-", "0"}]
    return "\n".join(lines)


def _until(time_ms: int, now_ms: int) -> str:
    return f" (for {formats.duration(time_ms - now_ms)} more)" if time_ms > now_ms else ""


def explained(found: ExplanationView, now_ms: int) -> str:
    """The last decision in sections; what is empty is left out."""
    if found.decided_ms:
        head = f"Decided {formats.age(found.decided_ms, now_ms)} ago in {formats.duration(found.seconds * 1000)}"
        head += f"; decision {found.decisions} since the start."
        if found.next_ms > now_ms:
            head += f" Next look in {formats.duration(found.next_ms - now_ms)} unless something changes."
    else:
        head = "Nothing was decided yet."
    sections = [head]
    if found.blocked:
        sections.append(f"Nothing can be decided now: {found.blocked}")
    views = [
        f"{name} {formats.age(view.as_of_ms, now_ms)} old{'' if view.complete else ', INCOMPLETE'}"
        for name, view in sorted(found.views.items())
    ]
    waits = [
        f"{pool.name}: {pool.failures} failures, {pool.why}{_until(pool.backoff_until_ms, now_ms)}"
        for pool in found.pools
        if pool.failures
    ]
    parts = (
        ("Alarms", found.alarms),
        ("Views", views),
        ("Orders", [f"{one.kind} {one.node}: {one.reason}" for one in found.orders]),
        ("Not helped", [_unhelped(one.count, one.reason, hopeless=one.hopeless) for one in found.unhelped]),
        ("Promised", [f"{one.node} to {one.owners}{_until(one.until_ms, now_ms)}" for one in found.promises]),
        ("Kept", [f"{one.node}: {one.reason}{_until(one.until_ms, now_ms)}" for one in found.kept]),
        ("Filled last", [", ".join(found.steered)] if found.steered else []),
        ("Pools that wait", waits),
    )
    for title, lines in parts:
        if lines:
            sections.append("\n".join([f"{title}:", *(f"  {formats.printable(line)}" for line in lines)]))
    return "\n\n".join(sections)


def _unhelped(count: int, reason: str, *, hopeless: bool) -> str:
    return f"{count} waiting: {reason}{' (no node ever will)' if hopeless else ''}"


def books(found: LedgerReport) -> str:
    """A month as a table with its price below."""
    head = (
        "POOL",
        "KWH",
        "ALWAYS ON",
        "SAVED",
        "MONEY",
        "ALWAYS ON",
        "NODE-HOURS ON",
        "STARTS",
        "FAILED",
        "PER NODE-DAY",
    )
    rows = [_ledger_row(line) for line in (*found.pools, *([found.total] if len(found.pools) != 1 else []))]
    waited = (
        f"{found.waited} waited for a node to start: p50 {found.wait_p50_s:.0f} s, p95 {found.wait_p95_s:.0f} s, "
        f"longest {found.wait_max_s:.0f} s"
    )
    return "\n".join(
        [
            f"{found.month}, {found.measured_share:.1%} of the time measured",
            formats.table(head, rows, right=range(1, 10)),
            waited,
        ]
    )


def _ledger_row(line: LedgerLine) -> tuple[str, ...]:
    on = sum(hours for state, hours in line.node_hours.items() if state != "off")
    return (
        line.pool,
        f"{line.kwh:.1f}",
        f"{line.baseline_kwh:.1f}",
        f"{line.saved_share:.1%}",
        f"{line.money:.2f}",
        f"{line.baseline_money:.2f}",
        f"{on:.1f}",
        str(line.starts),
        str(line.failed_starts),
        f"{line.starts_per_node_day:.2f}",
    )


def imported(found: Imported) -> tuple[str, str]:
    """(the file of pools, what became of everything)."""
    pools = yaml.safe_dump(found.document, sort_keys=False, default_flow_style=None, width=120)
    lines = [f"{line.option}{f' = {line.value}' if line.value else ''}: {line.became}" for line in found.mapped]
    told = ["Taken over:", *(f"  {line}" for line in lines)]
    if found.unmapped:
        told.append("Without equivalent:")
        told += [f"  {line.option}{f' = {line.value}' if line.value else ''}: {line.became}" for line in found.unmapped]
    if found.environment:
        told.append("Settings for the scaler's environment:")
        told += [f"  {name}={value}" for name, value in found.environment.items()]
    if found.commands:
        told.append("To run once the scaler is up:")
        told += [f"  {command}" for command in found.commands]
    return pools, "\n".join(formats.printable(line) for line in told)
