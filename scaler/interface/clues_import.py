"""CLUES's files made into pools of ours (C21): `clues2.cfg` and `kubernetes_vnodes.info`, read and accounted for.

The answer is a document that `scaler.configuration` accepts, one pool per distinct shape of virtual node, with a line
for every option of the input that says what became of it. Pure: texts in, values out.
"""

from __future__ import annotations

import configparser
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from penstock.errors import InvalidInput
from scaler.configuration import parse_fleet
from scaler.interface.clues_options import DRIVERS, HOOK_NAMES, MAPPED, UNMAPPED, Use
from scaler.interface.clues_vnodes import VirtualNode, pools_of, read_vnodes, slots_of, virtual_bytes


class Line(msgspec.Struct, frozen=True):
    """One option of the input and what became of it."""

    #: As "file [section] OPTION" or "file NAME.field".
    option: str
    value: str
    #: The field it went to, or why it went nowhere.
    became: str


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    #: What goes into the file of pools.
    document: dict[str, Any]
    #: Settings of the scaler's process, by environment variable.
    environment: dict[str, str] = {}
    #: Command lines to run once the scaler is up.
    commands: tuple[str, ...] = ()
    mapped: tuple[Line, ...] = ()
    unmapped: tuple[Line, ...] = ()


class _Work:
    """The import in the making."""

    def __init__(self) -> None:
        self.pool: dict[str, Any] = {}
        self.options: dict[str, Any] = {}
        self.spare: dict[str, Any] = {}
        self.shape = {"cpu": 1000, "memory": 1 << 30, "pods": 110}
        self.environment: dict[str, str] = {}
        self.commands: list[str] = []
        self.never_off = False
        self.mapped: list[Line] = []
        self.unmapped: list[Line] = []


def import_clues(files: Mapping[str, str], *, hosts: Sequence[str] = ()) -> Imported:
    """Import texts by file name. `hosts` = machines that only the batch system knew, of the shape that the
    configuration gives.

    Raises InvalidInput, with file and option, when a value cannot be one or no machine is named anywhere.
    """
    work = _Work()
    nodes: list[tuple[str, VirtualNode]] = []
    texts = {name: text for name, text in files.items() if not _is_list(name, text)}
    for name, text in texts.items():
        _configuration(work, name, text)
    for name in sorted(files.keys() - texts.keys()):
        nodes += [(name, node) for node in read_vnodes(files[name], where=name, default=work.shape)]
    nodes += [("--hosts", VirtualNode(name=host, resources=tuple(sorted(work.shape.items())))) for host in hosts]
    if not nodes:
        raise InvalidInput(
            "no file names a machine: give kubernetes_vnodes.info too, or --hosts with the names of the machines"
        )
    _check_names(nodes)
    pools = pools_of([node for _, node in nodes], made=work.pool.get("driver") == "infrastructure-manager")
    for file, node in nodes:
        _account_for_node(work, file, node)
    for number, pool in enumerate(pools):
        pool.update(work.pool)
        if work.never_off:
            # There is no "never"; a hundred years are.
            pool["idle"] = "36500d"
        if work.spare and number == 0:
            # CLUES keeps spare room wherever the list begins; here it belongs to a pool.
            pool["spare"] = [work.spare]
    document: dict[str, Any] = {"pools": pools}
    if work.options:
        document["options"] = work.options
    parse_fleet(document)
    return Imported(
        document=document,
        environment=work.environment,
        commands=tuple(work.commands),
        mapped=tuple(work.mapped),
        unmapped=tuple(work.unmapped),
    )


def _is_list(name: str, text: str) -> bool:
    """A file of virtual nodes, by its name or by what it holds."""
    if name.endswith((".info", ".json")):
        return True
    try:
        return isinstance(msgspec.json.decode(text), list)
    except (msgspec.DecodeError, UnicodeError):
        return False


def _check_names(nodes: Iterable[tuple[str, VirtualNode]]) -> None:
    seen: dict[str, str] = {}
    for file, node in nodes:
        if node.name in seen:
            raise InvalidInput(f"machine {node.name!r} is in {seen[node.name]} already; name each once", where=file)
        seen[node.name] = file


def _configuration(work: _Work, file: str, text: str) -> None:
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True, empty_lines_in_values=False)
    parser.optionxform = str.upper  # type: ignore[assignment,method-assign]
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise InvalidInput(f"is neither clues2.cfg nor a list of virtual nodes: {_said(error)}", where=file) from error
    for section in parser.sections():
        for option, value in parser.items(section):
            _option(work, file, section, option, (value or "").strip().strip('"'))


def _said(error: configparser.Error) -> str:
    return " ".join(str(error).split())


def _option(work: _Work, file: str, section: str, option: str, value: str) -> None:
    where = f"{file} [{section}] {option}"
    # In [client] LOG_FILE and the like speak of the command line.
    use = None if section.lower() == "client" else MAPPED.get(option)
    if use is None:
        reason = UNMAPPED.get(option, "CLUES reads no option of this name")
        # Tokens are told of, never repeated.
        shown = "(not shown)" if "TOKEN" in option or "CONNECTION_STRING" in option else value
        work.unmapped.append(Line(where, shown, reason))
    elif not value:
        work.unmapped.append(Line(where, value, "it is empty"))
    elif isinstance(became := _use(work, use, option, value, where), _Refused):
        work.unmapped.append(Line(where, value, str(became)))
    else:
        work.mapped.append(Line(where, value, became))


