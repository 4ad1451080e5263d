"""The embedded adapters on the standard library's SQLite: log, registry and ledger, each one file of its own."""

from penstock.adapters.sqlite.database import Database
from penstock.adapters.sqlite.event_log import SqliteEventLog
from penstock.adapters.sqlite.ledger import SqliteLedger
from penstock.adapters.sqlite.rebuild import open_view, rebuild
from penstock.adapters.sqlite.registry import SqliteRegistry

__all__ = ["Database", "SqliteEventLog", "SqliteLedger", "SqliteRegistry", "open_view", "rebuild"]
