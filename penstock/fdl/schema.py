"""Every key of the FDL, with its reader and default: the table behind the parser, the `definition` and the reference.

`docs/reference/fdl.md` explains each of these keys, and a test fails when one is missing there. A default of None means
that the key is left out of the definition when nobody gave it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from penstock.fdl.readers import (
    Key,
    ListOf,
    Record,
    boolean,
    byte_count,
    choice,
    duration,
    environment_map,
    filters,
    integer,
    number,
    ports,
    quantity,
    shown,
    text,
    text_list,
    text_map,
    trimmed,
)
from penstock.fdl.tree import At, Kind

DAY_S = 24 * 3600
LOG_LEVELS = ("NOTSET", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
#: Largest list of items in one Job: its names must fit one annotation.
MAX_BATCH = 1000
_MANY = 10**9

_LABEL_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_LABEL_PREFIX = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def _log_level(at: At) -> str:
    """Read a level in any case; what is none becomes INFO, as OSCAR does, but not silently."""
    word = trimmed(at).upper()
    if word in LOG_LEVELS:
        return word
    at.warn(f"{word[:20]!r} is not a log level ({', '.join(LOG_LEVELS)}); INFO is used")
    return "INFO"


def _labels(*, values: bool) -> Callable[[At], dict[str, str]]:
    """Read labels (`values` checked as well) or annotations: the API server would refuse others at every Job."""

    def read(at: At) -> dict[str, str]:
        pairs = text_map(at)
        for key, value in pairs.items():
            prefix, slash, name = key.rpartition("/")
            if not _LABEL_NAME.fullmatch(name) or (slash and not _LABEL_PREFIX.fullmatch(prefix)):
                raise at.refuse(
                    f"{key[:60]!r} is not a valid key; write name or prefix/name with letters, digits and -_."
                )
            if values and value and not _LABEL_NAME.fullmatch(value):
                raise at.refuse(
                    f"the value of {key[:60]!r} is not a valid label: up to 63 letters, digits and -_. that begin "
                    "and end with a letter or digit"
                )
        return pairs

    return read


def _options(at: At) -> str:
    word = trimmed(at)
    if not re.fullmatch(r"[A-Za-z0-9 _.:=,/-]*", word):
        raise at.refuse("may hold only letters, digits, blanks and - _ . : = , /")
    return word


def _bool_or_path(at: At) -> bool | str | None:
    word = trimmed(at)
    return word if word.startswith("/") else boolean(at)


def _batch(at: At) -> Any:
    """Read `single`, `auto`, a number of items, or a mapping of limits."""
    if at.node.kind is Kind.MAP:
        return BATCH(at)
    word = trimmed(at).lower()
    if word in {"single", "auto"}:
        return word
    if at.node.kind is Kind.NUMBER or (word.isascii() and word.isdigit()):
        return {"max_items": integer(1, MAX_BATCH)(at), "max_bytes": 0, "linger": 0}
    raise at.refuse(
        f"must be single, auto, a number of items or {{max_items, max_bytes, linger}}, not {shown(at.node)}"
    )


def _upload_on_failure(at: At) -> str | None:
    if at.node.kind is Kind.BOOL:
        return "always" if at.node.text == "true" else "never"
    word: str | None = choice("always", "never")(at)
    return word


BATCH = Record(
    {
        "max_items": Key(integer(1, MAX_BATCH), 100),
        "max_bytes": Key(byte_count, 0),
        "linger": Key(duration(0, 3600), 0),
    }
)
STORAGE_IO = Record(
    {
        "storage_provider": Key(trimmed, ""),
        "path": Key(text, ""),
        "prefix": Key(filters, []),
        "suffix": Key(filters, []),
        "options": Key(_options, ""),
    }
)
MOUNT = Record(
    {"storage_provider": Key(trimmed, ""), "path": Key(text, ""), "options": Key(_options, "")},
)
ENVIRONMENT = Record({"variables": Key(environment_map, {}), "secrets": Key(environment_map, {})})
SYNCHRONOUS = Record({"min_scale": Key(integer(0, _MANY), 0), "max_scale": Key(integer(0, _MANY), 0)})
EXPOSE = Record(
    {
        "min_scale": Key(integer(1, _MANY, zero_is_default=True), 1),
        "max_scale": Key(integer(1, _MANY, zero_is_default=True), 10),
        "api_port": Key(ports, []),
        "cpu_threshold": Key(integer(1, 1000, zero_is_default=True), 80),
        "nodePort": Key(ports, []),
        "set_auth": Key(boolean, False),
        "auth_type": Key(choice("basic", "forward"), ""),
        "rewrite_target": Key(boolean, False),
        "default_command": Key(boolean, False),
        "health_path": Key(trimmed, "/"),
        "probe_mode": Key(choice("legacy", "direct"), ""),
    },
    aliases={"port": "api_port"},
)
VOLUME = Record(
    {
        "name": Key(trimmed, ""),
        "size": Key(quantity(), ""),
        "mount_path": Key(trimmed, ""),
        "lifecycle_policy": Key(choice("delete", "retain"), ""),
    }
)
REPLICA = Record(
    {
        "type": Key(choice("oscar", "endpoint"), "oscar"),
        "cluster_id": Key(trimmed, ""),
        "service_name": Key(trimmed, ""),
        "url": Key(trimmed, ""),
        "ssl_verify": Key(boolean, True),
        "priority": Key(integer(0, _MANY), 0),
        "headers": Key(text_map, {}),
    }
)
FEDERATION = Record(
    {
        "group_id": Key(trimmed, ""),
        "topology": Key(choice("none", "star", "mesh"), "none"),
        "delegation": Key(choice("static", "random", "load-based", "topsis"), "static"),
        "rescheduler_threshold": Key(integer(0, _MANY), 0),
        "members": Key(ListOf(REPLICA), []),
    }
)
KSERVE_INFERENCE = Record({"model_format": Key(trimmed, ""), "runtime": Key(trimmed, "")})
KSERVE_LLM = Record({"runtime_image": Key(trimmed, "")})
KSERVE = Record(
    {
        "type": Key(choice("inference", "llm_inference"), ""),
        "storage_uri": Key(trimmed, ""),
        "inference": Key(KSERVE_INFERENCE),
        "llm_inference": Key(KSERVE_LLM),
        "api_version": Key(choice("v1", "v2"), "v1"),
        "min_scale": Key(integer(0, _MANY), 0),
        "max_scale": Key(integer(1, _MANY, zero_is_default=True), 1),
        "cpu": Key(quantity(), "0.2"),
        "memory": Key(quantity(), "256Mi"),
        "args": Key(text_list, []),
        "env": Key(environment_map, {}),
        "enable_gpu": Key(boolean, False),
        "set_auth": Key(boolean, True),
    }
)
CLUSTER = Record(
    {
        "endpoint": Key(trimmed, ""),
        "auth_user": Key(trimmed, ""),
        "auth_password": Key(text, ""),
        "ssl_verify": Key(boolean, True),
    }
)

#: Fields per provider type. `local` is the product's own store and needs none.
PROVIDERS: dict[str, Record] = {
    "minio": Record(
        {
            "endpoint": Key(trimmed, ""),
            "verify": Key(_bool_or_path, True),
            "access_key": Key(text, ""),
            "secret_key": Key(text, ""),
            "region": Key(trimmed, ""),
        }
    ),
    "s3": Record({"access_key": Key(text, ""), "secret_key": Key(text, ""), "region": Key(trimmed, "")}),
    "onedata": Record({"oneprovider_host": Key(trimmed, ""), "token": Key(text, ""), "space": Key(trimmed, "")}),
    "webdav": Record({"hostname": Key(trimmed, ""), "login": Key(text, ""), "password": Key(text, "")}),
    "rucio": Record(
        {
            "host": Key(trimmed, ""),
            "auth_host": Key(trimmed, ""),
            "account": Key(trimmed, ""),
            "rse": Key(trimmed, ""),
            "access_token": Key(text, ""),
            "refresh_token": Key(text, ""),
            "oidc_audience": Key(trimmed, ""),
            "token_endpoint": Key(trimmed, ""),
            "scopes": Key(trimmed, ""),
            "client_id": Key(trimmed, ""),
        }
    ),
    "local": Record({}),
}
#: Provider fields whose value is written `hidden` in a definition.
CREDENTIALS = frozenset({"access_key", "secret_key", "token", "password", "access_token", "refresh_token"})
HIDDEN = "hidden"


def _anything(at: At) -> At:
    """Leave a value to code that needs its place."""
    return at


#: Keys that the server decides; accepted, since clients send back what they were given, and ignored.
SERVER_OWNED = ("token", "owner", "namespace", "volume_status", "deployment", "bucket_list")

OSCAR_KEYS: dict[str, Key] = {
    "name": Key(trimmed, ""),
    "image": Key(trimmed, ""),
    "script": Key(text, ""),
    "cpu": Key(quantity()),
    "memory": Key(quantity()),
    "total_cpu": Key(quantity(), ""),
    "total_memory": Key(quantity(), ""),
    "ephemeral_storage_request": Key(quantity(), ""),
    "enable_gpu": Key(boolean, False),
    "enable_sgx": Key(boolean, False),
    "image_prefetch": Key(boolean, False),
    "alpine": Key(boolean, False),
    "file_stage_in": Key(boolean, False),
    "log_level": Key(_log_level, "INFO"),
    "input": Key(ListOf(STORAGE_IO), []),
    "output": Key(ListOf(STORAGE_IO), []),
    "environment": Key(ENVIRONMENT, {"variables": {}, "secrets": {}}),
    "annotations": Key(_labels(values=False), {}),
    "labels": Key(_labels(values=True), {}),
    "image_pull_secrets": Key(text_list, []),
    "synchronous": Key(SYNCHRONOUS, {"min_scale": 0, "max_scale": 0}),
    "expose": Key(EXPOSE),
    "mount": Key(MOUNT),
    "volume": Key(VOLUME),
    "kserve": Key(KSERVE),
    "vo": Key(trimmed, ""),
    "visibility": Key(choice("private", "restricted", "public"), "private"),
    "allowed_users": Key(text_list, []),
    "isolation_level": Key(choice("SERVICE", "USER"), "SERVICE"),
    "interlink_node_name": Key(trimmed, ""),
    "federation": Key(FEDERATION),
    "cluster_id": Key(trimmed, ""),
    "storage_providers": Key(_anything),
    "clusters": Key(_anything),
    # OSCAR v2 and v3 had these three here; they become parts of `federation`.
    "replicas": Key(ListOf(REPLICA)),
    "delegation": Key(choice("static", "random", "load-based", "topsis")),
    "rescheduler_threshold": Key(integer(0, _MANY)),
} | {name: Key(_anything) for name in SERVER_OWNED}

#: Our own keys, which OSCAR ignores. None = not given, so that a definition repeats only what its author wrote.
PENSTOCK_KEYS: dict[str, Key] = {
    "concurrency": Key(integer(0, _MANY)),
    "rate": Key(number(0, 1_000_000)),
    "priority": Key(integer(-100, 100)),
    "weight": Key(number(0, 1000, above_low=True)),
    "retries": Key(integer(0, 100)),
    "deadline": Key(duration(0, 365 * DAY_S, above_low=True)),
    "batch": Key(_batch),
    "upload_on_failure": Key(_upload_on_failure),
    "max_hops": Key(integer(1, 1000)),
    "start": Key(choice("now", "existing")),
}

SERVICE = Record(OSCAR_KEYS | PENSTOCK_KEYS, aliases={"replica": "replicas"})
ENVELOPE = ("functions", "storage_providers", "clusters", "scar")
SECTIONS = ("oscar", "aws", "storage_providers")


def known_keys() -> Iterator[str]:
    """Yield every key that is understood, nested ones as `outer.inner`, for the test that compares the reference."""
    yield from ENVELOPE
    yield from (f"functions.{section}" for section in SECTIONS)
    yield from _nested("", SERVICE)
    yield from _nested("clusters.ID.", CLUSTER)
    yield from _nested("batch.", BATCH)
    for kind, record in PROVIDERS.items():
        yield from _nested(f"storage_providers.{kind}.ID.", record)


def _nested(prefix: str, record: Record) -> Iterator[str]:
    for name, key in record:
        yield prefix + name
        inner = key.read.element if isinstance(key.read, ListOf) else key.read
        if isinstance(inner, Record):
            yield from _nested(f"{prefix}{name}.", inner)
    yield from (prefix + alias for alias in record.aliases)
