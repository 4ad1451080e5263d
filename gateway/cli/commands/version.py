"""`penstock version`."""

from __future__ import annotations

import platform

from gateway.cli import session
from gateway.cli.options import command
from penstock import __version__, version_text


@command(
    """
    penstock version
    penstock version --output json
    """
)
def version() -> None:
    """Print the version of this command (the server's is in 'penstock status')."""
    session.show({"version": __version__, "python": platform.python_version()}, version_text)
