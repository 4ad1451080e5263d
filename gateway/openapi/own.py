"""The operations of Penstock's own interface, `/v1`, and the probes."""

from __future__ import annotations

from typing import Any

from gateway.api.functions import ApplyOrder
from gateway.api.history import RunAgainOrder
from gateway.openapi.model import BYTES, EVENTS, TEXT, Access, Body, Operation, Parameter, Reply
from gateway.openapi.shapes import (
    BucketCreated,
    Command,
    DeadEntry,
    Functions,
    FunctionShown,
    Ready,
    StoredInfo,
    Submitted,
    Validated,
)
from penstock import answers

_PROBES, _FUNCTIONS, _WORK = "Probes", "Functions", "Invocations"
_DEAD, _OBJECTS = "Dead letters", "Buckets and objects"


def _limit(high: int) -> Parameter:
    return Parameter(name="limit", kind="integer", low=1, high=high)


_AGAIN = {
    200: Reply(says="A dry run's count", kind=answers.Matched),
    202: Reply(says="Ordered", kind=answers.Matched),
}
_ORDERED = {202: Reply(says="Ordered", kind=Command)}
_DONE = {204: Reply(says="Done")}


def _probe(path: str, says: str, replies: dict[int, Reply], access: Access = Access.OPEN) -> Operation:
    return Operation(method="GET", path=path, subject=_PROBES, says=says, access=access, replies=replies)


_TEXT = Reply(says="Text", media=TEXT)
_PAGE = Reply(says="A page", media="text/html")

PROBES = (
    _probe("/health", "The process answers.", {200: _TEXT}),
    _probe(
        "/ready",
        "Every part is up.",
        {200: Reply(says="Ready", kind=Ready), 503: Reply(says="What is missing", kind=Ready)},
    ),
    _probe("/metrics", "For Prometheus; without a credential on this machine.", {200: _TEXT}, Access.ADMIN),
    _probe("/openapi.json", "This document.", {200: Reply(says="OpenAPI 3.1", kind=dict[str, Any])}),
    _probe("/", "Where to go.", {200: _PAGE}),
    _probe("/ui", "Where to go.", {200: _PAGE}),
    _probe("/ui/api", "This document as a page.", {200: _PAGE}),
)

FUNCTIONS = (
    Operation(
        method="GET",
        path="/v1/status",
        subject=_FUNCTIONS,
        says="What every function has done, what waits, and why.",
        replies={200: Reply(says="Status", kind=answers.Status)},
    ),
    Operation(
        method="POST",
        path="/v1/validate",
        subject=_FUNCTIONS,
        says="Check an FDL text; nothing changes. As JSON with its scripts beside it, or as plain text.",
        body=Body(kind=ApplyOrder),
        replies={200: Reply(says="What it defines", kind=Validated)},
    ),
    Operation(
        method="POST",
        path="/v1/apply",
        subject=_FUNCTIONS,
        says="Deploy an FDL text: all of its functions or none.",
        query=(Parameter(name="dry_run", kind="boolean"),),
        body=Body(kind=ApplyOrder),
        errors=(409, 422, 507),
        replies={200: Reply(says="What was done", kind=answers.Applied)},
    ),
    Operation(
        method="GET",
        path="/v1/functions",
        subject=_FUNCTIONS,
        says="Definitions and counts.",
        replies={200: Reply(says="Functions", kind=Functions)},
    ),
    Operation(
        method="GET",
        path="/v1/functions/{name}",
        subject=_FUNCTIONS,
        says="One function.",
        errors=(404,),
        replies={200: Reply(says="The function", kind=FunctionShown)},
    ),
    Operation(
        method="DELETE",
        path="/v1/functions/{name}",
        subject=_FUNCTIONS,
        says="Delete a function; buckets and objects stay.",
        errors=(404,),
        replies=_DONE,
    ),
    *(
        Operation(
            method="POST",
            path=f"/v1/functions/{{name}}/{word}",
            subject=_FUNCTIONS,
            says=says,
            errors=(404, 409),
            replies=_DONE,
        )
        for word, says in (("pause", "Start nothing new."), ("resume", "Go on after a pause."))
    ),
    *(
        Operation(
            method="POST",
            path=f"/v1/functions/{{name}}/{word}",
            subject=_FUNCTIONS,
            says=says,
            body=Body(kind=RunAgainOrder, needed=False),
            errors=(404,),
            replies=_AGAIN,
        )
        for word, says in (("backfill", "Queue objects that never ran."), ("replay", "Run again what failed."))
    ),
    Operation(
        method="POST",
        path="/v1/functions/{name}/submit",
        subject=_WORK,
        says="Post a body; answers when it is durable.",
        access=Access.INVOKE,
        body=Body(media=BYTES, needed=False),
        errors=(404, 507),
        replies={201: Reply(says="Accepted", kind=Submitted)},
    ),
    Operation(
        method="POST",
        path="/v1/functions/{name}/run",
        subject=_WORK,
        says="Post a body and wait for the answer.",
        access=Access.INVOKE,
        query=(Parameter(name="timeout_s", kind="number", says="seconds, up to a day"),),
        body=Body(media=BYTES, needed=False),
        errors=(404, 500, 504, 507),
        replies={200: Reply(says="The function's own answer", media=TEXT)},
    ),
)

