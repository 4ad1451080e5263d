"""The settings of programs that the scaler calls when something happens to a node. Apart only because of the length."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from penstock.settings_production import ProductionGroup


class HooksGroup(ProductionGroup):
    """Programs told of what happens to nodes, by CLUES's fourteen names. Each is a command line, read without a shell;
    the first argument that it gets is the node's name. Empty = nobody is told.
    """

    timeout_s: float = Field(default=30.0, gt=0)
    """Seconds after which a program is ended. One that says no to an order must answer sooner: the scaler waits."""
    folder: Path | None = None
    """Folder in which programs run, and in which those without a path are looked for first."""
    workers: int = Field(default=4, ge=1)
    """Programs at once. What happens to one node is told in its order whatever this is."""
    waiting: int = Field(default=1000, ge=1)
    """Happenings that may wait to be told. More are dropped and counted: a slow program must not fill the memory."""
    pre_poweron: str = ""
    """Before a node is ordered on. A status other than 0 stops the order, and what it printed last is the reason."""
    pre_poweroff: str = ""
    """Before a node is powered off. A status other than 0, an error or no answer in time stops the order."""
    post_poweron: str = ""
    """The driver answered the order; further arguments: 1 if it took it else 0, and the node's real name."""
    post_poweroff: str = ""
    """As `post_poweron`, of a power-off or a deletion."""
    poweredon: str = ""
    """The node became ready in the cluster, by an order or without one."""
    poweredoff: str = ""
    """The node is off, as its machine list says."""
    unexpected_poweron: str = ""
    """The node came on without an order: somebody else switched it."""
    unexpected_poweroff: str = ""
    """The node went off without an order: somebody else switched it."""
    onerr: str = ""
    """It was told to go off and did not in time; further argument: failures in a row."""
    offerr: str = ""
    """It was told to go on and did not in time; further argument: failures in a row."""
    unknown: str = ""
    """It is not seen any more, and not known to be off."""
    idle: str = ""
    """Its last work ended: from now on its idle time counts."""
    used: str = ""
    """It got work after it had been on without any."""
    request: str = ""
    """Room was asked for; arguments: id, processors, bytes of memory, tasks, most per node, expressions with `;`."""
