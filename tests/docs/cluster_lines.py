"""Checks the `helm` and `kubectl` lines of the pages with the real programs of the test bed.

Helm: an installation is rendered by `helm template` with the very values of the page, so a value that the chart does
not know fails. Whatever else is checked against the flags that the program's own help names.
"""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Sequence

from tests.docs.command_lines import BadCommand
from tests.docs.pages import ROOT
from tests.testbed.lookup import obtain

#: A helm built from source knows no Kubernetes version of its own.
VERSION = "1.34.0"
#: Of `helm install` and `upgrade`, and not of `helm template`.
_INSTALL_ONLY = {"--wait", "--reset-then-reuse-values", "--reuse-values", "--install", "--dry-run", "--atomic"}
_VERBS_OF_TWO = {
    ("rollout", "status"),
    ("rollout", "restart"),
    ("create", "secret"),
    ("show", "values"),
    ("get", "values"),
}


def check(words: Sequence[str]) -> None:
    """Check one command line of `helm` or `kubectl`. Raises BadCommand; MissingPart where it is not here."""
    program, rest = words[0], list(words[1:])
    verb, flags = _verb(rest)
    known = _flags(program, verb)
    for flag in flags:
        if flag not in known:
            raise BadCommand(f"{program} {' '.join(verb)} has no flag {flag}")
    if program == "helm" and verb[0] in {"install", "upgrade"} and "..." not in rest and len(rest) > 2:
        _render(rest)


def _verb(words: list[str]) -> tuple[tuple[str, ...], list[str]]:
    """The subcommand, which may stand behind global flags, and the flags that are ours to check."""
    flags, verb, skip = [], list[str](), False
    for word in words:
        if word == "--":
            break
        if word.startswith("-"):
            flags.append(word.split("=")[0])
            skip = not verb and "=" not in word
        elif skip:
            skip = False
        elif len(verb) < 2 and re.fullmatch(r"[a-z-]+", word):
            verb.append(word)
    both = tuple(verb[:2])
    return (both if both in _VERBS_OF_TWO else both[:1]), flags


@functools.cache
def _flags(program: str, verb: tuple[str, ...]) -> set[str]:
    path = str(obtain(program))
    told = subprocess.run([path, *verb, "--help"], capture_output=True, text=True, check=False)
    if told.returncode or f"{program} {' '.join(verb)}" not in told.stdout:
        raise BadCommand(f"{program} has no command {' '.join(verb)!r}")
    text = told.stdout
    if program == "kubectl":
        text += subprocess.run([path, "options"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"(?<![\w-])-{1,2}[a-zA-Z][\w-]*", text))


def _render(words: list[str]) -> None:
    """`helm install NAME CHART ...` as `helm template NAME CHART ...`, from the root of the checkout."""
    kept = [word for word in words[1:] if word.split("=")[0] not in _INSTALL_ONLY]
    line = [str(obtain("helm")), "template", *kept, "--kube-version", VERSION]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BadCommand(f"helm {' '.join(words)}: {done.stderr.strip()}")
    if "kind: " not in done.stdout:
        raise BadCommand(f"helm {' '.join(words)}: renders nothing")