WORK = (
    Operation(
        method="GET",
        path="/v1/invocations",
        subject=_WORK,
        says="A page of invocations, newest first.",
        query=(
            Parameter(name="function"),
            Parameter(name="phase", says="several with commas between"),
            Parameter(name="since_ms", kind="integer", low=0),
            Parameter(name="until_ms", kind="integer", low=0),
            Parameter(name="prefix", says="of BUCKET/KEY"),
            _limit(1000),
            Parameter(name="page"),
            Parameter(name="oldest", kind="boolean"),
        ),
        errors=(400,),
        replies={200: Reply(says="A page", kind=answers.InvocationPage)},
    ),
    Operation(
        method="GET",
        path="/v1/invocations/{id}",
        subject=_WORK,
        says="One invocation with its timeline; the beginning of its id is enough if it is unique.",
        errors=(400, 404),
        replies={200: Reply(says="The invocation", kind=answers.Invocation)},
    ),
    Operation(
        method="GET",
        path="/v1/invocations/{id}/log",
        subject=_WORK,
        says="What its script wrote.",
        query=(
            Parameter(name="attempt", kind="integer", low=1, high=10_000),
            Parameter(name="offset", kind="integer", low=0),
            Parameter(name="follow", kind="boolean"),
        ),
        errors=(400, 404),
        replies={200: _TEXT},
    ),
    Operation(
        method="POST",
        path="/v1/invocations/{id}/cancel",
        subject=_WORK,
        says="Cancel it unless it ends by itself before.",
        errors=(400, 404, 409),
        replies=_ORDERED,
    ),
    Operation(
        method="GET",
        path="/v1/changes",
        subject=_WORK,
        says="Every change of phase from now on, as server-sent events.",
        replies={200: Reply(says="A stream", media=EVENTS)},
    ),
    Operation(
        method="GET",
        path="/v1/dead",
        subject=_DEAD,
        says="What needs a person.",
        access=Access.ADMIN,
        query=(_limit(1000),),
        errors=(400,),
        replies={200: Reply(says="Dead letters", kind=answers.DeadList)},
    ),
    Operation(
        method="GET",
        path="/v1/dead/{id}",
        subject=_DEAD,
        says="One, whole.",
        access=Access.ADMIN,
        errors=(404,),
        replies={200: Reply(says="The letter or invocation", kind=DeadEntry)},
    ),
    Operation(
        method="POST",
        path="/v1/dead/{id}/retry",
        subject=_DEAD,
        says="Once more.",
        access=Access.ADMIN,
        errors=(404,),
        replies=_ORDERED,
    ),
    Operation(
        method="DELETE",
        path="/v1/dead/{id}",
        subject=_DEAD,
        says="Drop an event.",
        access=Access.ADMIN,
        errors=(404, 422),
        replies=_ORDERED,
    ),
)

_KEY = "/v1/buckets/{bucket}/objects/{key}"

OBJECTS = (
    Operation(
        method="GET",
        path="/v1/buckets",
        subject=_OBJECTS,
        says="Every bucket that the caller may read.",
        replies={200: Reply(says="Buckets", kind=list[answers.Bucket])},
    ),
    Operation(
        method="PUT",
        path="/v1/buckets/{bucket}",
        subject=_OBJECTS,
        says="Make sure that a bucket is there.",
        errors=(400, 409, 507),
        replies={
            200: Reply(says="There already", kind=BucketCreated),
            201: Reply(says="Made now", kind=BucketCreated),
        },
    ),
    Operation(
        method="GET",
        path="/v1/buckets/{bucket}/objects",
        subject=_OBJECTS,
        says="Objects in the order of their keys.",
        query=(Parameter(name="prefix"), Parameter(name="after", says="a key"), _limit(10_000)),
        errors=(400, 404),
        replies={200: Reply(says="A page", kind=answers.ObjectPage)},
    ),
    Operation(
        method="PUT",
        path=_KEY,
        subject=_OBJECTS,
        says="Upload; the object appears whole or not at all.",
        body=Body(media=BYTES, needed=False),
        errors=(404, 409, 422, 507),
        replies={201: Reply(says="The object", kind=StoredInfo)},
    ),
    Operation(
        method="GET",
        path=_KEY,
        subject=_OBJECTS,
        says="Download; `Range` with one range is honoured.",
        errors=(400, 404, 416, 422),
        replies={200: Reply(says="Bytes", media=BYTES), 206: Reply(says="A part", media=BYTES)},
    ),
    Operation(
        method="HEAD",
        path=_KEY,
        subject=_OBJECTS,
        says="The headers alone.",
        errors=(400, 404, 422),
        replies={200: Reply(says="No body")},
    ),
    Operation(
        method="DELETE",
        path=_KEY,
        subject=_OBJECTS,
        says="Delete; no error when there was nothing.",
        errors=(400, 404, 422),
        replies=_DONE,
    ),
)

OPERATIONS = (*PROBES, *FUNCTIONS, *WORK, *OBJECTS)
