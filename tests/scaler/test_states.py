from __future__ import annotations

from itertools import product

import pytest

from scaler.model import Node, NodeState
from scaler.pools import Options
from scaler.states import NEVER, TABLE, IllegalTransition, Move, NodeEvent, advance
from tests.scaler.building import HOUR, MINUTE, NOW, make_node

S, E = NodeState, NodeEvent
OPTIONS = Options()

#: The whole behaviour, written a second time and by hand: event, then per state the state that follows, "-" = nothing
#: changes, "!" = must not happen. Order of states as in the header.
EXPECTED = """
event     off      starting  idle     used    draining   stopping   failed_on failed_off unknown
order_on  starting -         -        -       !          !          !         !          !
drain     !        !         draining !       -          -          !         !          !
release   -        -         -        -       idle       !          -         -          -
power_off !        !         !        !       stopping   -          stopping  stopping   !
seen_idle idle     idle      -        idle    -          -          idle      idle       idle
seen_used used     used      used     -       used       -          used      used       used
seen_off  -        -         off      off     off        off        off       off        off
not_seen  -        -         unknown  unknown unknown    -          -         -          -
timeout   !        failed_on !        !       idle       failed_off !         !          !
refused   -        failed_on -        -       failed_off failed_off -         -          -
not_yet   -        off       -        -       idle       idle       -         -          -
reset     -        unknown   -        -       idle       unknown    unknown   unknown    -
"""


def _expected() -> list[tuple[NodeState, NodeEvent, str]]:
    header, *rows = (line.split() for line in EXPECTED.strip().splitlines())
    return [
        (NodeState(state), NodeEvent(row[0]), cell)
        for row in rows
        for state, cell in zip(header[1:], row[1:], strict=True)
    ]


@pytest.mark.parametrize(("state", "event", "follows"), _expected())
def test_every_state_and_event(state: NodeState, event: NodeEvent, follows: str) -> None:
    node = make_node(state=state)
    if follows == "!":
        with pytest.raises(IllegalTransition, match=f"{node.name} cannot take '{event.value}'"):
            advance(node, event, NOW, OPTIONS)
        return
    step = advance(node, event, NOW, OPTIONS)
    if follows == "-":
        assert step.node.state is state
        assert not step.changed
        assert step.node.since_ms == node.since_ms
    else:
        assert step.node.state is NodeState(follows)
        assert step.changed
        assert step.node.since_ms == NOW


def test_the_table_has_a_row_for_every_pair_and_the_expectation_covers_it() -> None:
    pairs = set(product(NodeState, NodeEvent))
    assert set(TABLE) == pairs
    assert {(state, event) for state, event, _ in _expected()} == pairs


def test_a_node_that_is_not_seen_is_never_off() -> None:
    for state in NodeState:
        row = TABLE[state, E.NOT_SEEN]
        assert row != Move(S.OFF)
        assert row is not NEVER


def test_nothing_that_may_hold_work_can_be_powered_off_without_draining() -> None:
    sources = {state for state in NodeState if isinstance(TABLE[state, E.POWER_OFF], Move)}
    assert sources == {S.DRAINING, S.FAILED_ON, S.FAILED_OFF}
    assert TABLE[S.USED, E.DRAIN] is NEVER


def test_a_stopping_node_must_be_off_before_it_can_be_ordered_on_w17() -> None:
    with pytest.raises(IllegalTransition):
        advance(make_node(state=S.STOPPING), E.ORDER_ON, NOW, OPTIONS)


def test_boot_sets_the_clocks_and_forgets_failures() -> None:
    node = Node(name="n", pool="p", failures_on=2, backoff_until_ms=NOW)
    started = advance(node, E.ORDER_ON, NOW, OPTIONS).node
    assert (started.generation, started.cycles, started.paid_since_ms) == (1, 1, NOW)
    on = advance(started, E.SEEN_IDLE, NOW + MINUTE, OPTIONS).node
    assert (on.on_since_ms, on.idle_since_ms, on.paid_since_ms) == (NOW + MINUTE, NOW + MINUTE, NOW)
    assert (on.failures_on, on.backoff_until_ms) == (0, 0)


def test_the_idle_clock_runs_from_the_end_of_work() -> None:
    node = make_node(state=S.USED)
    idle = advance(node, E.SEEN_IDLE, NOW, OPTIONS).node
    assert idle.idle_since_ms == NOW
    assert advance(idle, E.SEEN_IDLE, NOW + MINUTE, OPTIONS).node.idle_since_ms == NOW
    used = advance(idle, E.SEEN_USED, NOW + MINUTE, OPTIONS).node
    assert used.idle_since_ms == 0
    assert used.on_since_ms == node.on_since_ms


