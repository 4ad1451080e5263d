"""`penstock node` and `penstock simulate`, whole: the command line over real sockets to the routes."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from gateway.cli import failures
from gateway.cli.app import run
from scaler.configuration import read_fleet
from scaler.control import RequestState
from scaler.interface.api import make_node_app
from scaler.model import NodeState
from tests.scaler.interface.desk import Desk, served
from tests.scaler.interface.test_api import EXPLANATION, TOKEN, NoBooks, info

S = NodeState


class Shell:
    """Runs commands against a server in another thread."""

    def __init__(self, desk: Desk, address: str, capture: pytest.CaptureFixture[str]) -> None:
        self.desk, self._address, self._capture = desk, address, capture

    def __call__(self, *words: str, code: int = failures.OK) -> tuple[str, str]:
        self._capture.readouterr()
        got = run([*words, "--server", self._address, "--token", TOKEN])
        out, err = self._capture.readouterr()
        assert got == code, err
        return out, err

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--output", "json")[0])


@pytest.fixture
def shell(capfd: pytest.CaptureFixture[str]) -> Iterator[Shell]:
    offers = (("cpu", 8000), ("memory", 1 << 34))
    desk = Desk(
        info(offers=offers, used=(("cpu", 1500),), reason="idle for less than 300 s", pods=2, labels=(("zone", "a"),)),
        info("cpu-2", S.OFF, failures_on=3),
        explanation=EXPLANATION,
    )
    loop, started, address, stop = asyncio.new_event_loop(), threading.Event(), "", asyncio.Event()

    async def serve() -> None:
        nonlocal address
        async with served(make_node_app(desk, token=lambda: TOKEN, ledger=NoBooks())) as (address, _):
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert started.wait(60)
    with structlog.testing.capture_logs():
        yield Shell(desk, address, capfd)
    loop.call_soon_threadsafe(stop.set)
    thread.join(60)
    loop.close()


def test_ls_shows_state_load_and_reason(shell: Shell) -> None:
    head, first, second = shell("node", "ls")[0].splitlines()
    assert head.split() == ["NODE", "POOL", "STATE", "SINCE", "PODS", "CPU", "REASON"]
    assert first.split()[:3] == ["cpu-1", "cpu", "idle"]
    assert "1500m/8" in first
    assert first.endswith("idle for less than 300 s")
    assert "off" in second
    assert [one["name"] for one in shell.json("node", "ls", "--state", "off")["nodes"]] == ["cpu-2"]
    assert "Did you mean 'cpu'" in shell("node", "ls", "--pool", "cpus", code=failures.NOT_FOUND)[1]


def test_show(shell: Shell) -> None:
    out = shell("node", "show", "cpu-1")[0]
    assert out.startswith("cpu-1 in pool cpu: idle")
    assert "memory used" in out
    assert "label zone" in out
    assert "there is no node 'x'" in shell("node", "show", "x", code=failures.NOT_FOUND)[1]


def test_orders_and_a_wrong_name_changes_nothing(shell: Shell) -> None:
    assert shell("node", "on", "cpu-2")[0] == "cpu-2 is starting\n"
    assert "2 pods run on node cpu-1" in shell("node", "off", "cpu-1", code=failures.CONFLICT)[1]
    assert shell("node", "off", "cpu-1", "--force")[0] == "cpu-1 is draining\n"
    assert shell("node", "disable", "cpu-1", "cpu-2")[0].endswith("cpu-2 is starting, disabled\n")
    assert shell.json("node", "enable", "cpu-1")["nodes"][0]["enabled"]
    shell("node", "reset", "cpu-2")
    before = list(shell.desk.calls)
    assert "Did you mean" in shell("node", "reset", "cpu-1", "cpu-3", code=failures.NOT_FOUND)[1]
    assert shell.desk.calls == before


def test_requests(shell: Shell) -> None:
    wanted = ("--cpu", "2", "--resource", "nvidia.com/gpu=1", "--tasks", "3", "--where", "gpu")
    made = shell.json("node", "request", *wanted)
    assert (made["id"], made["resources"], made["expression"]) == ("r1", {"cpu": "2", "nvidia.com/gpu": "1"}, "gpu")
    assert "3 x cpu 2, nvidia.com/gpu 1" in shell("node", "request", "--list")[0]
    assert shell.json("node", "request", "--withdraw", "r1")["requests"][0]["state"] == RequestState.OVER
    assert "resources.cpu: 'x' is not a quantity" in shell("node", "request", "--cpu", "x", code=failures.INVALID)[1]
    assert "must be NAME=N" in shell("node", "request", "--resource", "gpu", code=failures.INVALID)[1]
    assert "waiting" in shell("node", "request", "--cpu", "1", "--wait", "0", code=failures.FAILED)[0]


def test_status_explains_the_decision(shell: Shell) -> None:
    out = shell("node", "status")[0]
    for line in (
        "  add cpu-2: wake for 3 pods",
        "  7 waiting: pool cpu is at its maximum (no node ever will)",
        "  cpu-1: idle for less than 300 s",
        "  cpu: 2 failures, no capacity",
        "  driver x is paused",
        "  a, b",
    ):
        assert line in out.splitlines()
    assert shell.json("node", "status")["orders"][0]["reason"] == "wake for 3 pods"


def test_ledger(shell: Shell) -> None:
    assert shell("node", "ledger", "--month", "2026-10")[0].startswith("2026-10, 0.0% of the time measured")
    assert shell.json("node", "ledger")["total"]["kwh"] == 0


def test_import_writes_pools_and_accounts_for_the_rest(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config, pools = tmp_path / "clues2.cfg", tmp_path / "pools.yaml"
    config.write_text("[scheduling]\nIDLE_TIME=600\n[general]\nCLUES_PORT=8000\nDISABLED_HOSTS=b\n")
    words = ["node", "import", str(config), "--hosts", "a,b"]
    assert run([*words, "-o", str(pools)]) == failures.OK
    out, err = capfd.readouterr()
    assert out == f"1 pools are in {pools}\n"
    assert "[general] CLUES_PORT = 8000: the interface is that of the gateway" in err
    assert "penstock node disable b" in err
    assert read_fleet(pools).pools[0].idle_ms == 600_000
    assert run([*words, "-o", str(pools)]) == failures.INVALID
    assert "exists already; --force overwrites it" in capfd.readouterr().err
    assert run([*words, "--output", "json"]) == failures.OK
    assert json.loads(capfd.readouterr().out)["commands"] == ["penstock node disable b"]


def test_simulate(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trace, drawing = tmp_path / "jobs.csv", tmp_path / "out.svg"
    trace.write_text("submit,runtime,cpu\n0,60,1\n")
    assert run(["simulate", "--trace", str(trace), "--chart", str(drawing)]) == failures.OK
    assert "always on" in capfd.readouterr().out
    assert drawing.read_text().startswith("<svg")
    assert run(["simulate", "--generate", "steady", "--days", "0.2", "--output", "json"]) == failures.OK
    (report,) = json.loads(capfd.readouterr().out)["reports"]
    assert [one["policy"] for one in report["outcomes"]] == ["penstock", "clues", "always on"]
    assert run(["simulate"]) == failures.USAGE
    assert run(["simulate", "--quality", "--chart", "x.svg"]) == failures.USAGE


@pytest.mark.slow
def test_the_quality_that_must_hold_in_one_command(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--quality"]) == failures.OK
    out = capfd.readouterr().out
    for load in ("steady: ", "bursty: ", "diurnal: ", "recorded: "):
        assert f"\n{load}" in f"\n{out}"