class _Refused(str):  # noqa: SLOT000 - a sentence that says why
    """Why this value has no equivalent."""


def _use(work: _Work, use: Use, option: str, value: str, where: str) -> str:
    if use in _TIMES:
        return _time(work, use, value, where)
    if use in _COUNTS:
        return _count(work, use, value, where)
    if use in {Use.HOOK, Use.HOOK_FOLDER}:
        name = option.lower() if option in HOOK_NAMES else "folder"
        work.environment[f"PENSTOCK_HOOKS_{name.upper()}"] = value
        return f"PENSTOCK_HOOKS_{name.upper()}"
    if use is Use.HOOK_TIMEOUT:
        work.environment["PENSTOCK_HOOKS_TIMEOUT_S"] = f"{_seconds(value, where):g}"
        return "PENSTOCK_HOOKS_TIMEOUT_S"
    if use is Use.DISABLED:
        work.commands += [f"penstock node disable {name}" for name in value.split()]
        return "run `penstock node disable` for each, once the scaler is up"
    if use is Use.DRIVER:
        return _driver(work, value)
    if use is Use.SCHEDULERS:
        return _schedulers(work, value)
    work.shape["memory"] = virtual_bytes(value, where=where)
    return "pools: resources.memory where a virtual node names none"


_TIMES = {
    Use.IDLE: ("pools", "idle"),
    Use.MIN_ON: ("pools", "min_on"),
    Use.BOOT_TIMEOUT: ("pools", "boot_timeout"),
    Use.STOP_TIMEOUT: ("pools", "stop_timeout"),
    Use.GLITCH: ("options", "glitch"),
    Use.BACKOFF: ("options", "backoff"),
    Use.HOLD: ("options", "hold"),
}
_POSITIVE = {Use.BOOT_TIMEOUT, Use.BACKOFF}
#: Defaults of ours that an imported value must not contradict.
_USUAL_BOOT_S, _BACKOFF_LIMIT_S = 120, 1800
_COUNTS = {Use.MAX_BOOTING, Use.SPARE_NODES, Use.SPARE_SLOTS, Use.TRIES, Use.SHAPE_CPU, Use.SHAPE_PODS}


def _time(work: _Work, use: Use, value: str, where: str) -> str:
    target, field = _TIMES[use]
    seconds = _seconds(value, where)
    if not seconds and use in _POSITIVE:
        raise InvalidInput("must be longer than 0", where=where)
    (work.pool if target == "pools" else work.options)[field] = seconds
    if use is Use.BOOT_TIMEOUT and seconds <= _USUAL_BOOT_S:
        work.pool["boot"] = seconds / 2
    if use is Use.BACKOFF and seconds > _BACKOFF_LIMIT_S:
        work.options["backoff_limit"] = seconds
    return f"{target}: {field}"


def _seconds(value: str, where: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 10**9:
        raise InvalidInput(f"{value!r} is not a number of seconds", where=where)
    return int(seconds) if seconds.is_integer() else seconds


def _count(work: _Work, use: Use, value: str, where: str) -> str:
    if use is Use.SHAPE_CPU:
        work.shape["cpu"] = slots_of(value, where=where)
        return "pools: resources.cpu where a virtual node names none"
    number = int(_seconds(value, where))
    if use is Use.SHAPE_PODS:
        work.shape["pods"] = number
        return "pools: resources.pods"
    if use is Use.MAX_BOOTING:
        work.pool["max_booting"] = number
        return "pools: max_booting, of each pool (CLUES counts all nodes together)"
    if use is Use.TRIES:
        work.options["tries"] = max(1, number)
        return "options: tries; after that the node is probed now and then, not given up"
    if not number:
        return _Refused("it is 0: no spare room")
    if use is Use.SPARE_NODES:
        work.spare["nodes"] = number
        return "pools[0]: spare.nodes"
    work.spare["resources"] = {"cpu": number}
    return "pools[0]: spare.resources.cpu"


def _driver(work: _Work, value: str) -> str:
    name = value.rsplit(".", 1)[-1].lower()
    driver = DRIVERS.get(name)
    if driver is None:
        return _Refused(f"there is no driver like {name!r}; there are {', '.join(sorted(set(DRIVERS.values())))}")
    work.pool["driver"] = driver
    return f"pools: driver {driver}"


def _schedulers(work: _Work, value: str) -> str:
    names = {part.strip().rsplit(".", 1)[-1].lower() for part in value.replace(";", ",").split(",")}
    if not any(name.endswith("powoff_idle") for name in names):
        work.never_off = True
        return "pools: idle 36500d, since PowOff_IDLE is not among them"
    return "the policies, which always run in this order: wake, headroom, sleep, retry, steer"


def _account_for_node(work: _Work, file: str, node: VirtualNode) -> None:
    work.mapped.append(Line(f"{file} {node.name}", "", "a host, or one of the most, of the pool with its shape"))
    work.unmapped += [Line(f"{file} {node.name}.{field}", value, why) for field, value, why in node.left]
