"""Drivers as people write them, beside the pools, checked like them: a mistake is one sentence with the field's name.

Each pool names its driver; the section `drivers` says what that is. `simulated` and `kwok` need no entry.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from penstock.adapters.kubernetes import KubernetesClient
from penstock.errors import InvalidInput
from penstock.ports import NodeProvider
from scaler.configuration import parse_fleet
from scaler.drivers.command import CommandProvider, CommandSpec
from scaler.drivers.im_client import ImClient, read_authorization
from scaler.drivers.infrastructure_manager import InfrastructureManagerProvider
from scaler.drivers.kwok import KwokProvider
from scaler.drivers.radl import Template, check_template
from scaler.drivers.simulated import SimulatedProvider
from scaler.fields import Fields
from scaler.pools import Fleet, Pool

#: What programs get of the scaler's own environment; its credentials are none of their business.
_PASSED_ON = ("PATH", "HOME", "LANG", "TZ")
_TYPES = ("simulated", "command", "kwok", "infrastructure-manager")
_PROGRAMS = ("list", "status", "start", "stop", "hard_stop", "suspend", "add", "remove")


class Parts(msgspec.Struct, frozen=True):
    """What drivers are made of besides their configuration."""

    clock: Callable[[], int]
    #: None where there is no cluster (checking a file).
    client: KubernetesClient | None = None


class Driver(msgspec.Struct, frozen=True):
    name: str
    make: Callable[[Parts], NodeProvider]


class Configuration(msgspec.Struct, frozen=True):
    fleet: Fleet
    #: One for each driver that a pool names.
    drivers: tuple[Driver, ...]


def read_configuration(path: Path) -> Configuration:
    """Read a file with pools, options and drivers. Raises InvalidInput, with the file and the field."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(f"is not YAML: {' '.join(str(error).split())}", where=str(path)) from error
    try:
        return parse_configuration(document)
    except InvalidInput as error:
        raise InvalidInput(error.message, where=str(path)) from error


def parse_configuration(document: object) -> Configuration:
    """Check the whole. Raises InvalidInput."""
    fleet = parse_fleet(document)
    given = document.get("drivers") if isinstance(document, Mapping) else None
    entries = given if given is not None else {}
    if not isinstance(entries, Mapping):
        raise InvalidInput("must be a mapping of driver names to their settings", where="drivers")
    used: dict[str, list[Pool]] = {}
    for pool in fleet.pools:
        used.setdefault(pool.driver, []).append(pool)
    for name in entries:
        if name not in used:
            raise InvalidInput(f"no pool names this driver; pools use {', '.join(used)}", where=f"drivers.{name}")
    drivers = []
    for name, pools in used.items():
        entry = entries.get(name, {"type": name} if name in {"simulated", "kwok"} else None)
        if entry is None:
            where = next(f"pools[{number}].driver" for number, pool in enumerate(fleet.pools) if pool.driver == name)
            raise InvalidInput(f"{name!r} is none of the drivers; describe it under drivers.{name}", where=where)
        drivers.append(Driver(name, _driver(name, Fields(entry, f"drivers.{name}"), tuple(pools))))
    return Configuration(fleet, tuple(drivers))


def _driver(name: str, fields: Fields, pools: tuple[Pool, ...]) -> Callable[[Parts], NodeProvider]:
    kind = str(fields.take("type", name))
    match kind:
        case "simulated":
            file = fields.take("file", None)
            fields.done()
            path = Path(str(file)) if file else None
            return lambda parts: SimulatedProvider(pools, clock=parts.clock, file=path)
        case "kwok":
            fields.done()
            return lambda parts: KwokProvider(_client(parts), pools, name=name)
        case "command":
            return _command(fields, pools)
        case "infrastructure-manager":
            return _infrastructure_manager(name, fields, pools)
        case _:
            raise InvalidInput(f"{kind!r} is none of {', '.join(_TYPES)}", where=fields.path("type"))


def _client(parts: Parts) -> KubernetesClient:
    if parts.client is None:
        raise InvalidInput("needs a cluster", where="drivers")
    return parts.client


def _text(fields: Fields, name: str, default: str | None = None) -> str:
    value = fields.need(name, "a text") if default is None else fields.take(name, default)
    if not isinstance(value, str):
        raise InvalidInput(f"{value!r} is not a text", where=fields.path(name))
    return value


