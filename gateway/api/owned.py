"""What of functions and of their work a caller may see: the rules of `gateway.access` applied to requests and pages."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from aiohttp import web

from gateway.access import Caller, may_change, may_see, owns_work
from gateway.api.context import CALLER, SERVICES, Services
from penstock.errors import Forbidden
from penstock.model import Function, Record, Submission
from penstock.ports import Ledger, RecordPage, RecordQuery

#: Pages of the ledger that one listing may read: a caller who owns few of very many gets a short page and a token.
MOST_PAGES = 50


async def visible(request: web.Request) -> Function:
    """The function in the path. Raises NotFound, Forbidden."""
    function = await request.app[SERVICES].registry.get(request.match_info["name"])
    if not may_see(request[CALLER], function):
        raise Forbidden(f"the function {function.name} is not shared with you")
    return function


async def changeable(request: web.Request) -> Function:
    """As `visible`, for its owner and the administrator alone."""
    function = await request.app[SERVICES].registry.get(request.match_info["name"])
    if not may_change(request[CALLER], function):
        raise Forbidden(f"the function {function.name} belongs to somebody else: only its owner may do that")
    return function


def sender(record: Record) -> str:
    """Who posted the body that a record is about, "" = nobody did."""
    return record.trigger.user if isinstance(record.trigger, Submission) else ""


def sees_record(services: Services, caller: Caller, record: Record) -> bool:
    """His functions' work, and what he sent to those of others. Work of a function that is gone is the admin's."""
    if caller.admin:
        return True
    function = services.registry.find(record.function)
    return function is not None and function.uid == record.function_uid and owns_work(caller, function, sender(record))


async def page_of(ledger: Ledger, query: RecordQuery, keep: Callable[[Record], bool]) -> RecordPage:
    """A page of those records that are kept; it may be short, and says by its token whether there is more."""
    found: list[Record] = []
    for _ in range(MOST_PAGES):
        page = await ledger.query(msgspec.structs.replace(query, limit=query.limit - len(found)))
        found += filter(keep, page.records)
        query = msgspec.structs.replace(query, page=page.next)
        if not page.next or len(found) >= query.limit:
            break
    return RecordPage(records=found, next=query.page)
