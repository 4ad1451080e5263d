"""What a handler gets: the platform's parts and the request's caller, both frozen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.access import Caller
from gateway.bucket_book import BucketBook
from gateway.changes import ChangeHub
from gateway.cluster import ClusterView, ThisMachine
from gateway.datadir import Credentials
from gateway.deploy import MakeFolder
from gateway.oidc.verifier import Verifier
from gateway.s3.access import S3Access
from gateway.storage import StorageAccess
from gateway.table import FunctionTable
from gateway.work import LiveLogs, WorkView
from penstock.observability import Metrics
from penstock.ports import EventLog, Ledger, ObjectStore
from penstock.settings import Settings
from scaler.interface.proxy import NodeProxy

if TYPE_CHECKING:
    from gateway.api.gate import Gate
    from gateway.resident.http import SynchronousRuns


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
    #: Every function, in memory.
    registry: FunctionTable
    runner: LiveLogs
    dispatcher: WorkView
    #: Whose the buckets are.
    book: BucketBook
    #: How callers reach the store without us.
    storage: StorageAccess
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
    #: The buckets as S3; None where nobody serves them so.
    s3: S3Access | None = None
    #: Judges tokens of single sign-on; None = there is none.
    oidc: Verifier | None = None
    #: The administrator's credential as it is now, where it can change while we run.
    admin: Callable[[], Credentials] | None = None
    #: Who switches nodes, in a process of its own; None = nobody.
    nodes: NodeProxy | None = None
    #: What the cluster's page shows of machines and pods.
    cluster: ClusterView = field(default_factory=ThisMachine)
    #: An image must be named: nothing runs without a container.
    require_image: bool = False
    #: Runs bodies in pods that stay; None = synchronous runs take the way of all work and are waited for.
    synchronous: SynchronousRuns | None = None


SERVICES: web.AppKey[Services] = web.AppKey("services", Services)
GATE: web.AppKey[Gate] = web.AppKey("gate")
__all__ = ["CALLER", "GATE", "SERVICES", "Caller", "Services"]

CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)
