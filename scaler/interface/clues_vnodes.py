"""`kubernetes_vnodes.info`: CLUES's list of machines that may be created, and pools made of it, one per shape.

CLUES reads every unit of memory as a power of 1024 ("1 GB" is 1 GiB), so it is read so here too.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from penstock.errors import InvalidInput
from penstock.quantity import cpu_millis, format_bytes, format_cpu

_POWERS = {unit: power for power, unit in enumerate(("", "k", "m", "g", "t", "p", "e"))}
_MEMORY = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgtpe]?)i?b?", re.IGNORECASE)
_MOST = 2**63 - 1
_GPU = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu"}
_FIELDS = ("name", "cpu", "memory", "gpu", "gpu_vendor", "queues", "keywords", "sgx", "sgx_epc_size")
_UNFIT = re.compile(r"[^a-z0-9-]+")


class VirtualNode(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    #: cpu in thousandths of a core, the rest in whole units; in order of name.
    resources: tuple[tuple[str, int], ...]
    labels: tuple[tuple[str, str], ...] = ()
    #: (field, value, why it has no equivalent)
    left: tuple[tuple[str, str, str], ...] = ()


def virtual_bytes(value: object, *, where: str) -> int:
    """Bytes of a number or a text such as "1 GB" or "512Mi", units as CLUES means them. Raises InvalidInput."""
    text = str(value).strip()
    match = _MEMORY.fullmatch(text) if not isinstance(value, bool) else None
    number = float(match[1]) * 1024 ** _POWERS[match[2].lower()] if match and len(text) <= 40 else -1.0
    if not 1 <= number <= _MOST:
        raise InvalidInput(f'{text[:40]!r} is not an amount of memory; write it like "4 GB"', where=where)
    return round(number)


def slots_of(value: object, *, where: str) -> int:
    """Thousandths of a core, more than 0. Raises InvalidInput."""
    millis = cpu_millis(str(value), where=where)
    if millis <= 0:
        raise InvalidInput(f"{value!r} processors are too few", where=where)
    return millis


def read_vnodes(text: str, *, where: str, default: Mapping[str, int]) -> list[VirtualNode]:
    """Read the JSON list; `default` = shape of what a node does not say. Raises InvalidInput."""
    try:
        entries = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise InvalidInput(f"is not JSON: {error}", where=where) from error
    if not isinstance(entries, list):
        raise InvalidInput("must be a list of virtual nodes", where=where)
    return [_node(entry, f"{where}[{number}]", default) for number, entry in enumerate(entries)]


def _node(entry: Any, where: str, default: Mapping[str, int]) -> VirtualNode:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"].strip():
        raise InvalidInput('must be an object with a "name"', where=where)
    resources = dict(default)
    if _given(entry, "cpu"):
        resources["cpu"] = slots_of(entry["cpu"], where=f"{where}.cpu")
    if _given(entry, "memory"):
        resources["memory"] = virtual_bytes(entry["memory"], where=f"{where}.memory")
    left: list[tuple[str, str, str]] = []
    if _given(entry, "gpu"):
        _gpu(entry, where, resources, left)
    if str(entry.get("sgx", "")).lower() in {"yes", "true", "1"}:
        resources["sgx.k8s.io/sgx"] = 1
    left += [(name, str(entry[name]), why) for name, why in _NOT.items() if _given(entry, name)]
    left += [(name, str(entry[name]), "CLUES reads no field of this name") for name in entry if name not in _FIELDS]
    return VirtualNode(
        name=entry["name"].strip(),
        resources=tuple(sorted(resources.items())),
        labels=_keywords(entry.get("keywords"), left),
        left=tuple(left),
    )


_NOT = {
    "queues": "Kubernetes has no queues; give the pool a label and let pods select it",
    "sgx_epc_size": "amounts of enclave memory differ by device plugin; add its resource to the pool by hand",
}


def _given(entry: Mapping[str, Any], name: str) -> bool:
    return entry.get(name) not in (None, "", 0, "0")


def _gpu(entry: Mapping[str, Any], where: str, resources: dict[str, int], left: list[tuple[str, str, str]]) -> None:
    count = str(entry["gpu"])
    if not (count.isascii() and count.isdigit() and len(count) < 7):
        raise InvalidInput(f"{count[:40]!r} is not a number of devices", where=f"{where}.gpu")
    vendor = str(entry.get("gpu_vendor") or "nvidia").lower()
    if vendor in _GPU:
        resources[_GPU[vendor]] = int(count)
    else:
        left.append(("gpu_vendor", vendor, "CLUES knows nvidia and amd only; add the resource to the pool by hand"))


def _keywords(value: Any, left: list[tuple[str, str, str]]) -> tuple[tuple[str, str], ...]:
    labels: dict[str, str] = {}
    for part in str(value or "").split(","):
        key, sign, text = part.partition("=")
        if sign and key.strip():
            labels[key.strip()] = text.strip().strip("'\"")
        elif part.strip():
            left.append(("keywords", part.strip(), "it is not of the form key=value"))
    return tuple(sorted(labels.items()))


def pools_of(nodes: Sequence[VirtualNode], *, made: bool) -> list[dict[str, Any]]:
    """Documents of pools, one per shape and labels, in order of first appearance. `made` = machines are created."""
    alike: defaultdict[tuple[object, object], list[VirtualNode]] = defaultdict(list)
    for node in nodes:
        alike[node.resources, node.labels].append(node)
    taken: set[str] = set()
    pools = []
    for members in alike.values():
        name = _pool_name([node.name for node in members], taken)
        pool: dict[str, Any] = {"name": name}
        if made:
            pool |= {"max": len(members)}
        else:
            pool |= {"hosts": [node.name for node in members]}
        pool["resources"] = {key: _text(key, amount) for key, amount in members[0].resources}
        if members[0].labels:
            pool["labels"] = dict(members[0].labels)
        pools.append(pool)
    return pools


def _text(resource: str, amount: int) -> int | str:
    if resource == "cpu":
        return format_cpu(amount)
    return format_bytes(amount) if resource == "memory" else amount


def _pool_name(names: Sequence[str], taken: set[str]) -> str:
    """What the names begin with, else "pool"; never one that another pool has."""
    shortest, longest = min(names), max(names)
    common = next((shortest[:end] for end in range(len(shortest), 0, -1) if longest.startswith(shortest[:end])), "")
    base = _UNFIT.sub("-", common.lower()).strip("-").rstrip("0123456789").strip("-")[:40].strip("-") or "pool"
    name, number = base, 1
    while name in taken:
        number += 1
        # A letter at the end: the numbers of made machines must not meet those of another pool.
        name = f"{base}-{number}x"
    taken.add(name)
    return name
