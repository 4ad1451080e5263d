"""One protocol per boundary. Each has an embedded and a production adapter and one contract suite over both.

The contract stands in the docstrings here; `tests/contracts/` checks it against every adapter, and a test fails when an
adapter is in no suite.
"""

from penstock.ports.event_log import EventLog, LogEntry, Positions, StoredEntry
from penstock.ports.ledger import Ledger, QueueStats, RecordPage, RecordQuery
from penstock.ports.node_provider import (
    NodeAdd,
    NodeProvider,
    NodeTarget,
    OrderAnswer,
    Outcome,
    ProviderCapabilities,
    ProviderNode,
    ProviderState,
    StopHow,
)
from penstock.ports.object_store import ObjectStore, StoreCapabilities
from penstock.ports.registry import ChangeKind, FunctionChange, Registry
from penstock.ports.runner import KeepsResults, Room, Runner
from penstock.ports.source import Delivery, Gap, Source

__all__ = [
    "ChangeKind",
    "Delivery",
    "EventLog",
    "FunctionChange",
    "Gap",
    "KeepsResults",
    "Ledger",
    "LogEntry",
    "NodeAdd",
    "NodeProvider",
    "NodeTarget",
    "ObjectStore",
    "OrderAnswer",
    "Outcome",
    "Positions",
    "ProviderCapabilities",
    "ProviderNode",
    "ProviderState",
    "QueueStats",
    "RecordPage",
    "RecordQuery",
    "Registry",
    "Room",
    "Runner",
    "Source",
    "StopHow",
    "StoreCapabilities",
    "StoredEntry",
]
