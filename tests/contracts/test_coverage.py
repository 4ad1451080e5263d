"""Every class that implements a port must stand in that port's contract suite, else nobody checks its contract."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import pytest

from penstock.ports import EventLog, KeepsResults, Ledger, NodeProvider, ObjectStore, Registry, Runner, Source

PACKAGES = ("penstock", "watcher", "dispatcher", "scaler", "gateway")
#: By port, the name of its suite; what only some adapters of a port can do is checked in that port's.
SUITES: dict[type, str] = {
    ObjectStore: "object_store",
    EventLog: "event_log",
    Registry: "registry",
    Ledger: "ledger",
    Runner: "runner",
    KeepsResults: "runner",
    Source: "source",
    NodeProvider: "node_provider",
}


def public_methods(port: type) -> set[str]:
    """What a port asks for, its properties included."""
    return {name for name in vars(port) if not name.startswith("_")}


def modules() -> Iterator[ModuleType]:
    for name in PACKAGES:
        package = importlib.import_module(name)
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not found.name.endswith("__main__"):  # those start services when imported
                yield importlib.import_module(found.name)


def implementations(port: type, found_in: Sequence[ModuleType]) -> set[type]:
    wanted = public_methods(port)
    return {
        member
        for module in found_in
        for member in vars(module).values()
        if inspect.isclass(member)
        and member.__module__ == module.__name__
        and not getattr(member, "_is_protocol", False)
        and wanted <= set(dir(member))
    }


async def covered(suite: ModuleType, folder: Path) -> set[type]:
    """The classes that the suite's factories really make: the adapter itself, or a bench that holds it."""
    adapters: list[tuple[str, Any]] = suite.ADAPTERS
    classes: set[type] = set()
    for name, factory in adapters:
        opened: AbstractAsyncContextManager[object] = factory(folder / name)
        async with opened as adapter:
            for made in (adapter, *getattr(adapter, "__dict__", {}).values()):
                classes.update(type(made).__mro__)
    return classes


@pytest.mark.components  # the factories of production adapters open real servers
@pytest.mark.parametrize(
    ("port", "name"), [pytest.param(port, name, id=port.__name__) for port, name in SUITES.items()]
)
async def test_every_adapter_is_in_its_contract_suite(port: type, name: str, tmp_path: Path) -> None:
    adapters = implementations(port, list(modules()))
    if not adapters:
        return  # nothing implements this port, so there is nothing to check
    names = sorted(f"{adapter.__module__}.{adapter.__qualname__}" for adapter in adapters)
    suite = f"tests.contracts.test_{name}"
    assert importlib.util.find_spec(suite) is not None, f"{suite} is missing, but {names} implement the port"
    missing = adapters - await covered(importlib.import_module(suite), tmp_path)
    assert not missing, f"not in ADAPTERS of {suite}: {sorted(adapter.__qualname__ for adapter in missing)}"


def test_every_port_has_a_suite_in_this_list() -> None:
    ports = importlib.import_module("penstock.ports")
    protocols = {member for member in vars(ports).values() if getattr(member, "_is_protocol", False)}
    assert protocols == set(SUITES)


def test_an_adapter_is_recognised_and_a_protocol_or_part_is_not() -> None:
    class Whole:
        def events(self) -> None: ...
        async def watch_buckets(self) -> None: ...
        async def close(self) -> None: ...

    class Part:
        def events(self) -> None: ...

    class Port(Protocol):
        def events(self) -> None: ...
        def watch_buckets(self) -> None: ...
        def close(self) -> None: ...

    module = ModuleType(__name__)
    module.__dict__.update(Whole=Whole, Part=Part, Port=Port, Elsewhere=Path)
    assert implementations(Source, [module]) == {Whole}
