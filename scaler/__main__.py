"""`python -m scaler`: the scaler as a service of its own, in a Kubernetes cluster whose nodes it brings up and down.

It answers /health, /ready and /metrics from the first moment, and waits for what it needs with a line in the log. Only
settings and pools that can never work end it, with one sentence.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import structlog
from aiohttp import web

from penstock import __version__
from penstock.collectors import KubernetesCollector
from penstock.errors import Forbidden, InvalidInput, PenstockError, Unavailable
from penstock.observability import configure_logging
from penstock.ports import EventLog
from penstock.probes import add_probes, serving
from penstock.production import kubernetes_client, shared_log
from penstock.settings import Settings, load, override
from scaler.drivers.configuration import Configuration, read_configuration
from scaler.production import opened

log = structlog.get_logger("scaler")

_RETRY_S = 2.0
#: Exit codes: a part failed; the settings or pools cannot work.
FAILED, UNUSABLE = 1, 2

_EXAMPLES = """examples:
  python -m scaler --config /etc/penstock/penstock.toml
  python -m scaler --pools pools.yaml --check
  PENSTOCK_KUBERNETES_KUBECONFIG=~/.kube/config PENSTOCK_SCALER_BACKLOG=false python -m scaler --pools pools.yaml

Pools and drivers: docs/how-to/node-drivers.md. Running it: docs/operations/scaler.md. Settings: groups scaler, hooks,
kubernetes, kafka and service in docs/reference/settings.md.
exit codes: 0 stopped by a signal, 1 a part failed, 2 the settings or pools cannot work
"""


async def run(settings: Settings, configuration: Configuration) -> None:
    """Until cancelled; raises what ended it otherwise."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(kubernetes_client(settings))
        events = await _log(settings, stack) if settings.scaler.backlog else None
        running = await stack.enter_async_context(opened(settings, configuration, client, events))
        app = web.Application()
        add_probes(app, registry=running.metrics.registry, waiting_for=running.waiting_for, service="scaler")
        running.metrics.registry.register(KubernetesCollector(client.use, lambda: client.pressure.allowed))
        address = await stack.enter_async_context(serving(app, settings.service.listen))
        log.info("the scaler starts", action="start", version=__version__, address=address)
        await running.run()


async def _log(settings: Settings, stack: AsyncExitStack) -> EventLog:
    told = ""
    while True:
        try:
            return await stack.enter_async_context(shared_log(settings))
        except (Unavailable, Forbidden) as error:
            if error.message != told:
                log.warning("waiting for the log", action="waiting", error=error.message)
            told = error.message
        await asyncio.sleep(_RETRY_S)


async def serve(settings: Settings, configuration: Configuration) -> None:
    """Run until SIGTERM or SIGINT. Nothing is drained: what is under way is taken up by the next life."""
    task = asyncio.create_task(run(settings, configuration), name="scaler process")
    loop = asyncio.get_running_loop()
    stopped = False

    def came() -> None:
        nonlocal stopped
        stopped = True
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, came)
    try:
        await task
    except asyncio.CancelledError:
        if not stopped:
            raise
        log.info("stopped", action="stopped")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scaler",
        description="Starts nodes for work that waits and lets idle ones go, never one with work on it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings in TOML; the environment wins over it")
    parser.add_argument("--pools", type=Path, metavar="FILE", help="pools and drivers in YAML (scaler.pools)")
    parser.add_argument("--check", action="store_true", help="say whether settings and pools can work, and end")
    parser.add_argument("--version", action="version", version=f"penstock {__version__}")
    given = parser.parse_args(arguments)
    try:
        settings = override(load(given.config), "scaler", pools=given.pools)
        configure_logging(settings.log)
        configuration = read_configuration(settings.scaler.pools)
        if given.check:
            pools = ", ".join(f"{pool.name} ({pool.min} to {pool.max})" for pool in configuration.fleet.pools)
            print(f"the settings and pools can work: {pools}")  # noqa: T201 - the answer to a question
            return 0
        asyncio.run(serve(settings, configuration))
    except InvalidInput as error:
        print(f"scaler: {error}", file=sys.stderr)  # noqa: T201 - for whoever started it
        return UNUSABLE
    except PenstockError as error:
        print(f"scaler: {error}", file=sys.stderr)  # noqa: T201
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
