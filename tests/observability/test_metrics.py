"""Metrics of the services: what is told of a function goes with it, reasons are few, and probes need no credential."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from dispatcher.metrics import STUCK_CLASSES, DispatcherMetrics, stuck_class
from gateway.__main__ import Service
from penstock import __version__
from penstock import settings as penstock_settings
from penstock.adapters.kubernetes import KubernetesClient
from penstock.adapters.kubernetes.access import Access
from penstock.adapters.kubernetes.client import ClientSettings
from penstock.collectors import KubernetesCollector, ServiceCollector
from penstock.errors import Unavailable
from penstock.model import Phase
from penstock.settings import Settings
from tests.dispatcher.bench import DispatcherBench
from tests.factories import make_event
from watcher.metrics import WatcherMetrics

PATIENCE_S = 60.0


def text(registry: CollectorRegistry) -> str:
    return generate_latest(registry).decode()


def used(metrics: DispatcherMetrics, *functions: str) -> None:
    for function in functions:
        metrics.taken_in(function, 0.1)
        metrics.submitted(function, [0.2, -3.0])
        metrics.ended(function, "succeeded", waited_s=1.0, ran_s=2.0, start_s=0.5, publish_s=0.1)
        metrics.depth(function, 3, 9.0)
        metrics.running.labels(function).set(1)


def test_what_is_told_of_a_function_goes_with_it() -> None:
    registry = CollectorRegistry()
    metrics = DispatcherMetrics(registry)
    used(metrics, "stays", "goes")
    metrics.retain({"stays"})
    assert 'function="goes"' not in text(registry)
    assert 'penstock_dispatcher_submit_seconds_count{function="stays"} 2.0' in text(registry)
    used(metrics, "goes")  # made anew under the same name: counted anew, and not into what was forgotten
    assert 'penstock_dispatcher_submit_seconds_count{function="goes"} 2.0' in text(registry)


def test_a_standby_tells_of_no_work() -> None:
    registry = CollectorRegistry()
    metrics = DispatcherMetrics(registry)
    used(metrics, "f")
    metrics.active.set(1)
    metrics.stuck_jobs(["Unschedulable"])
    metrics.stand_by()
    told = text(registry)
    assert "penstock_dispatcher_active 0.0" in told
    assert "function=" not in told
    assert 'penstock_dispatcher_stuck_jobs{reason="unschedulable"} 0.0' in told


def test_an_item_whose_script_never_began_is_counted_and_not_timed() -> None:
    registry = CollectorRegistry()
    DispatcherMetrics(registry).ended("f", "gone")
    told = text(registry)
    assert 'penstock_dispatcher_attempts_total{function="f",outcome="gone"} 1.0' in told
    assert "penstock_dispatcher_run_seconds_count" not in told


@given(st.text() | st.sampled_from(["Unschedulable", "ErrImagePull", "CrashLoopBackOff", "NoPod"]))
def test_whatever_a_cluster_says_the_classes_are_few(reason: str) -> None:
    assert stuck_class(reason) in STUCK_CLASSES


def test_stuck_jobs_that_go_on_are_told_as_none() -> None:
    registry = CollectorRegistry()
    metrics = DispatcherMetrics(registry)
    metrics.stuck_jobs(["ErrImagePull", "ImagePullBackOff", "Strange"])
    assert 'penstock_dispatcher_stuck_jobs{reason="image"} 2.0' in text(registry)
    assert 'penstock_dispatcher_stuck_jobs{reason="other"} 1.0' in text(registry)
    metrics.stuck_jobs([])
    assert 'penstock_dispatcher_stuck_jobs{reason="image"} 0.0' in text(registry)


def test_a_clock_that_is_behind_gives_no_negative_time() -> None:
    registry = CollectorRegistry()
    WatcherMetrics(registry).notice("push", -5.0)
    assert 'penstock_watcher_notice_seconds_sum{origin="push"} 0.0' in text(registry)


async def test_the_hops_of_an_item_are_told_by_a_working_dispatcher(tmp_path: Path) -> None:
    bench = DispatcherBench(tmp_path)
    await bench.open()
    try:
        await bench.deploy()
        await bench.event(*(make_event(f"in/{number}.png") for number in range(3)))
        async with bench.life():
            await bench.until_phase(Phase.SUCCEEDED, 3)
        told = text(bench.collector)
    finally:
        await bench.close()
    for hop in ("intake", "submit", "wait", "run"):
        assert f'penstock_dispatcher_{hop}_seconds_count{{function="thumbs"}} 3.0' in told, hop
    assert 'penstock_dispatcher_attempts_total{function="thumbs",outcome="succeeded"} 3.0' in told
    assert 'penstock_dispatcher_attempts_total{function="thumbs",outcome="script"} 0.0' in told, (
        "rates begin at nothing"
    )


# ---- what every service tells


def test_ready_follows_the_reasons() -> None:
    reasons = ["the log is away"]
    registry = CollectorRegistry()
    registry.register(ServiceCollector("watcher", "1.2", lambda: reasons))
    assert "penstock_ready 0.0" in text(registry)
    reasons.clear()
    assert "penstock_ready 1.0" in text(registry)
    assert 'penstock_build_info{service="watcher",version="1.2"} 1.0' in text(registry)


async def test_an_api_server_that_pushes_back_is_told() -> None:
    """A real server that says 429 twice and then answers."""
    answers = [429, 429]

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({}, status=answers.pop(0) if answers else 200)

    app = web.Application()
    app.router.add_get("/api", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    registry = CollectorRegistry()
    client = KubernetesClient(Access(server=f"http://127.0.0.1:{runner.addresses[0][1]}"))
    registry.register(KubernetesCollector(client.use, lambda: client.pressure.allowed))
    try:
        await client.get("/api")
    finally:
        await client.close()
        await runner.cleanup()
    told = text(registry)
    assert 'penstock_kubernetes_requests_total{outcome="pushed_back"} 2.0' in told
    assert 'penstock_kubernetes_requests_total{outcome="answered"} 1.0' in told
    assert "penstock_kubernetes_retries_total 2.0" in told
    assert client.use.held_s > 0
    assert "penstock_kubernetes_requests_allowed 16.0" in told


async def test_an_api_server_that_is_away_is_told() -> None:
    client = KubernetesClient(Access(server="http://127.0.0.1:1"), ClientSettings(patience_s=0.5))
    try:
        await client.get("/api")
    except Unavailable:
        assert client.use.unanswered > 1
    finally:
        await client.close()
    assert client.use.answered == 0


async def _held(handler: Callable[[web.Request], Awaitable[web.Response]], requests: int, **settings: Any) -> float:
    """How many requests waited at a time on average, by what is told, of so many to a server that answers so."""
    app = web.Application()
    app.router.add_get("/api", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = KubernetesClient(Access(server=f"http://127.0.0.1:{runner.addresses[0][1]}"), ClientSettings(**settings))
    begun = time.monotonic()
    try:
        ended = await asyncio.gather(*(client.get("/api") for _ in range(requests)), return_exceptions=True)
        assert all(isinstance(one, Unavailable) for one in ended), ended
    finally:
        seconds = time.monotonic() - begun
        await client.close()
        await runner.cleanup()
    return client.use.held_s / seconds


async def test_every_request_that_a_push_back_keeps_waiting_counts_and_not_only_the_one_at_the_door() -> None:
    """The alert asks whether more than one waits all the time, and the door lets one through at a time then."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": "0.05"})

    assert await _held(handler, 8, in_flight=2, patience_s=1) > 3


