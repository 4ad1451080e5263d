"""`penstock function`: the deployed functions, one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gateway.cli import formats, session
from gateway.cli.options import group, subcommand

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from penstock.client import Client

function = group("function", "List, show, remove, pause and resume functions.")


@subcommand(
    function,
    """
    penstock function ls
    penstock function ls --output json
    """,
)
def ls() -> None:
    """List the deployed functions and their counts."""
    found = session.call(lambda client: client.functions())
    session.show({"functions": found}, lambda: _listed(found))


@subcommand(
    function,
    """
    penstock function show digits-classify
    penstock function show digits-classify --output json
    """,
)
@click.argument("name")
def show(name: str) -> None:
    """Show one function: its definition, its token, its counts. Secrets are never shown."""
    found = session.call_function(name, lambda client: client.function(name))
    session.show(found, lambda: "\n".join(_lines(told(found))))


@subcommand(
    function,
    """
    penstock function rm digits-classify
    penstock function rm digits-classify digits-chart
    """,
)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def rm(names: tuple[str, ...]) -> None:
    """Remove functions; what they have queued is cancelled. Objects and buckets stay."""
    _each(names, lambda client, name: client.delete_function(name), "removed")


@subcommand(
    function,
    """
    penstock function pause digits-chart
    penstock function pause digits-classify digits-chart
    """,
)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def pause(names: tuple[str, ...]) -> None:
    """Start nothing new for these functions; running items end, new ones queue."""
    _each(names, lambda client, name: client.pause(name), "paused")


@subcommand(
    function,
    """
    penstock function resume digits-chart
    penstock function resume digits-classify digits-chart
    """,
)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def resume(names: tuple[str, ...]) -> None:
    """Go on with paused functions."""
    _each(names, lambda client, name: client.resume(name), "resumed")


def _each(names: tuple[str, ...], work: Callable[[Client, str], Awaitable[None]], done: str) -> None:
    for name in names:
        session.call_function(name, lambda client, name=name: work(client, name))  # type: ignore[misc]
        if not session.options().json:
            session.emit(f"{name} {done}")
    if session.options().json:
        session.show({"functions": [{"name": name, "action": done} for name in names]}, str)


#: Keys of the FDL that `function show` has in its own words already.
_SHOWN_ABOVE = frozenset({"name", "image", "script", "input", "output", "environment", "token", "owner"})


def _listed(found: list[dict[str, Any]]) -> str:
    if not found:
        return "No functions yet: deploy one with 'penstock apply FILE'."
    rows = [
        (
            str(one.get("name", "")),
            "paused" if one.get("paused") else "active",
            *(str(one.get(count, 0)) for count in ("queued", "running", "succeeded", "failed", "dead")),
            ", ".join(paths(one.get("inputs"))),
            ", ".join(paths(one.get("outputs"))),
        )
        for one in found
    ]
    head = ("NAME", "STATE", "QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "DEAD", "INPUT", "OUTPUT")
    return formats.table(head, rows, right=(2, 3, 4, 5, 6))


def paths(entries: Any) -> list[str]:
    """Return BUCKET/FOLDER of each input or output, in whichever of the two spellings they came."""
    named = []
    for entry in entries or ():
        path = entry.get("path") or "/".join(filter(None, (entry.get("bucket"), entry.get("folder"))))
        named.append(str(path))
    return named


def told(found: dict[str, Any]) -> dict[str, Any]:
    """Return what a person wants to see of a function: times readable, nothing twice, nothing empty."""
    shown = {name: value for name, value in found.items() if name not in {"definition", "script"}}
    for name in [name for name in shown if name.endswith("_ms")]:
        shown[name.removesuffix("_ms")] = formats.moment(shown.pop(name))
    rest = {name: value for name, value in (found.get("definition") or {}).items() if name not in _SHOWN_ABOVE}
    shown["definition"] = {name: value for name, value in rest.items() if value}
    filled: dict[str, Any] = _filled(shown | {"script": found.get("script", "")})
    return filled


def _filled(value: Any) -> Any:
    """Return a document without its empty parts."""
    if isinstance(value, dict):
        inner = {name: _filled(part) for name, part in value.items()}
        return {name: part for name, part in inner.items() if part not in (None, "", [], {})}
    if isinstance(value, list):
        return [_filled(part) for part in value]
    return value


def _lines(document: Any, indent: str = "") -> list[str]:
    """Return a document as indented lines, as YAML would read without its quotes."""
    lines = []
    for name, value in document.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        elif isinstance(value, list) and value:
            lines.append(f"{indent}{name}:")
            for entry in value:
                inner = (
                    _lines(entry, indent + "    ")
                    if isinstance(entry, dict) and entry
                    else [formats.printable(str(entry))]
                )
                lines += [f"{indent}  - {inner[0].strip()}", *inner[1:]]
        elif isinstance(value, str) and "\n" in value:
            lines.append(f"{indent}{name}: |")
            lines += [f"{indent}  {formats.printable(line)}" for line in value.splitlines()]
        else:
            lines.append(f"{indent}{name}: {_scalar(value)}")
    return lines


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return formats.printable(str(value))
