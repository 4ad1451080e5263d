"""The sections of a service whose fields depend on each other: each becomes its part of the definition.

A section that says nothing (absent, or full of the zeros that clients send) is None or empty, so that a definition
read back gives itself.
"""

from __future__ import annotations

from typing import Any

from penstock.fdl.readers import mapping, record_places
from penstock.fdl.schema import CLUSTER
from penstock.fdl.tree import At
from penstock.model import Volume

Section = dict[str, Any]

_OWN_FOLDERS = ("/oscar/config", "/oscar/bin", "/oscar/run")
_LONGEST_VOLUME_NAME = 63


def says_nothing(values: Section, defaults: Section | None = None) -> bool:
    """Tell whether every value is its default, zero or empty."""
    return all(not value or value == (defaults or {}).get(name) for name, value in values.items())


def check_scale(section: Section, at: At, *, unlimited_zero: bool = False) -> None:
    low, high = section["min_scale"], section["max_scale"]
    if low > high and not (unlimited_zero and high == 0):
        raise at.find("min_scale").refuse(f"`min_scale` {low} is above `max_scale` {high}")


def expose_definition(section: Section | None, at: At) -> Section:
    """Return {} when nothing is exposed, else every field; empty ports and words are left out."""
    if section is None:
        return {}
    section["api_port"] = [port for port in section["api_port"] if port]
    if not any(section["nodePort"]):
        section["nodePort"] = []
    if says_nothing(section, {"min_scale": 1, "max_scale": 10, "cpu_threshold": 80, "health_path": "/"}):
        return {}
    check_scale(section, at)
    if section["nodePort"] and len(section["nodePort"]) != len(section["api_port"]):
        raise at.find("nodePort").refuse("`nodePort` must have as many ports as `api_port`; 0 lets Kubernetes choose")
    if not section["api_port"]:
        at.warn("nothing is exposed without `api_port`")
    if not section["health_path"].startswith("/"):
        raise at.find("health_path").refuse("`health_path` must begin with a slash")
    optional = ("api_port", "nodePort", "auth_type", "probe_mode")
    return {name: value for name, value in section.items() if value or name not in optional}


def volume_section(section: Section | None, service: str, at: At) -> tuple[Volume | None, Section | None]:
    """Return the model's volume and its definition. With `size` it is created, without it `name` is attached."""
    if section is None or says_nothing(section):
        return None, None
    path = "/" + section["mount_path"].strip("/")
    if not section["mount_path"].startswith("/") or path == "/" or ".." in path.split("/"):
        raise at.find("mount_path").refuse("`mount_path` must be an absolute path such as /data")
    if any(path == own or path.startswith(f"{own}/") or own.startswith(f"{path}/") for own in _OWN_FOLDERS):
        raise at.find("mount_path").refuse(f"`mount_path` may not cover or lie in {', '.join(_OWN_FOLDERS)}")
    if not section["size"]:
        if not section["name"]:
            raise at.refuse("needs `size` to create a volume, or the `name` of one to attach")
        if section["lifecycle_policy"]:
            raise at.find("lifecycle_policy").refuse(
                "`lifecycle_policy` belongs to a volume that is created with `size`"
            )
    name = section["name"] or service
    if not is_dns_label(name, _LONGEST_VOLUME_NAME):
        raise at.find("name").refuse(
            f"{name[:80]!r} is not a DNS-1123 label of at most {_LONGEST_VOLUME_NAME} characters"
        )
    # What is only attached belongs to somebody else: it must outlive the function.
    policy = (section["lifecycle_policy"] or "delete") if section["size"] else "retain"
    volume = Volume(name=name, mount_path=path, size=section["size"], lifecycle_policy=policy)
    definition = {"name": name, "mount_path": path}
    if section["size"]:
        definition |= {"size": section["size"], "lifecycle_policy": policy}
    return volume, definition


def is_dns_label(name: str, longest: int) -> bool:
    """Tell whether a name is an RFC 1123 label of at most `longest` characters."""
    allowed = "abcdefghijklmnopqrstuvwxyz0123456789"
    edges = bool(name) and name[0] in allowed and name[-1] in allowed
    return edges and len(name) <= longest and all(letter in allowed or letter == "-" for letter in name)


def kserve_definition(section: Section | None, at: At) -> Section | None:
    if section is None or says_nothing(
        section, {"api_version": "v1", "max_scale": 1, "cpu": "0.2", "memory": "256Mi"} | {"set_auth": True}
    ):
        return None
    if not section["type"]:
        raise at.refuse("`type` is missing; write inference or llm_inference")
    if not section["storage_uri"]:
        raise at.refuse("`storage_uri` is missing; write where the model lies")
    inference = section["inference"]
    if section["type"] == "inference" and not (inference and inference["model_format"]):
        raise at.find("inference").refuse("`inference.model_format` is missing; write the format, for example sklearn")
    check_scale(section, at)
    return {name: value for name, value in section.items() if value is not None}


def federation_definition(service: Section, at: At) -> Section | None:
    """Return the federation, with the three keys of OSCAR v2 and v3 moved into it."""
    federation = service["federation"]
    legacy = {"members": service["replicas"], "delegation": service["delegation"]}
    legacy["rescheduler_threshold"] = service["rescheduler_threshold"]
    given = {name: value for name, value in legacy.items() if value}
    defaults = {"topology": "none", "delegation": "static"}
    sections = [at.get("federation").get("members")]
    if federation is not None and not says_nothing(federation, defaults):
        if given:
            at.warn("`replicas`, `delegation` and `rescheduler_threshold` are ignored, since `federation` is given")
    elif given and not says_nothing(given, defaults):
        empty: Section = {"group_id": "", "topology": "none", "delegation": "static", "rescheduler_threshold": 0}
        federation = empty | {"members": []} | given
        sections = [at.get("replicas"), at.get("replica")]
    else:
        return None
    places = [place for section in sections for place in record_places(section)]
    for member, place in zip(federation["members"], places, strict=True):
        _check_replica(member, place)
    if federation["members"] and "refresh_token" not in service["environment"]["secrets"]:
        at.warn("members of a federation need `environment.secrets.refresh_token` to call each other")
    federation["group_id"] = federation["group_id"] or service["name"]
    return dict(federation)


def _check_replica(member: Section, at: At) -> None:
    needed = ("cluster_id", "service_name") if member["type"] == "oscar" else ("url",)
    for field in needed:
        if not member[field]:
            raise at.refuse(f"a replica of type {member['type']} needs `{field}`")


def read_clusters(at: At) -> dict[str, Section]:
    """Read `clusters` without the passwords: nothing of ours may keep or show them."""
    if at.node.empty:
        return {}
    found: dict[str, Section] = {}
    for identity, fields in mapping(at).members():
        if not fields.node.empty:
            found[identity] = {name: value for name, value in CLUSTER(fields).items() if name != "auth_password"}
    return found
