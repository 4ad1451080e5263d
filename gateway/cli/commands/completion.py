"""`penstock completion`: the lines that teach a shell the commands and options."""

from __future__ import annotations

import click

from gateway.cli import session
from gateway.cli.options import command

VARIABLE = "_PENSTOCK_COMPLETE"


@command(
    """
    penstock completion bash >> ~/.bashrc
    penstock completion zsh > ~/.zfunc/_penstock
    penstock completion fish > ~/.config/fish/completions/penstock.fish
    """
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what a shell needs to complete this command: for bash 4.4 or newer, zsh and fish."""
    from click.shell_completion import BashComplete, FishComplete, ZshComplete  # noqa: PLC0415 - seldom needed

    classes = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
    made = classes[shell](session.root(), {}, "penstock", VARIABLE)
    # Not `source()`: that of bash starts a bash to look at its version, which need not be the one that reads this.
    session.emit(made.source_template % made.source_vars())
