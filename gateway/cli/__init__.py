"""The command line `penstock`.

Its help must appear at once, so nothing here imports more than click: each command lives in a module of its own that is
imported when that command runs (`tree.py` names them), and those in turn import the HTTP client, rich or the whole
product only inside the function that needs it. A test measures it.
"""

from gateway.cli.app import main

__all__ = ["main"]
