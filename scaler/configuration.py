"""Pools as people write them (YAML or JSON), checked so that a mistake is one sentence with the field's name.

Times are seconds, or text with a unit ("90s", "5m", "2h"); amounts are Kubernetes quantities. Everything is checked
before anything is used: the scaler never runs on half a configuration.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from penstock.errors import InvalidInput
from penstock.quantity import cpu_millis, memory_bytes
from scaler.fields import Fields
from scaler.model import Amounts, Labels, Taint
from scaler.pools import Billing, Caps, Fleet, Options, Pool, PowerModel, Spare

_KNOWN = ("cpu", "memory", "ephemeral-storage", "pods")
_EXTENDED = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_HUGE = re.compile(r"hugepages-[0-9]+[KMGT]i")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
#: What kubelet allows when nobody says otherwise.
DEFAULT_PODS = 110


def read_fleet(path: Path) -> Fleet:
    """Read a file of pools. Raises InvalidInput, with the file and the field."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", where=str(path)) from error
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInput(f"is not YAML: {' '.join(str(error).split())}", where=str(path)) from error
    try:
        return parse_fleet(document)
    except InvalidInput as error:
        raise InvalidInput(error.message, where=str(path)) from error


def parse_fleet(document: object) -> Fleet:
    """Check a document {"pools": [...], "options": {...}}. Raises InvalidInput.

    A section "drivers" is left to `scaler.drivers.configuration`.
    """
    top = Fields(document, "")
    top.take("drivers", None)
    pools = tuple(_pool(entry, f"pools[{number}]") for number, entry in enumerate(top.sequence("pools")))
    if not pools:
        raise InvalidInput("there is no pool; name at least one", where="pools")
    options = _options(top.take("options", {}))
    top.done()
    _check_overlap(pools)
    _check_caps(options.caps, pools)
    return Fleet(pools=pools, options=options)


def parse_amounts(value: object, *, where: str, known: Amounts | None = None) -> Amounts:
    """Amounts by resource name; with `known`, only resources that are offered there. Raises InvalidInput."""
    if not isinstance(value, Mapping):
        raise InvalidInput("must be a mapping of resources to quantities", where=where)
    offered = None if known is None else {name for name, _ in known}
    amounts: dict[str, int] = {}
    for raw, quantity in value.items():
        name = str(raw)
        field = f"{where}.{name}"
        if offered is not None and name not in offered:
            raise InvalidInput(f"is not among the pool's resources ({', '.join(sorted(offered))})", where=field)
        if not (name in _KNOWN or _HUGE.fullmatch(name) or _EXTENDED.fullmatch(name)):
            near = difflib.get_close_matches(name, _KNOWN, n=1, cutoff=0.7)
            hint = f"did you mean {near[0]!r}?" if near else f"use {', '.join(_KNOWN)} or a name like nvidia.com/gpu"
            raise InvalidInput(f"is not a resource; {hint}", where=field)
        text = str(quantity)
        amounts[name] = cpu_millis(text, where=field) if name == "cpu" else memory_bytes(text, where=field)
    return tuple(sorted(amounts.items()))


def _pool(value: object, where: str) -> Pool:
    fields = Fields(value, where)
    name = str(fields.need("name", "a name for the pool"))
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"{name!r} is not a name; use small letters, digits and '-'", where=fields.path("name"))
    hosts = tuple(str(host) for host in fields.sequence("hosts"))
    if len(set(hosts)) != len(hosts):
        raise InvalidInput("names a host twice", where=fields.path("hosts"))
    pattern = str(fields.take("name_pattern", "" if hosts else f"{name}-{{n}}"))
    if hosts and pattern:
        raise InvalidInput("cannot stand beside hosts; give one of the two", where=fields.path("name_pattern"))
    if not hosts and pattern.count("{n}") != 1:
        raise InvalidInput('must hold "{n}" once, where the number goes', where=fields.path("name_pattern"))
    smallest, largest = _bounds(fields, hosts)
    resources = parse_amounts(fields.need("resources", "what a node offers"), where=fields.path("resources"))
    offered = dict(resources)
    for needed in ("cpu", "memory"):
        if not offered.get(needed):
            raise InvalidInput("is missing or 0; say how much a node offers", where=fields.path(f"resources.{needed}"))
    offered.setdefault("pods", DEFAULT_PODS)
    resources = tuple(sorted(offered.items()))
    overhead = parse_amounts(fields.take("overhead", {}), where=fields.path("overhead"), known=resources)
    for resource, amount in overhead:
        if amount > offered[resource]:
            raise InvalidInput("is more than the node offers", where=fields.path(f"overhead.{resource}"))
    pool = Pool(
        name=name,
        driver=str(fields.take("driver", "simulated")),
        hosts=hosts,
        name_pattern=pattern,
        min=smallest,
        max=largest,
        resources=resources,
        overhead=overhead,
        labels=_labels(fields.take("labels", {}), fields.path("labels")),
        taints=_taints(fields, "taints"),
        startup_taints=_taints(fields, "startup_taints"),
        weight=fields.whole("weight", 0),
        price_per_hour=fields.number("price_per_hour", 0.0),
        power=_power(fields.take("power", {}), fields.path("power")),
        billing=_billing(fields.take("billing", None), fields.path("billing")),
        boot_ms=fields.time("boot", 120_000),
        boot_timeout_ms=fields.time("boot_timeout", 600_000),
        stop_ms=fields.time("stop", 20_000),
        stop_timeout_ms=fields.time("stop_timeout", 600_000),
        idle_ms=fields.time("idle", 1_500_000),
        min_on_ms=fields.time("min_on", 0),
        max_booting=fields.whole("max_booting", 0),
        spare=tuple(
            _spare(entry, fields.path(f"spare[{number}]"), resources)
            for number, entry in enumerate(fields.sequence("spare"))
        ),
    )
    fields.done()
    if pool.boot_ms >= pool.boot_timeout_ms:
        raise InvalidInput("must be longer than boot, the usual time of a start", where=fields.path("boot_timeout"))
    return pool


