"""The operations on nodes, `/v1/nodes`, which the gateway hands on to the scaler."""

from __future__ import annotations

from gateway.openapi.model import Access, Body, Operation, Parameter, Reply
from scaler.interface.answers import (
    ExplanationView,
    NodeList,
    NodeView,
    RequestDocument,
    RequestList,
    RequestView,
)
from scaler.interface.ledger import LedgerReport

_SUBJECT = "Nodes"
_REQUESTS = "/v1/nodes/-/requests"


def _operation(
    method: str,
    path: str,
    says: str,
    reply: Reply,
    *,
    status: int = 200,
    query: tuple[Parameter, ...] = (),
    body: Body | None = None,
    errors: tuple[int, ...] = (),
) -> Operation:
    """404 = there is no such thing, or no scaler; 400 = a parameter that is not known."""
    return Operation(
        method=method,
        path=path,
        subject=_SUBJECT,
        says=says,
        access=Access.ADMIN,
        replies={status: reply},
        query=query,
        body=body,
        errors=(400, 404, *errors),
    )


_NODE = Reply(says="The node", kind=NodeView)
_REQUEST = Reply(says="The request", kind=RequestView)
_WORDS = {
    "on": "Order it on; maximums and caps hold for people too.",
    "off": "Take it out and power it off. With work on it only by force, which waits for the work's end.",
    "enable": "Let the scaler switch it again.",
    "disable": "Keep the scaler from switching it.",
    "reset": "Forget its failures and waits.",
}

OPERATIONS = (
    _operation("GET", "/v1/nodes", "Every node, and why it stays as it is.", Reply(says="Nodes", kind=NodeList)),
    _operation(
        "GET",
        "/v1/nodes/-/explain",
        "The last decision with its reasons.",
        Reply(says="The decision", kind=ExplanationView),
    ),
    _operation(
        "GET",
        "/v1/nodes/-/ledger",
        "Energy and money of a month, beside the same pools always on.",
        Reply(says="The books", kind=LedgerReport),
        query=(Parameter(name="month", says="like 2026-11; else the present one"),),
    ),
    _operation("GET", _REQUESTS, "Requests for room.", Reply(says="Requests", kind=RequestList)),
    _operation(
        "POST",
        _REQUESTS,
        "Ask for room before any pod exists.",
        _REQUEST,
        status=201,
        body=Body(kind=RequestDocument),
        errors=(409, 422),
    ),
    _operation("GET", f"{_REQUESTS}/{{id}}", "One request.", _REQUEST),
    _operation("DELETE", f"{_REQUESTS}/{{id}}", "Withdraw it.", _REQUEST),
    _operation("GET", "/v1/nodes/{name}", "One node.", _NODE),
    *(
        _operation(
            "POST",
            f"/v1/nodes/{{name}}/{word}",
            says,
            Reply(says="Ordered", kind=NodeView),
            status=202,
            query=(Parameter(name="force", kind="boolean"),) if word == "off" else (),
            errors=(409, 413, 422),
        )
        for word, says in _WORDS.items()
    ),
)
