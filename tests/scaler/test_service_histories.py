"""Random histories of the whole service: outages, lost pods, flapping nodes, and the process killed at any call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scaler.pools import Fleet
from tests.scaler.play import Play
from tests.scaler.test_service import fleets, states

Action = Callable[[Play, int], Awaitable[None] | None]


def _submit(play: Play, which: int) -> None:
    play.cluster.submit(which % 6 + 1)


def _finish(play: Play, which: int) -> None:
    bound = [uid for uid, pod in play.cluster.pods.items() if pod.node]
    for uid in bound[which % 3 :: 2] if which % 4 else bound:
        del play.cluster.pods[uid]


def _flap(play: Play, which: int) -> None:
    names = sorted(play.on())
    play.cluster.dark ^= set(names[which % 2 :: 2] if which % 5 else names)


def _stick(play: Play, which: int) -> None:
    names = sorted(play.cloud.machines._machines)
    if names:
        play.cloud.stuck ^= {names[which % len(names)]}


def _cut_cluster(play: Play, which: int) -> None:
    play.cluster.down = "" if play.cluster.down else ("stale", "partial")[which % 2]


def _cut_provider(play: Play, which: int) -> None:
    play.cloud.down = not play.cloud.down


def _lose_answers(play: Play, which: int) -> None:
    play.cloud.loses_answers = not play.cloud.loses_answers


def _cut_store(play: Play, which: int) -> None:
    play.store.down = not play.store.down


def _kill_at(play: Play, which: int) -> None:
    play.trap.at, play.trap.after = play.trap.calls + 1 + which // 2, bool(which % 2)


def _heal(play: Play, which: int) -> None:
    play.cluster.down, play.cloud.down, play.store.down, play.cloud.loses_answers = "", False, False, False
    play.cluster.dark, play.cloud.stuck = set(), set()


async def _turn(play: Play, which: int) -> None:
    await play.turn()


async def _wait(play: Play, which: int) -> None:
    await play.wait(1 + which**2 / 4)


async def _live(play: Play, which: int) -> None:
    await play.live(2 * which + 2)


ACTIONS: dict[str, Action] = {
    "submit": _submit,
    "finish": _finish,
    "flap": _flap,
    "stick": _stick,
    "cut_cluster": _cut_cluster,
    "cut_provider": _cut_provider,
    "lose_answers": _lose_answers,
    "cut_store": _cut_store,
    "kill_at": _kill_at,
    "heal": _heal,
    "turn": _turn,
    "wait": _wait,
    "live": _live,
}
STEPS = st.tuples(
    st.sampled_from([*ACTIONS, *("wait", "turn", "live", "finish", "submit", "heal") * 2]), st.integers(0, 20)
)


async def _history(play: Play, steps: Sequence[tuple[str, int]]) -> None:
    """What must hold is asserted by the cloud at each call: no work loses its machine, no pool exceeds its bounds."""
    for name, argument in steps:
        done = ACTIONS[name](play, argument)
        if done is not None:
            await done
        views = play.service.snapshot(play.service.journal.state, play.cluster.look())
        assert len({node.name for node in views.nodes}) == len(views.nodes)


@fleets
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(STEPS, min_size=10, max_size=60))
def test_c1_c2_c3_c6_no_history_of_the_service_kills_work_or_exceeds_a_bound(
    fleet: Fleet, steps: list[tuple[str, int]]
) -> None:
    asyncio.run(_history(Play(fleet), steps))


@pytest.mark.slow
@fleets
async def test_c1_c2_c3_c6_nor_do_long_ones_and_all_of_them_recover(fleet: Fleet) -> None:
    rng = Random(11)
    names = [*ACTIONS, *("wait", "turn", "live", "finish") * 3, *("heal", "submit", "turn", "live") * 2]
    crashes = removals = 0
    for _ in range(12):
        play = Play(fleet)
        await _history(play, [(rng.choice(names), rng.randrange(20)) for _ in range(150)])
        _heal(play, 0)
        play.trap.at = 0
        play.cluster.pods.clear()
        await play.live(4000, step=20)
        await play.live(100)
        spare = sum(max(pool.min, *(one.nodes for one in pool.spare), 0) for pool in fleet.pools)
        assert len(play.on()) == spare, f"{play.on()} on: {states(play)}"
        assert not play.cluster.cordoned & play.on()
        crashes += play.crashes
        removals += play.cloud.removals
    assert crashes > 10
    assert removals > 20, "histories in which nothing is taken out prove nothing"