def test_w14_a_glitch_keeps_the_clocks_however_long_the_node_had_been_idle() -> None:
    # CLUES measured from the start of the old state: idle 1000 s, a glitch of 5 s, and the idle clock restarted.
    node = make_node(idle_since_ms=NOW - 1_000_000, since_ms=NOW - 1_000_000)
    dark = advance(node, E.NOT_SEEN, NOW, OPTIONS).node
    back = advance(dark, E.SEEN_IDLE, NOW + 5_000, OPTIONS).node
    assert back.idle_since_ms == node.idle_since_ms
    assert back.on_since_ms == node.on_since_ms
    assert (back.dark_since_ms, back.before_dark) == (0, None)


def test_a_node_dark_for_long_starts_its_clocks_anew() -> None:
    dark = advance(make_node(), E.NOT_SEEN, NOW, OPTIONS).node
    assert dark.before_dark is S.IDLE
    back = advance(dark, E.SEEN_IDLE, NOW + OPTIONS.glitch_ms, OPTIONS).node
    assert back.idle_since_ms == back.on_since_ms == NOW + OPTIONS.glitch_ms


def test_w13_a_failed_power_off_is_no_fresh_start() -> None:
    # CLUES forced IDLE: the hook fired, both clocks restarted, and after three rounds the node was stuck for ever.
    node = make_node(since_ms=NOW - HOUR)
    now = NOW
    for attempt in range(1, 8):
        node = advance(node, E.DRAIN, now, OPTIONS).node
        node = advance(node, E.POWER_OFF, now, OPTIONS).node
        node = advance(node, E.TIMEOUT, now + 10 * MINUTE, OPTIONS).node
        assert (node.state, node.failures_off) == (S.FAILED_OFF, attempt)
        assert node.backoff_until_ms > now + 10 * MINUTE
        node = advance(node, E.SEEN_IDLE, now + 11 * MINUTE, OPTIONS).node
        assert node.idle_since_ms == NOW - 2 * HOUR
        assert node.on_since_ms == NOW - 2 * HOUR
        assert node.failures_off == attempt
        now += HOUR
    assert advance(advance(node, E.DRAIN, now, OPTIONS).node, E.SEEN_OFF, now, OPTIONS).node.failures_off == 0


def test_w5_not_yet_burns_no_retry() -> None:
    node = advance(make_node(), E.DRAIN, NOW, OPTIONS).node
    sent = advance(node, E.POWER_OFF, NOW, OPTIONS).node
    for before in (node, sent):
        back = advance(before, E.NOT_YET, NOW + MINUTE, OPTIONS).node
        assert back.state is S.IDLE
        assert (back.failures_off, back.backoff_until_ms) == (0, 0)
        assert back.idle_since_ms == node.idle_since_ms


def test_failures_double_the_wait_up_to_the_limit_and_reset_forgets_them() -> None:
    node = Node(name="n", pool="p")
    waits = []
    for _ in range(12):
        node = advance(node, E.ORDER_ON, NOW, OPTIONS).node
        node = advance(node, E.REFUSED, NOW, OPTIONS).node
        waits.append(node.backoff_until_ms - NOW)
        node = advance(node, E.SEEN_OFF, NOW, OPTIONS).node
        assert node.state is S.OFF
        assert node.backoff_until_ms > NOW, "being off does not forgive the failed start"
    for number, wait in enumerate(waits):
        nominal = min(OPTIONS.backoff_limit_ms, OPTIONS.backoff_ms * 2**number)
        assert nominal / 2 <= wait <= nominal
    reset = advance(node, E.RESET, NOW, OPTIONS)
    assert (reset.node.failures_on, reset.node.backoff_until_ms, reset.changed) == (0, 0, False)


def test_switched_by_somebody_else_is_accepted_and_told() -> None:
    assert advance(make_node(state=S.OFF), E.SEEN_USED, NOW, OPTIONS).unexpected
    assert advance(make_node(state=S.IDLE), E.SEEN_OFF, NOW, OPTIONS).unexpected
    assert not advance(make_node(state=S.STARTING), E.SEEN_IDLE, NOW, OPTIONS).unexpected


def test_going_off_clears_the_clocks() -> None:
    off = advance(make_node(state=S.STOPPING), E.SEEN_OFF, NOW, OPTIONS).node
    assert (off.on_since_ms, off.idle_since_ms, off.paid_since_ms, off.dark_since_ms) == (0, 0, 0, 0)


def test_each_order_has_a_generation_of_its_own() -> None:
    node = Node(name="n", pool="p")
    on = advance(advance(node, E.ORDER_ON, NOW, OPTIONS).node, E.SEEN_IDLE, NOW, OPTIONS).node
    draining = advance(on, E.DRAIN, NOW, OPTIONS).node
    assert draining.generation == 2
    assert advance(draining, E.POWER_OFF, NOW, OPTIONS).node.generation == 2
    failed = make_node(state=S.FAILED_ON, generation=4)
    assert advance(failed, E.POWER_OFF, NOW, OPTIONS).node.generation == 5
