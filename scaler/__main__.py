"""`python -m scaler`: the scaler as a service of its own, in a Kubernetes cluster whose nodes it brings up and down.

It answers /health, /ready and /metrics from the first moment, and waits for what it needs with a line in the log. Only
settings and pools that can never work end it, with one sentence.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import structlog
from aiohttp import web

from penstock import __version__
from penstock.collectors import KubernetesCollector
from penstock.errors import Forbidden, Unavailable
from penstock.ports import EventLog
from penstock.probes import add_probes, serving
from penstock.production import kubernetes_client, shared_log
from penstock.program import Program, Work, until_signal
from penstock.settings import Settings, override
from scaler.drivers.configuration import Configuration, read_configuration
from scaler.production import check, opened

log = structlog.get_logger("scaler")

_RETRY_S = 2.0

PROGRAM = Program(
    module="scaler",
    description="Starts nodes for work that waits and lets idle ones go, never one with work on it.",
    examples=(
        "python -m scaler --config /etc/penstock/penstock.toml",
        "python -m scaler --config penstock.toml --pools pools.yaml --check",
        (
            "PENSTOCK_KUBERNETES_KUBECONFIG=~/.kube/config PENSTOCK_SCALER_BACKLOG=false \\\n"
            "    python -m scaler --pools pools.yaml"
        ),
    ),
    pages="Pools and drivers: docs/how-to/node-drivers.md. Running it: docs/operations/scaler.md. Settings:\n"
    "groups scaler, hooks, kubernetes, kafka and service in docs/reference/settings.md.",
)


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
    await until_signal(run(settings, configuration))


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = PROGRAM.parser()
    parser.add_argument("--pools", type=Path, metavar="FILE", help="pools and drivers in YAML (scaler.pools)")
    given = parser.parse_args(arguments)

    def prepare(loaded: Settings) -> Work:
        settings = override(loaded, "scaler", pools=given.pools)
        configuration = read_configuration(settings.scaler.pools)
        check(settings)
        pools = ", ".join(f"{pool.name} ({pool.min} to {pool.max})" for pool in configuration.fleet.pools)
        return Work(serve=lambda: serve(settings, configuration), found=f"pools {pools}")

    return PROGRAM.run(given, prepare)


if __name__ == "__main__":
    sys.exit(main())
