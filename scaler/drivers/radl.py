"""What is written to and read from an Infrastructure Manager: RADL out, its JSON form in. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.errors import InvalidInput, Unavailable
from penstock.ports import NodeAdd

_TAG_KEY, _TAG_POOL = "penstock-key", "penstock-pool"
_OWN = ("net_interface.0.dns_name", "instance_tags")


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """How machines of one pool are made."""

    #: The features of a system, as inside `system NAME ( ... )`.
    system: str
    #: What every document begins with: networks, and `contextualize ()` or the recipes.
    common: str = ""
    #: More tags of the machine, "name=value" with commas between.
    tags: str = ""
    #: False: machines are launched and not configured by the manager.
    contextualize: bool = True

    @property
    def query(self) -> str:
        return "" if self.contextualize else "?context=0"


class Told(msgspec.Struct, frozen=True):
    """What a machine was made as; "" for one that is none of ours."""

    name: str
    pool: str = ""
    key: str = ""


def check_template(template: Template, *, where: str) -> None:
    """Raises InvalidInput for what Penstock itself has to say."""
    for feature in _OWN:
        if re.search(rf"\b{re.escape(feature)}\b", template.system):
            raise InvalidInput(f"sets {feature}, which Penstock sets for each machine; leave it out", where=where)
    if re.search(r"^\s*(deploy|system)\s", template.common, flags=re.MULTILINE):
        raise InvalidInput("holds a system or deploy line; those are made for each machine", where=where)


def document(template: Template, nodes: Sequence[NodeAdd], *, mark: str = "") -> str:
    """One RADL document that makes all of them. `mark` names the driver, in the first document of an infrastructure."""
    parts = [f"description penstock ( name = 'nodes of Penstock' and penstock_driver = '{mark}' )"] if mark else []
    parts.append(template.common.strip())
    for node in nodes:
        tags = [f"{_TAG_KEY}={node.key}", f"{_TAG_POOL}={node.pool}", *([template.tags] if template.tags else [])]
        own = f"net_interface.0.dns_name = '{node.name}' and instance_tags = '{','.join(tags)}'"
        parts.append(f"system {node.name} (\n{template.system.strip()} and\n{own}\n)")
    parts += [f"deploy {node.name} 1" for node in nodes]
    return "\n".join(part for part in parts if part) + "\n"


def read_machine(answer: Any) -> Told:
    """From the JSON of one machine, of which nothing else is kept: it holds passwords. Raises Unavailable."""
    try:
        (system,) = [part for part in answer["radl"] if part.get("class") == "system"]
        tags = dict(tag.split("=", 1) for tag in str(system.get("instance_tags", "")).split(",") if "=" in tag)
        name = str(system.get("net_interface.0.dns_name") or system["id"])
    except (KeyError, TypeError, ValueError, AttributeError):
        # Without the cause: its text could hold a part of the answer.
        raise Unavailable("the Infrastructure Manager described a machine in a way that cannot be read") from None
    return Told(name, tags.get(_TAG_POOL, ""), tags.get(_TAG_KEY, ""))
