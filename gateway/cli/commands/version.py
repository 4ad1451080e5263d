"""`penstock version`."""

from __future__ import annotations

import platform
from importlib import metadata

from gateway.cli import session
from gateway.cli.options import command


@command(
    """
    penstock version
    penstock version --output json
    """
)
def version() -> None:
    """Print the version of this command (the server's is in 'penstock status')."""
    try:
        number = metadata.version("penstock")
    except metadata.PackageNotFoundError:
        number = "unknown (not installed)"
    document = {"version": number, "python": platform.python_version()}
    session.show(document, lambda: f"penstock {number}, Python {platform.python_version()}")
