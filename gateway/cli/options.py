"""The global options, which every command takes too (`penstock --output json ls` and `penstock ls --output json`).

Also the decorators that make a command with them, and with examples in its help.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from gateway.cli.tree import Group

C = TypeVar("C", bound=click.Command)


class Globals:
    """What the global options say, filled as they are parsed; the one nearest to the command wins."""

    def __init__(self) -> None:
        self.server: str | None = None
        self.token: str | None = None
        self.context: str | None = None
        self.ca: str | None = None
        self.output = "table"

    @property
    def json(self) -> bool:
        return self.output == "json"


def _keep(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None and param.name is not None:
        setattr(ctx.ensure_object(Globals), param.name.removeprefix("global_"), value)


def global_options() -> list[click.Option]:
    return [
        click.Option(
            ["--server", "global_server"],
            metavar="URL",
            expose_value=False,
            callback=_keep,
            help="Address of the server (PENSTOCK_SERVER; else that of the context, or the one on this machine).",
        ),
        click.Option(
            ["--token", "global_token"],
            metavar="TOKEN",
            expose_value=False,
            callback=_keep,
            help="Credential (PENSTOCK_TOKEN; else the one that the server on this machine left).",
        ),
        click.Option(
            ["--context", "global_context"],
            metavar="NAME",
            expose_value=False,
            callback=_keep,
            help="A server that you have logged in to (PENSTOCK_CONTEXT; else the one in use).",
        ),
        click.Option(
            ["--ca", "global_ca"],
            metavar="FILE",
            expose_value=False,
            callback=_keep,
            help="PEM file of the authority behind the server's certificate (PENSTOCK_CA).",
        ),
        click.Option(
            ["--output", "global_output"],
            type=click.Choice(["table", "json"]),
            expose_value=False,
            callback=_keep,
            help="table for people (default), json for programs.",
        ),
    ]


class Command(click.Command):
    """A command that takes the global options and shows examples below its options."""

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = [line.strip() for line in examples.strip().splitlines() if line.strip()]
        self.params += global_options()

    def get_short_help_str(self, limit: int = 200) -> str:
        """The first sentence; the list of commands wraps it, where click would cut it at 45 characters."""
        return super().get_short_help_str(max(limit, 200))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    # Never wrapped: an example is there to be copied.
                    formatter.write(f"{'':>{formatter.current_indent}}{example}\n")


class CommandGroup(Group):
    """A group of commands about one kind of thing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += global_options()


def command(examples: str, **attrs: Any) -> Callable[[Callable[..., Any]], Command]:
    """Make a command of a function; `examples` are whole command lines, one a line."""
    return click.command(cls=Command, examples=examples, **attrs)


def group(name: str, help_text: str) -> CommandGroup:
    return CommandGroup(name=name, help=help_text)


def subcommand(parent: CommandGroup, examples: str, **attrs: Any) -> Callable[[Callable[..., Any]], Command]:
    """Make a command of a group."""

    def made(function: Callable[..., Any]) -> Command:
        built = click.command(cls=Command, examples=examples, **attrs)(function)
        parent.add_command(built)
        return built

    return made
