"""The gateway of a cluster sees work by its traces; its password and certificate come from files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from gateway.admin import admin_of, tls_of
from gateway.pods import facts_of
from gateway.remote import STALE_MS, DemandView, RemoteWork
from penstock.adapters.sqlite import SqliteEventLog, SqliteLedger, SqliteRegistry
from penstock.clock import now_ms
from penstock.codec import encode
from penstock.errors import InvalidInput
from penstock.follow import RecordFollower
from penstock.model import TOPIC_DEMAND, TOPIC_EVENTS, TOPIC_RECORDS, FunctionDemand, Phase, Record
from penstock.ports import LogEntry
from penstock.settings_gateway import GatewayGroup
from tests.factories import make_event, make_function


def demand(uid: str, **changes: Any) -> LogEntry:
    fields: dict[str, Any] = {"function": "thumbs", "function_uid": uid, "time_ms": now_ms(), "queued": 1, "running": 2}
    return LogEntry(uid, encode(FunctionDemand(**(fields | changes))))


async def test_status_from_history_and_demand(tmp_path: Path) -> None:
    log = await SqliteEventLog.open(tmp_path / "log.sqlite")
    ledger = await SqliteLedger.open(tmp_path / "ledger.sqlite")
    registry = await SqliteRegistry.open(tmp_path / "registry.sqlite")
    try:
        function = await registry.create(make_function())
        record = Record(
            id="a" * 40,
            function=function.name,
            function_uid=function.uid,
            generation=1,
            trigger=make_event(),
            phase=Phase.QUEUED,
            queued_ms=now_ms(),
        )
        await log.append(TOPIC_RECORDS, [LogEntry(record.id, encode(record))])
        await log.append(TOPIC_EVENTS, [LogEntry("k", b"{}")])
        follower, view = RecordFollower(log, ledger), DemandView(log)
        await follower.catch_up()
        work = RemoteWork(event_log=log, ledger=ledger, registry=registry, follower=follower, demand=view)

        async def waiting_for(*entries: LogEntry) -> str:
            if entries:
                await log.append(TOPIC_DEMAND, list(entries))
            await view.turn()
            [told] = (await work.status()).functions
            return told.waiting_for

        assert await waiting_for() == "no dispatcher is active"
        assert await waiting_for(demand(function.uid)) == "room in the cluster"
        assert await waiting_for(demand(function.uid, concurrency=2)) == "its limit of 2 at once"
        assert await waiting_for(demand(function.uid, time_ms=now_ms() - STALE_MS - 1)) == "no dispatcher is active"
        assert await waiting_for(LogEntry(function.uid, b"no demand")) == "no dispatcher is active"
        assert await waiting_for(LogEntry(function.uid, b"")) == "no dispatcher is active"
        assert view.known == {}
        status = await work.status()
        assert (status.events_pending, status.functions[0].phases) == (1, {Phase.QUEUED: 1})
        await registry.replace(make_function(paused=True))
        assert await waiting_for(demand(function.uid)) == "the function is paused"
    finally:
        for one in (registry, ledger, log):
            await one.close()


def test_nodes_and_pods() -> None:
    node = {
        "metadata": {"name": "n1", "labels": {}},
        "status": {
            "allocatable": {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"},
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "False"}],
        },
    }
    virtual = {"metadata": {"name": "v", "labels": {"type": "virtual-kubelet"}}, "status": {}}
    resources = {"requests": {"cpu": "250m", "memory": "64Mi"}}

    def pod(phase: str, where: str = "n1") -> dict[str, Any]:
        spec = {"nodeName": where, "containers": [{"resources": resources}, {"resources": None}, {}]}
        return {"spec": spec, "status": {"phase": phase}}

    everywhere = [pod("Running"), pod("Running"), pod("Succeeded"), pod("Pending", "")]
    ours = [pod("Running"), pod("Failed")]
    facts = facts_of([node, virtual], everywhere, ours, version="v1.33.0", namespace="jobs")
    first, second = facts.nodes
    assert (first.ready, first.cpu_millis, first.memory_bytes, first.gpus) == (True, 2000, 4 * 2**30, 1)
    assert (first.cpu_millis_requested, first.memory_bytes_requested) == (500, 128 * 2**20), "what ended counts no more"
    assert (second.ready, second.virtual, second.cpu_millis) == (False, True, 0)
    assert facts.pods == {"Running": 1, "Failed": 1}


def test_the_password_is_read_again_when_its_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("the first password\n")
    admin = admin_of(GatewayGroup(credentials_dir=tmp_path))
    assert (admin().user, admin().token) == ("oscar", "the first password")
    (tmp_path / "new").write_text("a second password")
    (tmp_path / "new").replace(file)
    os.utime(file, ns=(1, 1))
    assert admin().token == "a second password"
    file.unlink()
    assert admin().token == "a second password", "between two versions of a mounted Secret"


def test_passwords_and_certificates_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="credentials_dir"):
        admin_of(GatewayGroup())
    with pytest.raises(InvalidInput, match="cannot be read"):
        admin_of(GatewayGroup(credentials_dir=tmp_path))
    (tmp_path / "password").write_text("short")
    with pytest.raises(InvalidInput, match="fewer than 12") as caught:
        admin_of(GatewayGroup(credentials_dir=tmp_path))
    assert "short" not in caught.value.message.removeprefix(str(tmp_path))
    assert tls_of(GatewayGroup()) is None
    with pytest.raises(InvalidInput, match="belong together"):
        tls_of(GatewayGroup(tls_cert=tmp_path / "password"))
    with pytest.raises(InvalidInput, match="cannot be used"):
        tls_of(GatewayGroup(tls_cert=tmp_path / "password", tls_key=tmp_path / "password"))
