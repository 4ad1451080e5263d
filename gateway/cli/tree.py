"""Which commands there are and where each lives. Help reads this table alone; a command is imported when it runs."""

from __future__ import annotations

import importlib
from difflib import get_close_matches
from typing import NamedTuple

import click


class Place(NamedTuple):
    """Where a command is: its line in the help of its group, the module and the name in it."""

    help: str
    module: str
    name: str


_AT = "gateway.cli.commands."

#: In the order of the help: what starts, what deploys, what moves data, what runs, what looks.
COMMANDS = {
    "up": Place("Run the whole product in one process.", _AT + "up", "up"),
    "demo": Place("Classify handwritten digits, from nothing to a chart.", _AT + "demo", "demo"),
    "apply": Place("Deploy functions from FDL files.", _AT + "deploy", "apply"),
    "validate": Place("Check FDL files without a server.", _AT + "deploy", "validate"),
    "function": Place("List, show, remove, pause and resume functions.", _AT + "function", "function"),
    "put": Place("Upload files into a bucket.", _AT + "put", "put"),
    "get": Place("Download an object.", _AT + "get", "get"),
    "ls": Place("List buckets, or the objects of one.", _AT + "get", "ls"),
    "submit": Place("Queue a file for a function.", _AT + "submit", "submit"),
    "run": Place("Run a function on a file and print its answer.", _AT + "submit", "run"),
    "invocation": Place("List, show and cancel invocations, read their logs.", _AT + "invocation", "invocation"),
    "backfill": Place("Run a function on existing objects that it never ran.", _AT + "again", "backfill"),
    "replay": Place("Run failed invocations of a function again.", _AT + "again", "replay"),
    "dead": Place("List, show, retry and drop dead letters.", _AT + "dead", "dead"),
    "node": Place("List and switch nodes, ask for room, see why.", _AT + "node", "node"),
    "simulate": Place("Replay jobs on pools: waiting, energy and money.", _AT + "simulate", "simulate"),
    "status": Place("Show what the server does and why things wait.", _AT + "status", "status"),
    "watch": Place("Follow every change as it happens.", _AT + "watch", "watch"),
    "login": Place("Log in to a server and keep the credential.", _AT + "login", "login"),
    "context": Place("List, choose and remove servers that you logged in to.", _AT + "context", "context"),
    "completion": Place("Print what a shell needs to complete this command.", _AT + "completion", "completion"),
    "version": Place("Print the version of this command.", _AT + "version", "version"),
}


class Group(click.Group):
    """A group that, for a name it does not know, says which one was probably meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if args and not name.startswith("-") and self.get_command(ctx, name) is None:
            close = get_close_matches(name, self.list_commands(ctx), n=1)
            hint = f" Did you mean '{close[0]}'?" if close else f" '{ctx.command_path} --help' lists them."
            raise click.UsageError(f"There is no command '{name}'.{hint}", ctx)
        return super().resolve_command(ctx, args)


class LazyGroup(Group):
    """The root: its commands are imported when they are asked for, and help comes from the table."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        command: click.Command = getattr(importlib.import_module(place.module), place.name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.help) for name, place in COMMANDS.items()])