def _bounds(fields: Fields, hosts: tuple[str, ...]) -> tuple[int, int]:
    smallest = fields.whole("min", 0)
    largest = fields.whole("max", len(hosts)) if hosts else fields.need("max", "the most nodes the pool may have")
    if isinstance(largest, bool) or not isinstance(largest, int) or largest < 1:
        raise InvalidInput(f"{largest!r} is not a whole number of 1 or more", where=fields.path("max"))
    if hosts and largest > len(hosts):
        raise InvalidInput(f"{largest} is more than the {len(hosts)} hosts of the pool", where=fields.path("max"))
    if smallest > largest:
        raise InvalidInput(f"{smallest} is more than max, {largest}; min may be at most that", where=fields.path("min"))
    return smallest, largest


def _labels(value: object, where: str) -> Labels:
    if not isinstance(value, Mapping):
        raise InvalidInput("must be a mapping of labels to values", where=where)
    return tuple(sorted((str(key), str(text)) for key, text in value.items()))


def _taints(fields: Fields, name: str) -> tuple[Taint, ...]:
    taints = []
    for number, entry in enumerate(fields.sequence(name)):
        inner = Fields(entry, fields.path(f"{name}[{number}]"))
        effect = str(inner.take("effect", "NoSchedule"))
        if effect not in _EFFECTS:
            raise InvalidInput(f"{effect!r} is none of {', '.join(_EFFECTS)}", where=inner.path("effect"))
        key = str(inner.need("key", "the taint's key"))
        taints.append(Taint(key=key, value=str(inner.take("value", "")), effect=effect))
        inner.done()
    return tuple(taints)


def _power(value: object, where: str) -> PowerModel:
    fields = Fields(value, where)
    off, idle = fields.number("off", 0.0), fields.number("idle", 0.0)
    boot, largest = fields.number("boot", idle), fields.number("max", idle)
    fields.done()
    if largest < idle:
        raise InvalidInput(f"{largest:g} W is less than idle, {idle:g} W", where=fields.path("max"))
    return PowerModel(off=off, boot=boot, idle=idle, max=largest)


def _billing(value: object, where: str) -> Billing | None:
    if value is None:
        return None
    fields = Fields(value, where)
    interval, margin = fields.time("interval", 3_600_000), fields.time("margin", 300_000)
    fields.done()
    if interval <= 0:
        raise InvalidInput("must be longer than 0", where=fields.path("interval"))
    if not 0 < margin <= interval:
        raise InvalidInput("must be more than 0 and at most the interval", where=fields.path("margin"))
    return Billing(interval_ms=interval, margin_ms=margin)


def _spare(value: object, where: str, resources: Amounts) -> Spare:
    fields = Fields(value, where)
    days = []
    for number, day in enumerate(fields.sequence("days")):
        if str(day).lower()[:3] not in _DAYS:
            raise InvalidInput(f"{day!r} is none of {', '.join(_DAYS)}", where=fields.path(f"days[{number}]"))
        days.append(_DAYS.index(str(day).lower()[:3]))
    spare = Spare(
        nodes=fields.whole("nodes", 0),
        amounts=parse_amounts(fields.take("resources", {}), where=fields.path("resources"), known=resources),
        percent=fields.whole("percent", 0),
        days=tuple(sorted(days)),
        start_min=_clock(fields.take("from", "00:00"), fields.path("from")),
        until_min=_clock(fields.take("until", "00:00"), fields.path("until")),
    )
    fields.done()
    return spare