def _command(fields: Fields, pools: tuple[Pool, ...]) -> Callable[[Parts], NodeProvider]:
    programs = {name: _words(fields, name) for name in _PROGRAMS}
    made = any(pool.made for pool in pools)
    hosts = any(not pool.made for pool in pools)
    if not programs["list"] and (made or not programs["status"]):
        raise InvalidInput("is missing; give the program that lists all machines", where=fields.path("list"))
    for name in [*(("add", "remove") if made else ()), *(("start", "stop") if hosts else ())]:
        if not programs[name]:
            raise InvalidInput("is missing; the pools of this driver need it", where=fields.path(name))
    timeout_ms = fields.time("timeout", 30_000)
    at_once = fields.whole("at_once", 8)
    if not timeout_ms or not at_once:
        raise InvalidInput("must be more than 0", where=fields.path("at_once" if timeout_ms else "timeout"))
    environment = _mapping(fields, "environment")
    variables: dict[str, dict[str, str]] = {}
    known = {host for pool in pools for host in pool.hosts}
    raw = fields.take("hosts", {})
    for host, entry in raw.items() if isinstance(raw, Mapping) else ():
        if host not in known:
            raise InvalidInput("is a host of no pool of this driver", where=f"{fields.path('hosts')}.{host}")
        variables[str(host)] = _strings(entry, f"{fields.path('hosts')}.{host}")
    fields.done()
    spec = CommandSpec(**programs, hosts=variables, timeout_s=timeout_ms / 1000, at_once=at_once)
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | environment
    return lambda _: CommandProvider(spec, pools, environment=passed)


def _words(fields: Fields, name: str) -> Any:
    value = fields.take(name, [])
    if not isinstance(value, list) or any(not isinstance(word, str | int | float) for word in value):
        raise InvalidInput(
            'must be a list of arguments, like ["ipmitool", "-H", "{address}", "power", "on"]; there is no shell',
            where=fields.path(name),
        )
    return tuple(str(word) for word in value)


def _mapping(fields: Fields, name: str) -> dict[str, str]:
    return _strings(fields.take(name, {}), fields.path(name))


def _strings(value: object, where: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise InvalidInput("must be a mapping of names to texts", where=where)
    for key in value:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(key)):
            raise InvalidInput("is not a name; use letters, digits and '_'", where=f"{where}.{key}")
    return {str(key): str(text) for key, text in value.items()}


def _infrastructure_manager(name: str, fields: Fields, pools: tuple[Pool, ...]) -> Callable[[Parts], NodeProvider]:
    url = _text(fields, "url")
    if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", url):
        raise InvalidInput(f"{url!r} is no address like https://im.example.org/im", where=fields.path("url"))
    authorization = Path(_text(fields, "authorization_file"))
    read_authorization(authorization)
    file = Path(_text(fields, "infrastructure_file"))
    ca_file = _text(fields, "ca_file", "")
    call_ms, launch_ms = fields.time("timeout", 20_000), fields.time("launch_timeout", 840_000)
    raw = fields.need("templates", "how machines of each pool are made")
    if not isinstance(raw, Mapping):
        raise InvalidInput("must be a mapping of pools to templates", where=fields.path("templates"))
    fields.done()
    templates = {}
    for pool in pools:
        where = f"{fields.path('templates')}.{pool.name}"
        if not pool.made:
            raise InvalidInput("names hosts, which this driver cannot have", where=f"pool {pool.name}")
        if pool.name not in raw:
            raise InvalidInput("is missing; say how machines of this pool are made", where=where)
        inner = Fields(raw[pool.name], where)
        template = Template(
            system=_text(inner, "system"),
            common=_text(inner, "common", ""),
            tags=_text(inner, "tags", ""),
            contextualize=bool(inner.take("contextualize", True)),
        )
        inner.done()
        check_template(template, where=where)
        templates[pool.name] = template

    def make(_: Parts) -> NodeProvider:
        client = ImClient(url, authorization, ca_file=ca_file, call_s=call_ms / 1000, launch_s=launch_ms / 1000)
        return InfrastructureManagerProvider(client, name=name, templates=templates, file=file)

    return make
