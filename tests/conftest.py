"""What every test gets: a leaked task fails the test that leaked it."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

# A shell that starts us in the background has us ignore SIGINT, and programs that we start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The parts of the suite share the machine, so how long one example takes says nothing.
settings.register_profile("penstock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("penstock")

#: Real servers, each started when the first test asks for it.
pytest_plugins = ["tests.testbed.fixtures"]


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """For tests that configure logs, which then go to that test's standard error: closed after it."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers, logging.root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
async def no_leaked_tasks(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Fail a test that leaves asyncio tasks behind: they would bite a later test instead."""
    before = asyncio.all_tasks()
    yield
    # The teardown itself runs in a task that did not exist before.
    leaked = {task for task in asyncio.all_tasks() - before - {asyncio.current_task()} if not task.done()}
    for task in leaked:
        task.cancel()
    if leaked:
        names = ", ".join(sorted(task.get_name() for task in leaked))
        pytest.fail(f"tasks left running: {names}")
