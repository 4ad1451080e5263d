"""Requests made from the document by hypothesis: valid ones, nearly valid ones, and garbage."""

from __future__ import annotations

import json
import string
from typing import Any, NamedTuple
from urllib.parse import quote, quote_from_bytes, urlencode

from hypothesis import strategies as st

from gateway.openapi.document import document

#: Names of things that exist, so that requests get past "there is no such thing".
KNOWN = ("copy", "shelf", "in/a")
_TEXT = st.text(max_size=30)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)
#: Header values as a client may send them: visible ASCII, blanks and Latin-1.
_HEADER = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=60)
_NAMES = [
    "Range",
    "If-None-Match",
    "Accept",
    "Content-Type",
    "User-Agent",
    "X-Request-Id",
    "Origin",
    "Content-Encoding",
    "X-Delegated-Job-ID",
    "X-Forwarded-Uri",
    "Cookie",
    "If-Match",
]
_USUAL = ["bytes=0-1", "bytes=-5", "*", "application/json", "gzip", "Go-http-client/1.1", "text/plain"]
_HEADERS = st.dictionaries(st.sampled_from(_NAMES), _HEADER | st.sampled_from(_USUAL), max_size=3)


class Request(NamedTuple):
    method: str
    route: str
    path: str
    headers: dict[str, str]
    body: bytes | None


def _named(schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    found: dict[str, Any] = document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a schema, now and then something else."""
    schema = _named(schema)
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "string": _TEXT | st.sampled_from([*KNOWN, "download", "upload", "public"]),
        "integer": st.integers() | st.integers(0, 100),
        "number": st.floats(allow_nan=False),
        "boolean": st.booleans(),
        "null": st.none(),
    }
    if "anyOf" in schema:
        return st.one_of(*map(values, schema["anyOf"]))
    if schema.get("type") == "array":
        return st.lists(values(schema.get("items", {})), max_size=4) | _JSON
    if schema.get("type") == "object":
        fields = {name: values(one) for name, one in schema.get("properties", {}).items()}
        needed = {name: fields.pop(name) for name in schema.get("required", ()) if name in fields}
        return st.fixed_dictionaries(needed, optional=fields) | _JSON
    return kinds.get(schema.get("type", ""), _JSON)


_STORAGE = st.fixed_dictionaries(
    {"storage_provider": st.sampled_from(["minio", "minio.default", "s3.x", "nothing"]) | _TEXT},
    optional={"path": st.sampled_from(["shelf/in", "copy/in", "a/b"]) | _TEXT, "suffix": _JSON, "prefix": _JSON},
)
#: Services with every field a little wrong.
SERVICES = st.fixed_dictionaries(
    {"name": st.sampled_from(["copy", "new"]) | st.text(string.ascii_lowercase + "-", max_size=45)},
    optional={
        "image": _TEXT,
        "script": _TEXT | st.just("true\n"),
        "cpu": _JSON | st.sampled_from(["0.5", 1, "100m"]),
        "memory": _JSON | st.sampled_from(["1Gi", "64Mi"]),
        "input": st.lists(_STORAGE, max_size=3) | _JSON,
        "output": st.lists(_STORAGE, max_size=3) | _JSON,
        "environment": st.fixed_dictionaries({}, optional={"Variables": _JSON, "secrets": _JSON}) | _JSON,
        "visibility": st.sampled_from(["public", "Restricted", "private"]) | _TEXT,
        "allowed_users": _JSON,
        "expose": st.fixed_dictionaries({}, optional={"api_port": _JSON, "nodePort": _JSON}) | _JSON,
        "labels": _JSON,
        "mount": _JSON,
        "volume": _JSON,
        "federation": _JSON,
        "concurrency": _JSON,
        "batch": _JSON,
        "storage_providers": _JSON,
        "clusters": _JSON,
    },
)


def _query(parameters: list[dict[str, Any]]) -> st.SearchStrategy[str]:
    known = {one["name"]: values(one["schema"]).map(_word) for one in parameters}
    chosen = st.fixed_dictionaries({}, optional=known)
    garbage = st.binary(max_size=20).map(lambda data: quote_from_bytes(data, safe="&=;%+"))
    return chosen.map(urlencode) | garbage


def _word(value: Any) -> str:
    return value if isinstance(value, str) and "\ud800" not in value else json.dumps(value)


def _path(route: str) -> st.SearchStrategy[str]:
    names = [part[1:-1] for part in route.split("/") if part.startswith("{")]
    known = st.sampled_from(KNOWN)
    name = (
        known
        | known.map(str)
        | known.map(lambda name: f"{name}")
        | st.text(string.hexdigits, min_size=1, max_size=45)
        | st.text(min_size=1, max_size=40)
        | st.binary(min_size=1, max_size=20).map(lambda data: data.decode("latin-1"))
    )

    def fill(given: tuple[str, ...]) -> str:
        path = route
        for word, value in zip(names, given, strict=True):
            safe = "/" if word == "key" else ""
            path = path.replace(f"{{{word}}}", quote(value, safe=safe, errors="replace") or "x")
        return path

    return st.tuples(*[name for _ in names]).map(fill)


def _body(operation: dict[str, Any], route: str) -> st.SearchStrategy[bytes | None]:
    if "requestBody" not in operation:
        return st.none() | st.binary(max_size=50)
    [(media, content)] = operation["requestBody"]["content"].items()
    if media != "application/json":
        return st.none() | st.binary(max_size=200) | _JSON.map(lambda value: json.dumps(value).encode())
    shaped = SERVICES if route == "/system/services" else values(content["schema"])
    as_json = shaped.map(lambda value: json.dumps(value).encode("utf-8", "replace"))
    return as_json | as_json.map(lambda data: data[:-1]) | st.binary(max_size=60) | st.none()


@st.composite
def requests(draw: st.DrawFn, within: str = "") -> Request:
    """`within` = only routes that begin so."""
    described = document()["paths"]
    route = draw(st.sampled_from([one for one in sorted(described) if one.startswith(within)]))
    method = draw(st.sampled_from(sorted(described[route])))
    operation = described[route][method]
    query = draw(_query([one for one in operation["parameters"] if one["in"] == "query"]))
    path = draw(_path(route)) + (f"?{query}" if query else "")
    return Request(method.upper(), route, path, draw(_HEADERS), draw(_body(operation, route)))
