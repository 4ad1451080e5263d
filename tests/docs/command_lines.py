"""Checks command lines that a test cannot run (they need a cluster, a cloud or an hour) with the programs' own parsers.

`penstock` is parsed by its real tree of commands, `python -m ...`, `helm` and `kubectl` by what their own help accepts,
`make` by make itself. A program that nobody named here is an error, so that a typing mistake is not taken for one.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence

import click

from gateway.cli.app import penstock
from tests.docs.pages import ROOT

#: The shell's own words and tools that every system has: `sh -n` is the check.
EVERYWHERE = {
    *("for", "while", "do", "done", "if", "then", "else", "fi", "case", "esac", "{", "}", "!", "in"),
    *(
        ".",
        ":",
        "[",
        "cat",
        "cd",
        "chmod",
        "cp",
        "cut",
        "echo",
        "exec",
        "exit",
        "export",
        "false",
        "find",
        "grep",
        "head",
    ),
    *(
        "ln",
        "ls",
        "mkdir",
        "mktemp",
        "mv",
        "printf",
        "read",
        "rm",
        "sed",
        "set",
        "sha256sum",
        "sleep",
        "sort",
        "tail",
        "touch",
    ),
    *(
        "tar",
        "test",
        "tr",
        "trap",
        "true",
        "wc",
        "uniq",
        "seq",
        "sh",
        "curl",
        "jq",
        "ping",
        "git",
        "bash",
        "zsh",
        "fish",
        "source",
        "eval",
    ),
}
#: Programs of others that are neither here nor ours to check, and the page that needs them.
FOREIGN = {
    "oscar-cli": "OSCAR's command line, in the migration guide",
    "mc": "MinIO's client",
    "apt": "what a Debian needs",
}


class BadCommand(Exception):
    """A command line that its program would refuse; the sentence has the program's words."""


def commands_of(text: str) -> Iterator[list[str]]:
    """Yield the simple commands of a shell text, as words, without assignments and redirections. Raises BadCommand."""
    syntax = subprocess.run(["sh", "-n"], input=text, capture_output=True, text=True, check=False)
    if syntax.returncode:
        raise BadCommand(f"the shell says: {syntax.stderr.strip()}")
    words: list[str] = []
    skip = False
    for word in [*_words(text), ";"]:
        if set(word) <= set(";|&()") and word:
            if words:
                yield words
            words = []
        elif set(word) <= set("<>") and word:
            skip = True
        elif skip:
            skip = False
        elif words or not re.match(r"[A-Za-z_]\w*=", word):
            words.append(word)


def _words(text: str) -> list[str]:
    """The shell words of a text; ends of lines become `;`, comments and documents fed in (`<<END`) are left out."""
    found: list[str] = []
    pending, ending = "", ""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if ending:
            ending = "" if line.strip() == ending else ending
            continue
        pending += line
        lexer = shlex.shlex(pending, posix=True, punctuation_chars=";|&()<>")
        lexer.whitespace_split = True
        lexer.commenters = "#"
        try:
            found += [*lexer, ";"]
        except ValueError:
            pending += "\n"  # a quotation goes on in the next line
            continue
        if fed := re.search(r"<<-?\s*'?(\w+)'?", pending):
            ending = fed[1]
        pending = ""
    if pending.strip():
        raise BadCommand(f"a quotation is never closed: {pending.splitlines()[0]}")
    return found


def check(words: Sequence[str]) -> None:
    """Check one command. Raises BadCommand; `helm` and `kubectl` are left to `tests.docs.cluster_lines`."""
    program, rest = words[0], list(words[1:])
    checks = {
        "penstock": _penstock,
        "python": _python,
        "python3": _python,
        "make": _make,
        "pytest": _pytest,
        "pip": _pip,
    }
    if program == "$":
        check(rest)
    elif program in checks:
        checks[program](rest)
    elif "/" in program:
        _there([program])
    elif program not in EVERYWHERE and program not in FOREIGN and program not in {"helm", "kubectl"}:
        raise BadCommand(f"{program!r} is no program known here; if it is right, add it to EVERYWHERE or FOREIGN")


def _there(words: list[str]) -> None:
    """Paths below a folder of the checkout lead somewhere."""
    for word in words:
        if word.startswith(("helm/", "examples/", "tests/", "docs/")) and not (ROOT / word).exists():
            raise BadCommand(f"there is no {word}")


def _python(words: list[str]) -> None:
    if words[:1] == ["-m"]:
        _module(words[1], words[2:])
    else:
        _there(words[:1])


def _pytest(words: list[str]) -> None:
    _there([word.split("::")[0] for word in words])


def _penstock(words: list[str]) -> None:
    command: click.Command = penstock
    context = click.Context(penstock, info_name="penstock")
    given = list(words)
    try:
        while isinstance(command, click.Group) and given and not given[0].startswith("-"):
            name = given.pop(0)
            found = command.get_command(context, name)
            if found is None:
                raise BadCommand(f"there is no command penstock {name}")
            command, context = found, click.Context(found, info_name=name, parent=context)
        command.make_context(command.name, given, parent=context.parent)
    except click.exceptions.Exit:
        return  # --help
    except click.UsageError as error:
        # Whether the files of an example are there is the reader's business.
        if "does not exist" not in error.message:
            raise BadCommand(f"penstock {' '.join(words)}: {error.message}") from error


def check_synopsis(words: list[str]) -> None:
    """`penstock node off NODE... [--force]`: the command and its options are there. Raises BadCommand."""
    command: click.Command = penstock
    context = click.Context(penstock)
    for word in words:
        if not isinstance(command, click.Group) or word.startswith("-"):
            break
        found = command.get_command(context, word)
        if found is None:
            raise BadCommand(f"there is no command penstock {word}")
        command = found
    known = {name for parameter in command.params for name in parameter.opts}
    for option in re.findall(r"(?<![\w-])--?[a-z][\w-]*", " ".join(words)):
        if option not in known:
            raise BadCommand(f"penstock {' '.join(words)}: there is no option {option}")


def _module(module: str, words: list[str]) -> None:
    if importlib.util.find_spec(module) is None:
        raise BadCommand(f"there is no module {module}")
    options = [word.split("=")[0] for word in words if word.startswith("--")]
    if not options or module in {"http.server", "venv", "pip", "json.tool", "pytest"}:
        return
    subcommand = words[:1] if re.fullmatch("[a-z]+", words[0]) else []
    told = _help(module, *subcommand)
    for option in options:
        if not re.search(rf"{re.escape(option)}\b", told):
            raise BadCommand(f"python -m {module} knows no {option}")


@functools.cache
def _help(module: str, *subcommand: str) -> str:
    line = [sys.executable, "-m", module, *subcommand, "--help"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise BadCommand(f"python -m {module} --help: {done.stderr.strip()[-300:]}")
    return done.stdout


@functools.cache
def _targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def _make(words: list[str]) -> None:
    for word in words:
        if "=" not in word and not word.startswith("-") and word not in _targets():
            raise BadCommand(f"make knows no target {word!r}")


@functools.cache
def _extras() -> set[str]:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return set(document["project"]["optional-dependencies"])


def _pip(words: list[str]) -> None:
    for before, word in zip(["", *words], words, strict=False):
        if before == "-r" and not (ROOT / word).is_file():
            raise BadCommand(f"there is no {word}")
        if wanted := re.fullmatch(r"penstock\[([\w,]+)\]", word):
            for extra in set(wanted[1].split(",")) - _extras():
                raise BadCommand(f"penstock has no extra {extra!r}")
