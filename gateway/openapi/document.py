"""The table of operations as an OpenAPI 3.1 document. Pure."""

from __future__ import annotations

import functools
import re
from typing import Any

import msgspec

from gateway.openapi import nodes, oscar, own
from gateway.openapi.model import MEANINGS, TEXT, Access, Body, Operation, Parameter, Reply
from gateway.openapi.shapes import Error
from penstock import __version__

OPERATIONS: tuple[Operation, ...] = (*oscar.OPERATIONS, *own.OPERATIONS, *nodes.OPERATIONS)
_IN_PATH = re.compile(r"\{(\w+)\}")
_TEMPLATE = "#/components/schemas/{name}"
#: The longest that a name in a path may be: a key of a bucket, percent-encoded.
_LONGEST_NAME = 3072


@functools.cache
def document() -> dict[str, Any]:
    """The whole document, as plain values."""
    kinds = _kinds()
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_TEMPLATE)
    known = dict(zip(map(repr, kinds), schemas, strict=True))
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, known)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Penstock",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "OSCAR's interface and Penstock's own, `/v1`. Errors are one sentence in text/plain, or "
            "JSON with `Accept: application/json`. Each answer has `X-Request-Id`.",
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": subject} for subject in dict.fromkeys(one.subject for one in OPERATIONS)],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic", "description": "The administrator."},
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The administrator's token, a token of single sign-on, or a function's own.",
                },
            },
        },
    }


@functools.cache
def encoded() -> bytes:
    return msgspec.json.encode(document())


def _kinds() -> list[Any]:
    kinds: dict[str, Any] = {repr(Error): Error}
    for operation in OPERATIONS:
        found = [reply.kind for reply in operation.replies.values()]
        found += [operation.body.kind] if operation.body is not None else []
        kinds |= {repr(kind): kind for kind in found if kind is not None}
    return list(kinds.values())


def _operation(operation: Operation, known: dict[str, Any]) -> dict[str, Any]:
    answers = {str(status): _reply(reply, known) for status, reply in operation.replies.items()}
    for status in operation.refusals:
        answers.setdefault(str(status), _refusal(status, known, silent=operation.method == "HEAD"))
    shown: dict[str, Any] = {
        "operationId": _name(operation),
        "summary": operation.says,
        "description": f"Credential: {operation.access.value}.",
        "tags": [operation.subject],
        "parameters": [*map(_in_path, _IN_PATH.findall(operation.path)), *map(_in_query, operation.query)],
        "responses": dict(sorted(answers.items())),
        "security": [] if operation.access is Access.OPEN else [{"basic": []}, {"bearer": []}],
    }
    if operation.body is not None:
        shown["requestBody"] = _body(operation.body, known)
    return shown


def _name(operation: Operation) -> str:
    words = re.sub(r"[^a-z0-9]+", "_", operation.path.lower()).strip("_") or "root"
    trailing = "_slash" if operation.path.endswith("/") and len(operation.path) > 1 else ""
    return f"{operation.method.lower()}_{words}{trailing}"


def _in_path(name: str) -> dict[str, Any]:
    schema = {"type": "string", "minLength": 1, "maxLength": _LONGEST_NAME}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _in_query(one: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": one.kind}
    if one.low is not None:
        schema["minimum"] = one.low
    if one.high is not None:
        schema["maximum"] = one.high
    if one.words:
        schema["enum"] = list(one.words)
    return {"name": one.name, "in": "query", "schema": schema} | ({"description": one.says} if one.says else {})


def _body(body: Body, known: dict[str, Any]) -> dict[str, Any]:
    schema = known[repr(body.kind)] if body.kind is not None else {}
    return {"required": body.needed, "content": {body.media: {"schema": schema}}}


def _reply(reply: Reply, known: dict[str, Any]) -> dict[str, Any]:
    if reply.kind is not None:
        return {"description": reply.says, "content": {"application/json": {"schema": known[repr(reply.kind)]}}}
    if reply.media:
        schema = {"type": "string"} if reply.media.startswith("text/") else {}
        return {"description": reply.says, "content": {reply.media: {"schema": schema}}}
    return {"description": reply.says}


def _refusal(status: int, known: dict[str, Any], *, silent: bool) -> dict[str, Any]:
    if silent:
        return {"description": MEANINGS[status]}
    content = {TEXT: {"schema": {"type": "string"}}, "application/json": {"schema": known[repr(Error)]}}
    return {"description": MEANINGS[status], "content": content}
