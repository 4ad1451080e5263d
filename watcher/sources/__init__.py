"""Where news of objects comes from: one module per kind, all behind `penstock.ports.Source`."""

from __future__ import annotations

import sys

import structlog

from penstock.adapters.directory import DirectoryStore
from penstock.ports import Source
from watcher.sources.polling import PollingSource

log = structlog.get_logger("watcher.directory")


def open_directory_source(store: DirectoryStore) -> Source:
    """Return the best source that this system has for a directory store: notifications on Linux, else polling."""
    if sys.platform != "linux":
        return PollingSource(store)
    # Not at the top: its library exists on Linux only.
    from watcher.sources.directory import DirectorySource  # noqa: PLC0415
    from watcher.sources.tree import WatchLimitReached  # noqa: PLC0415

    try:
        return DirectorySource(store.root, store)
    except (OSError, WatchLimitReached) as error:
        log.warning(
            "no inotify left on this system; polling instead: raise fs.inotify.max_user_instances or max_user_watches",
            action="watch_limit",
            error=str(error),
        )
        return PollingSource(store)


__all__ = ["PollingSource", "open_directory_source"]
