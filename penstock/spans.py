"""From the history of an invocation to the spans of a trace, in OpenTelemetry's JSON. Pure.

A span is made when an invocation has ended, from its record alone: nothing is measured for traces that the history does
not have anyway, and a trace can be made again at any time. One span is the invocation, from the object's appearance to
its last output; below it lies one for each step that took time: notice, wait, start, run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from penstock.model import BucketEvent, Phase, Record
from penstock.tracing import span_id, trace_id

Json = dict[str, Any]

#: What a step is called that begins with this phase.
_STEPS = {Phase.QUEUED: "wait", Phase.PLANNED: "start", Phase.SUBMITTED: "start", Phase.RUNNING: "run"}
_CONSUMER, _INTERNAL = 5, 1
_OK, _ERROR = 1, 2


def spans_of(record: Record) -> list[Json]:
    """The spans of an invocation that has ended: its own first."""
    trigger = record.trigger
    trace = trace_id(trigger.trace, trigger.identity)
    came_ms = trigger.arrived_ms if isinstance(trigger, BucketEvent) else trigger.time_ms
    end_ms = max(record.finished_ms, record.timeline[-1].time_ms if record.timeline else 0, came_ms)
    mine = span_id(record.id)
    whole = _span((trace, mine, trigger.trace[36:52]), record.function, came_ms, end_ms, kind=_CONSUMER)
    whole["attributes"] = _attributes(record)
    whole["status"] = _status(record)
    steps = [
        _span((trace, span_id(record.id, f"{number}/{name}"), mine), name, begin, end)
        | {"attributes": [_attribute("penstock.attempt", attempt)]}
        for number, (name, attempt, begin, end) in enumerate(_steps(record, came_ms, end_ms))
    ]
    return [whole, *steps]


def _steps(record: Record, came_ms: int, end_ms: int) -> Iterator[tuple[str, int, int, int]]:
    """(name, attempt, begin, end) between two lines of the timeline; neighbours of one name are one."""
    marks = [("notice", 1, came_ms)]
    for mark in record.timeline:
        name = _STEPS.get(mark.phase, "")
        if (name, mark.attempt) != marks[-1][:2]:
            marks.append((name, mark.attempt, mark.time_ms))
    ends = [begin for _, _, begin in marks[1:]] + [end_ms]
    for (name, attempt, begin), end in zip(marks, ends, strict=True):
        if name:
            # Times of a pod come from its node's clock.
            yield name, attempt, begin, max(begin, end)


def _span(ids: tuple[str, str, str], name: str, begin_ms: int, end_ms: int, *, kind: int = _INTERNAL) -> Json:
    """`ids` = trace, own, parent's. Numbers of 64 bits are text in this JSON."""
    trace, span, parent = ids
    return {
        "traceId": trace,
        "spanId": span,
        **({"parentSpanId": parent} if parent else {}),
        "name": name,
        "kind": kind,
        "startTimeUnixNano": str(begin_ms * 1_000_000),
        "endTimeUnixNano": str(end_ms * 1_000_000),
    }


def _attributes(record: Record) -> list[Json]:
    """Names of OpenTelemetry's conventions for functions where there are any."""
    trigger = record.trigger
    found: dict[str, str | int] = {
        "faas.invocation_id": record.id,
        "faas.invoked_name": record.function,
        "penstock.function.uid": record.function_uid,
        "penstock.phase": record.phase.value,
        "penstock.attempts": record.attempt,
        "penstock.job": record.job,
        "penstock.outputs": len(record.outputs),
    }
    if isinstance(trigger, BucketEvent):
        found |= {"faas.trigger": "datasource", "faas.document.collection": trigger.bucket}
        found |= {"faas.document.name": trigger.key, "penstock.origin": trigger.origin.value}
    else:
        found["faas.trigger"] = "http"
    if record.exit_code is not None:
        found["process.exit.code"] = record.exit_code
    if record.error is not None:
        found["error.type"] = record.error.value
    return [_attribute(name, value) for name, value in found.items() if value != ""]


def _attribute(name: str, value: str | int) -> Json:
    said: Json = {"stringValue": value} if isinstance(value, str) else {"intValue": str(value)}
    return {"key": name, "value": said}


def _status(record: Record) -> Json:
    if record.phase is Phase.SUCCEEDED:
        return {"code": _OK}
    return {"code": _ERROR, "message": record.reason[:1000]}


def document(records: Sequence[Record], *, version: str) -> Json:
    """The body of a post to `/v1/traces`."""
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": [_attribute("service.name", "penstock")]},
                "scopeSpans": [
                    {
                        "scope": {"name": "penstock", "version": version},
                        "spans": [span for record in records for span in spans_of(record)],
                    }
                ],
            }
        ]
    }
