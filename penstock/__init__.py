"""Penstock: every file that lands in a bucket becomes one inference job.

This package is the foundation that the four services (`watcher`, `dispatcher`, `scaler`, `gateway`) stand on: the
types that flow between them, how things are identified, and the ports to the outside. It imports none of them.
"""

__version__ = "0.1.0"
