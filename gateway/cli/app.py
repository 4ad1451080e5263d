"""The root command, and the one place where whatever went wrong becomes a sentence and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from gateway.cli import failures
from gateway.cli.options import Globals, global_options
from gateway.cli.tree import LazyGroup
from penstock import __version__, version_text
from penstock.errors import PenstockError


class PipeClosed(Exception):
    """The reader of stdout left. An own class, because click would turn the system's into exit code 1."""


class Root(LazyGroup):
    def invoke(self, ctx: click.Context) -> object:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise PipeClosed from error
        return result


@click.command(cls=Root, params=global_options(), context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(
    __version__, message=version_text(), help="Print the version of this command, as 'penstock version' does."
)
@click.pass_context
def penstock(ctx: click.Context) -> None:
    """Run AI inference on every file that lands in a bucket.

    `penstock up` starts the whole product on this machine; the other commands find it by themselves.
    'penstock COMMAND --help' has examples of each.
    """
    ctx.ensure_object(Globals)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (None = this process's) and return its exit code. Nothing is raised."""
    try:
        result = penstock.main(args=arguments, prog_name="penstock", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        return failures.USAGE
    except click.ClickException as error:
        error.show()
        return failures.FAILED
    except PenstockError as error:
        click.echo(f"penstock: {error.message}", err=True)
        return failures.exit_code(error)
    except (KeyboardInterrupt, click.Abort):
        click.echo("penstock: interrupted", err=True)
        return failures.INTERRUPTED
    except PipeClosed:
        # The reader left (`penstock ls | head`): nothing to say, and nothing more to write at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return failures.BROKEN_PIPE
    except OSError as error:
        click.echo(f"penstock: {': '.join(filter(None, (error.filename, error.strerror or str(error))))}", err=True)
        return failures.FAILED
    return result if isinstance(result, int) else failures.OK


def main() -> None:
    """Entry point `penstock`."""
    sys.exit(run())
