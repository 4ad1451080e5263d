"""The embedded object store: buckets are folders, objects are the regular files below them.

Any program that writes a file there uploads it, so the adapter keeps no index of its own: what lies in the folder is
the truth, whoever put it there.
"""

from penstock.adapters.directory.engine import Probe
from penstock.adapters.directory.store import DirectoryStore

__all__ = ["DirectoryStore", "Probe"]
