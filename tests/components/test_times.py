"""How long each component takes to be ready, once built: the promises of `docs/testing.md`."""

from __future__ import annotations

import sys
import time

import pytest

from tests.testbed import Bed

pytestmark = pytest.mark.components

LIMITS = {"minio": 3.0, "kafka": 10.0, "kubernetes": 15.0, "node": 30.0}
# Work of others on the machine only ever adds to a time, so the best of a few tells what a component needs.
TRIES = 3


async def start_all() -> dict[str, float]:
    took: dict[str, float] = {}
    async with Bed() as bed:
        for name in LIMITS:
            started = time.monotonic()
            await bed.start(name)
            took[name] = time.monotonic() - started
    return took


async def test_components_are_ready_within_their_limits(capsys: pytest.CaptureFixture[str]) -> None:
    best: dict[str, float] = {}
    for _ in range(TRIES):
        took = await start_all()
        best = {name: min(seconds, best.get(name, seconds)) for name, seconds in took.items()}
        if all(best[name] < limit for name, limit in LIMITS.items()):
            break
    with capsys.disabled():
        sys.stdout.write("\nready after " + ", ".join(f"{name} {best[name]:.1f} s" for name in best) + "\n")
    for name, limit in LIMITS.items():
        assert best[name] < limit, f"{name} took {best[name]:.1f} s, and {limit:.0f} s are promised"
