"""The help is quick, complete, documented, and its examples are real command lines."""

from __future__ import annotations

import os
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from gateway.cli.app import penstock, run
from gateway.cli.options import Command, global_options
from gateway.cli.tree import COMMANDS
from penstock import version_text

DOCUMENT = Path(__file__).parents[3] / "docs" / "reference" / "cli.md"
GLOBAL = {name for option in global_options() for name in option.opts}
ROOT = click.Context(penstock, info_name="penstock")


def commands(group: click.Group = penstock, path: str = "penstock") -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(ROOT):
        command = group.get_command(ROOT, name)
        assert command is not None
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


ALL = dict(commands())
LEAVES = {path: command for path, command in ALL.items() if not isinstance(command, click.Group)}


def section(path: str) -> str:
    """The part of the document about one command."""
    text = DOCUMENT.read_text(encoding="utf-8")
    heading = next((line for line in text.splitlines() if line.startswith("#") and line.lstrip("# ") == path), None)
    assert heading is not None, f"docs/reference/cli.md has no heading {path!r}"
    return text.split(f"\n{heading}\n", 1)[1].split("\n## ", 1)[0].split("\n### ", 1)[0]


@pytest.mark.parametrize("path", ALL)
def test_every_command_is_documented_with_its_options(path: str) -> None:
    told = section(path)
    for parameter in ALL[path].params:
        if isinstance(parameter, click.Option):
            missing = [name for name in parameter.opts if name not in GLOBAL and f"`{name}" not in told]
            assert not missing, f"docs/reference/cli.md: {path} lacks {missing}"


def test_the_document_knows_the_global_options_and_no_command_that_is_not_there() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert all(f"`{name}" in text for name in GLOBAL)
    headings = {line.lstrip("# ") for line in text.splitlines() if line.startswith(("## penstock ", "### penstock "))}
    assert headings == set(ALL)


@pytest.mark.parametrize("path", LEAVES)
def test_every_command_has_two_or_three_examples_that_parse(path: str) -> None:
    command = LEAVES[path]
    assert isinstance(command, Command)
    assert 2 <= len(command.examples) <= 3
    for example in command.examples:
        assert example in section(path), f"docs/reference/cli.md: {path} lacks the example {example!r}"
        words = shlex.split(re.split("[<>#]", example.split("|")[-1])[0])
        given = path.split()
        at = next(i for i in range(len(words)) if words[i : i + len(given)] == given)
        # Parsed and not run: files in examples need not be here.
        command.make_context(given[-1], words[at + len(given) :], parent=ROOT, resilient_parsing=False)


@pytest.fixture(autouse=True)
def example_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digits.yaml").touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("path", ALL)
def test_every_help_ends_well_and_shows_its_examples(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*path.split()[1:], "--help"]
    assert penstock.main(arguments, prog_name="penstock", standalone_mode=False) == 0
    shown = capsys.readouterr().out
    assert "Usage: " + path in shown
    for example in getattr(ALL[path], "examples", []):
        assert example in shown


def test_the_table_of_commands_says_what_the_commands_say() -> None:
    assert list(COMMANDS) == list(penstock.list_commands(ROOT))
    for name, place in COMMANDS.items():
        assert place.help.endswith(".")
        assert ALL[f"penstock {name}"].name == name


def test_the_version_is_an_option_too_and_documented(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version"]) == run(["--version"]) == 0
    by_command, by_option = capsys.readouterr().out.splitlines()
    assert by_option == by_command == version_text()
    own = {name for option in penstock.params for name in option.opts} - GLOBAL
    assert own == {"--version"}
    assert "`penstock --version`" in DOCUMENT.read_text(encoding="utf-8")


def test_help_imports_nothing_heavy() -> None:
    script = "import sys, gateway.cli.app as a; a.run(['--help']); print(*sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    heavy = {"aiohttp", "asyncio", "pydantic", "rich", "msgspec", "yaml", "penstock.model", "penstock.fdl", "structlog"}
    assert not loaded & heavy
    assert not {name for name in loaded if name.startswith("gateway.cli.commands.")}


def test_help_takes_little_cpu_time() -> None:
    """150 ms of wall time is the goal; CPU time is what a busy machine does not distort, and the best of a few runs
    what a cold disk does not."""
    spent = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "gateway.cli", "--help"], stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.150, f"--help took {min(spent) * 1000:.0f} ms of CPU, importing click alone takes about 70"


def test_help_works_without_a_home() -> None:
    environ = {name: value for name, value in os.environ.items() if name in {"PATH", "PYTHONPATH"}}
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli", "get", "--help"], env=environ, capture_output=True, check=True
    )
    assert b"BUCKET/KEY" in done.stdout