async def test_waiting_in_vain_for_an_answer_counts() -> None:
    """A server that is paused takes requests and says nothing."""
    stopped = asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        await stopped.wait()
        return web.Response()

    assert await _held(handler, 1, attempt_s=0.3, patience_s=0.4) > 0.5


# ---- the gateway's own address for probes


def nowhere(folder: Path) -> Settings:
    """Settings of a gateway whose servers are all away."""
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
                "users": [{"name": "u", "user": {}}],
            }
        )
    )
    (folder / "admin").mkdir()
    (folder / "admin" / "password").write_text("a-long-enough-password")
    settings = penstock_settings.override(Settings(), "http", listen="127.0.0.1:0")
    settings = penstock_settings.override(settings, "service", listen="127.0.0.1:0")
    settings = penstock_settings.override(settings, "gateway", credentials_dir=folder / "admin")
    settings = penstock_settings.override(settings, "s3", endpoint="http://127.0.0.1:1", access_key="a", secret_key="b")
    settings = penstock_settings.override(settings, "kafka", servers="127.0.0.1:1")
    settings = penstock_settings.override(settings, "kubernetes", kubeconfig=kubeconfig)
    return penstock_settings.override(settings, "state", data=folder / "state")


async def test_a_gateway_without_its_servers_tells_so_without_a_credential(tmp_path: Path) -> None:
    running = Service(nowhere(tmp_path), edge=False)
    task = asyncio.create_task(running.run(), name="gateway without servers")
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not running.probes and not task.done():
                await asyncio.sleep(0.02)
        async with aiohttp.ClientSession(base_url=f"http://{running.probes}") as session:
            async with session.get("/health") as answer:
                assert answer.status == 200
            async with session.get("/ready") as answer:
                assert answer.status == 503
                assert (await answer.text()).strip()
            async with session.get("/metrics") as answer:
                told = await answer.text()
    finally:
        running.stop()
        await task
    assert "penstock_ready 0.0" in told
    assert f'penstock_build_info{{service="gateway",version="{__version__}"}} 1.0' in told
