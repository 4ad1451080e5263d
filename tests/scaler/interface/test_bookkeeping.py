"""The books are kept, stored, taken up again, and shown to Prometheus."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from penstock.adapters.kubernetes import KubernetesClient, from_kubeconfig
from penstock.errors import Conflict, Corrupt, InvalidInput, Unavailable
from scaler.control import Explanation, Happening, HookEvent
from scaler.interface.bookkeeping import Bookkeeper, BookStore, ConfigMapBooks, FileBooks
from scaler.interface.hooks import ProgramHooks, read_options
from scaler.interface.ledger import Books, MonthBook
from scaler.interface.metrics import InterfaceCollector
from scaler.model import NodeState, Reservation, ScalePlan
from tests.scaler.interface.desk import Desk
from tests.scaler.interface.test_ledger import FLEET, NOW, node
from tests.testbed.kubernetes import Kubernetes

S = NodeState


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


def keeper(desk: Desk, store: BookStore, clock: Clock, *, leads: bool = True) -> Bookkeeper:
    return Bookkeeper(desk, FLEET, store, clock=clock, leads=lambda: leads, sample_s=5)


async def turns(books: Bookkeeper, clock: Clock, count: int) -> None:
    for _ in range(count):
        await books.turn()
        clock.now += 5000


async def test_c16_the_books_go_on_after_a_restart_and_others_read_them(tmp_path: Path) -> None:
    desk, clock, path = Desk(node("n1", S.IDLE)), Clock(), tmp_path / "books.json"
    first = keeper(desk, FileBooks(path), clock)
    await turns(first, clock, 26)
    hours = (await first.ledger("")).total.node_hours["idle"]
    assert hours == pytest.approx(125 / 3600)
    clock.now += 10_000
    second = keeper(desk, FileBooks(path), clock)
    await turns(second, clock, 13)
    found = await second.ledger("2026-11")
    # The last save was at 120 s; what came after and the gap until the new life are unmeasured.
    assert found.total.node_hours["idle"] == pytest.approx((120 + 60) / 3600)
    assert found.measured_share == pytest.approx(180 / 200)
    follower = keeper(desk, FileBooks(path), clock, leads=False)
    await turns(follower, clock, 2)
    assert (await follower.ledger("2026-11")).total.node_hours["idle"] > 0
    with pytest.raises(InvalidInput, match=r"\?month: 'november' is no month; write it like 2026-11"):
        await second.ledger("november")


async def test_a_store_that_is_away_is_waited_out_and_another_writer_is_respected(tmp_path: Path) -> None:
    class Shaky(FileBooks):
        trouble: Unavailable | Conflict | None = Unavailable("the store is away")

        async def save(self, books: Books) -> None:
            if self.trouble is not None:
                raise self.trouble
            await super().save(books)

    desk, clock = Desk(node("n1", S.IDLE)), Clock()
    store = Shaky(tmp_path / "books.json")
    books = keeper(desk, store, clock)
    await turns(books, clock, 10)
    store.trouble = None
    await turns(books, clock, 1)
    assert (await books.ledger("")).total.node_hours["idle"] == pytest.approx(50 / 3600), "nothing was lost meanwhile"
    theirs = Books(months={"2026-11": MonthBook(measured_s=7)}, as_of_ms=clock.now)
    await FileBooks(tmp_path / "books.json").save(theirs)
    store.trouble = Conflict("another process wrote")
    clock.now += 60_000
    await turns(books, clock, 1)
    store.trouble = None
    await turns(books, clock, 1)
    assert books.books.months["2026-11"].measured_s == 7


async def test_books_that_cannot_be_read_are_refused_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "books.json"
    path.write_text('{"months": 3}')
    with pytest.raises(Corrupt, match=r"the books in .*books.json cannot be read .*remove them to begin anew"):
        await FileBooks(path).load()


async def test_metrics_have_bounded_labels_and_the_figures_of_the_books(tmp_path: Path) -> None:
    plan = ScalePlan(now_ms=NOW, reservations=(Reservation(node="n1", owners=("a",), until_ms=NOW * 2),))
    desk, clock = Desk(node("n1", S.STARTING)), Clock()
    desk.explanation = Explanation(plan=plan)
    books = keeper(desk, FileBooks(tmp_path / "books.json"), clock)
    hooks = ProgramHooks(read_options({"idle": "true"}, timeout_s=9, folder=None, workers=1, waiting=0))
    hooks.told([HookEvent(kind=Happening.IDLE, time_ms=1, node="n1")])
    registry = CollectorRegistry()
    registry.register(InterfaceCollector(books.books, hooks))
    await turns(books, clock, 10)
    desk.known["n1"] = replace(desk.known["n1"], state=S.USED)
    await turns(books, clock, 2)
    text = generate_latest(registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    energy = families["penstock_scaler_energy_joules"].samples[0]
    assert energy.labels == {"pool": "cpu"}
    assert energy.value == pytest.approx(50 * 150 + 5 * 100 + 55 * 10)
    waits = {s.labels.get("le"): s.value for s in families["penstock_scaler_wait_seconds"].samples}
    assert (waits["45.0"], waits["60.0"]) == (0, 1)
    assert "penstock_scaler_wait_seconds_sum 50.0" in text
    assert 'penstock_scaler_hooks_total{hook="idle",outcome="dropped"} 1.0' in text
    labels = {name for family in families.values() for sample in family.samples for name in sample.labels}
    assert labels == {"pool", "le", "hook", "outcome"}


@pytest.mark.components
async def test_books_in_a_config_map_of_a_real_api_server(kubernetes: Kubernetes) -> None:
    client = KubernetesClient(from_kubeconfig(kubernetes.kubeconfig))
    try:
        one, other = (ConfigMapBooks(client, namespace="default", name="books") for _ in range(2))
        assert await one.load() == Books()
        await one.save(Books(as_of_ms=5))
        assert (await other.load()).as_of_ms == 5
        await other.save(Books(as_of_ms=6))
        with pytest.raises(Conflict):
            await one.save(Books(as_of_ms=7))
        assert (await one.load()).as_of_ms == 6
        await client.request("DELETE", "/api/v1/namespaces/default/configmaps/books")
        with pytest.raises(Conflict, match="the ConfigMap default/books was deleted"):
            await one.save(Books())
        assert await one.load() == Books()
    finally:
        await client.close()
