"""What a handler gets: the platform's parts and the request's caller, both frozen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from dispatcher.service import Dispatcher
from gateway.changes import ChangeHub
from gateway.datadir import Credentials
from gateway.deploy import MakeFolder
from penstock.observability import Metrics
from penstock.ports import EventLog, Ledger, ObjectStore, Registry, Runner
from penstock.settings import Settings

if TYPE_CHECKING:
    from gateway.api.gate import Gate


@dataclass(frozen=True, kw_only=True)
class Services:
    settings: Settings
    credentials: Credentials
    store: ObjectStore
    #: What listings for people read; differs from `store` where that one leaves out files that came a moment ago.
    browse: ObjectStore
    #: For so long `store` leaves out a file that another program wrote, in seconds.
    settle_s: float = 0.0
    log: EventLog
    ledger: Ledger
    registry: Registry
    runner: Runner
    dispatcher: Dispatcher
    #: Shows a folder of a bucket to people; None where the store has no folders.
    make_folder: MakeFolder | None
    changes: ChangeHub
    metrics: Metrics
    data: Path
    #: Seconds since the start.
    uptime: Callable[[], float]
    #: Names of the parts that are not up yet; empty = ready.
    waiting_for: Callable[[], list[str]]
    #: True once a stop was asked for: reading goes on, new work is refused.
    stopping: Callable[[], bool]


@dataclass(frozen=True, kw_only=True)
class Caller:
    request_id: str
    #: "" until authenticated.
    user: str = ""
    #: Set when the caller is a function's own token: it may invoke this function and nothing else.
    function: str = ""


SERVICES: web.AppKey[Services] = web.AppKey("services", Services)
GATE: web.AppKey[Gate] = web.AppKey("gate")
CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)