def _clock(value: object, where: str) -> int:
    match = re.fullmatch(r"([01]?[0-9]|2[0-4]):([0-5][0-9])", str(value))
    if match is None or int(match[1]) * 60 + int(match[2]) > 1440:
        raise InvalidInput(f'{value!r} is not a time of day; write it in quotes, like "08:30" (UTC)', where=where)
    return (int(match[1]) * 60 + int(match[2])) % 1440


def _options(value: object) -> Options:
    fields, plain = Fields(value, "options"), Options()
    times = {name: fields.time(name.removesuffix("_ms"), getattr(plain, name)) for name in _TIMES}
    counts = {name: fields.whole(name, getattr(plain, name)) for name in _COUNTS}
    steer = fields.take("steer", plain.steer)
    if not isinstance(steer, bool):
        raise InvalidInput(f"{steer!r} is neither true nor false", where=fields.path("steer"))
    caps = _caps(fields.take("caps", {}))
    fields.done()
    if times["backoff_limit_ms"] < times["backoff_ms"]:
        raise InvalidInput("is shorter than backoff, the first delay", where=fields.path("backoff_limit"))
    for name in ("fresh_ms", "backoff_ms"):
        if not times[name]:
            raise InvalidInput("must be longer than 0", where=fields.path(name.removesuffix("_ms")))
    return Options(**times, **counts, steer=steer, caps=caps)


_TIMES = ("fresh_ms", "loss_window_ms", "glitch_ms", "hold_ms", "backoff_ms", "backoff_limit_ms", "probe_ms")
_COUNTS = ("loss_nodes", "loss_percent", "tries", "steer_slack_percent")


def _caps(value: object) -> Caps:
    fields = Fields(value, "options.caps")
    nodes = fields.whole("nodes", 0) if "nodes" in fields else None
    watts = fields.number("watts", 0.0) if "watts" in fields else None
    price = fields.number("price_per_hour", 0.0) if "price_per_hour" in fields else None
    amounts = parse_amounts(fields.take("resources", {}), where=fields.path("resources"))
    fields.done()
    return Caps(nodes=nodes, amounts=amounts, watts=watts, price_per_hour=price)


def _check_overlap(pools: tuple[Pool, ...]) -> None:
    names: dict[str, str] = {}
    hosts: dict[str, str] = {}
    for number, pool in enumerate(pools):
        where = f"pools[{number}]"
        if pool.name in names:
            raise InvalidInput(
                f"{pool.name!r} is the name of {names[pool.name]} too; name each once", where=f"{where}.name"
            )
        names[pool.name] = where
        for host in pool.hosts:
            if host in hosts:
                raise InvalidInput(
                    f"host {host!r} is in {hosts[host]} too; a host belongs to one pool", where=f"{where}.hosts"
                )
            hosts[host] = f"pool {pool.name}"
    for number, pool in enumerate(pools):
        if pool.made:
            _check_pattern(pool, pools[:number], hosts, f"pools[{number}].name_pattern")


def _check_pattern(pool: Pool, earlier: tuple[Pool, ...], hosts: dict[str, str], where: str) -> None:
    shape = re.compile("[0-9]+".join(re.escape(part) for part in pool.name_pattern.split("{n}")))
    for host, owner in hosts.items():
        if shape.fullmatch(host):
            raise InvalidInput(
                f"{pool.name_pattern!r} can give {host!r}, a host of {owner}; choose another", where=where
            )
    for other in earlier:
        if other.made and _patterns_meet(pool.name_pattern, other.name_pattern):
            raise InvalidInput(
                f"{pool.name_pattern!r} can give the same name as that of pool {other.name}", where=where
            )


def _patterns_meet(one: str, other: str) -> bool:
    """Whether two patterns can give one name: beginnings and ends agree but for digits, which the number may supply."""
    (head, tail), (head2, tail2) = one.split("{n}"), other.split("{n}")
    heads = sorted((head, head2), key=len)
    tails = sorted((tail, tail2), key=len)
    rest_head, rest_tail = heads[1][len(heads[0]) :], tails[1][: len(tails[1]) - len(tails[0])]
    agree = heads[1].startswith(heads[0]) and tails[1].endswith(tails[0])
    return agree and all(not rest or rest.isdigit() for rest in (rest_head, rest_tail))


def _check_caps(caps: Caps, pools: tuple[Pool, ...]) -> None:
    least = sum(pool.min for pool in pools)
    if caps.nodes is not None and least > caps.nodes:
        raise InvalidInput(
            f"{caps.nodes} is less than the pools' minimums together, {least}", where="options.caps.nodes"
        )
