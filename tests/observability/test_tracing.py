"""Trace context: what is taken from others, what is worked out, and what the spans of an ended invocation are."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.lifecycle import queued, settle
from dispatcher.settings import DispatcherSettings
from penstock.codec import decode_record, decode_trigger, encode
from penstock.model import ErrorClass, ItemResult, JobItem, Phase, Record, Submission
from penstock.model.objects import META_TRACE, BucketEvent, ObjectInfo, Origin
from penstock.spans import document, spans_of
from penstock.tracing import TRACEPARENT, parsed, span_id, trace_id, traceparent
from tests.factories import NOW, make_event, make_function
from watcher.translate import translate

FORM = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        (GIVEN, GIVEN),
        (f"  {GIVEN}\n", GIVEN),
        (GIVEN.replace("00-", "01-", 1) + "-more", GIVEN),  # a later version: what we know of it
        (GIVEN + "-more", ""),  # version 00 has no more
        (GIVEN.replace("00-", "ff-", 1), ""),
        (GIVEN.upper(), ""),
        ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", ""),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01", ""),
        ("", ""),
        ("$(reboot)", ""),
    ],
)
def test_what_others_say_is_taken_only_if_it_is_a_context(text: str, taken: str) -> None:
    assert parsed(text) == taken


@given(st.text(max_size=80))
def test_whatever_stands_there_the_result_is_a_context_or_nothing(text: str) -> None:
    found = parsed(text)
    assert not found or FORM.fullmatch(found)


@given(st.text(max_size=40), st.text(min_size=1, max_size=40), st.sampled_from(["", GIVEN]))
def test_what_is_worked_out_is_a_context_and_always_the_same(identity: str, invocation: str, parent: str) -> None:
    made = traceparent(parent, identity, invocation)
    assert parsed(made) == made == traceparent(parent, identity, invocation)
    assert made[3:35] == (parent[3:35] or trace_id("", identity))
    assert made[36:52] == span_id(invocation) != span_id(invocation, "0/run")


def test_all_functions_on_one_object_are_in_one_trace_and_a_chain_goes_on_with_it() -> None:
    event = make_event()
    first, other = (JobItem(invocation=name, attempt=1, trigger=event) for name in ("one", "two"))
    assert first.traceparent[:36] == other.traceparent[:36]
    assert first.traceparent != other.traceparent
    output = ObjectInfo(
        bucket="b", key="k", etag="e", size=1, modified_ms=NOW, arrived_ms=NOW, metadata={META_TRACE: first.traceparent}
    )
    following = JobItem(invocation="next", attempt=1, trigger=BucketEvent.of(output, Origin.PUSH))
    assert following.traceparent[:36] == first.traceparent[:36]
    assert following.trigger.trace == first.traceparent


def test_a_repeat_with_another_context_is_the_same_object() -> None:
    assert make_event().identity == make_event(trace=GIVEN).identity


def test_an_event_from_before_there_were_traces_can_be_read() -> None:
    old: dict[str, Any] = msgspec.json.decode(encode(make_event()))
    del old["trace"]
    assert decode_trigger(msgspec.json.encode(old)) == make_event()


def test_the_store_s_notification_tells_the_context() -> None:
    item = {"key": "a", "size": 1, "eTag": "e", "sequencer": "17E2A5B6C3D4E5F6"}
    for metadata, wanted in (({f"X-Amz-Meta-{TRACEPARENT.title()}": GIVEN}, GIVEN), ({}, ""), (None, "")):
        told = item if metadata is None else item | {"userMetadata": metadata}
        body = {
            "EventName": "s3:ObjectCreated:Put",
            "Key": "b/a",
            "Records": [{"eventName": "s3:ObjectCreated:Put", "s3": {"bucket": {"name": "b"}, "object": told}}],
        }
        (event,) = translate(msgspec.json.encode(body)).events
        assert event.trace == wanted


# ---- spans


def ended(record: Record, **changes: Any) -> Record:
    """A record planned, started and settled, by the dispatcher's own steps."""
    result = ItemResult(invocation=record.id, attempt=record.attempt, started_ms=NOW + 900, finished_ms=NOW + 1500)
    result = msgspec.structs.replace(result, **changes)
    planned = msgspec.structs.replace(
        record, phase=Phase.PLANNED, job="job", timeline=(*record.timeline, _mark(record, Phase.PLANNED, NOW + 300))
    )
    return settle(planned, result, retries=0, settings=DispatcherSettings(), now=NOW + 1600, epoch=1)


def _mark(record: Record, phase: Phase, time_ms: int) -> Any:
    return msgspec.structs.replace(record.timeline[0], phase=phase, time_ms=time_ms)


def values(span: dict[str, Any]) -> dict[str, str]:
    return {one["key"]: next(iter(one["value"].values())) for one in span["attributes"]}


def test_the_spans_of_an_invocation_follow_each_other_below_it() -> None:
    event = make_event(trace=GIVEN)
    record = ended(queued("inv", make_function(), event, now=NOW + 100, epoch=1))
    whole, *steps = spans_of(record)
    assert (whole["traceId"], whole["parentSpanId"]) == (GIVEN[3:35], GIVEN[36:52])
    assert whole["spanId"] == JobItem(invocation="inv", attempt=1, trigger=event).traceparent[36:52]
    assert (whole["startTimeUnixNano"], whole["endTimeUnixNano"]) == (f"{NOW}000000", f"{NOW + 1600}000000")
    assert whole["status"] == {"code": 1}
    assert values(whole)["faas.document.name"] == event.key
    assert [step["name"] for step in steps] == ["notice", "wait", "start", "run"]
    assert {step["parentSpanId"] for step in steps} == {whole["spanId"]}
    begins = [step["startTimeUnixNano"] for step in steps]
    assert [step["endTimeUnixNano"] for step in steps] == [*begins[1:], whole["endTimeUnixNano"]]
    assert len({span["spanId"] for span in (whole, *steps)}) == 5


def test_a_failure_says_why() -> None:
    record = queued("inv", make_function(), make_event(), now=NOW, epoch=1)
    whole = spans_of(ended(record, error=ErrorClass.SCRIPT, exit_code=3, message="the script ended with 3"))[0]
    assert whole["status"] == {"code": 2, "message": "the script ended with 3"}
    assert (values(whole)["process.exit.code"], values(whole)["error.type"]) == ("3", "script")
    assert "parentSpanId" not in whole


@given(st.lists(st.tuples(st.sampled_from(list(Phase)), st.integers(0, 2 * NOW), st.integers(1, 3)), max_size=12))
def test_no_span_ends_before_it_begins(lines: list[tuple[Phase, int, int]]) -> None:
    record = queued("inv", make_function(), make_event(), now=NOW, epoch=1)
    marks = tuple(
        msgspec.structs.replace(record.timeline[0], phase=phase, time_ms=time_ms, attempt=attempt)
        for phase, time_ms, attempt in lines
    )
    found = spans_of(msgspec.structs.replace(record, phase=Phase.DEAD, timeline=marks))
    assert all(int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"]) for span in found)
    assert len({span["spanId"] for span in found}) == len(found)


def test_a_posted_body_is_a_trace_too() -> None:
    trigger = Submission(function="f", function_uid="u", id="s", time_ms=NOW, trace=GIVEN)
    whole = spans_of(ended(queued("inv", make_function(), trigger, now=NOW, epoch=1)))[0]
    assert whole["parentSpanId"] == GIVEN[36:52]
    assert values(whole)["faas.trigger"] == "http"


def test_the_document_says_whose_spans_they_are() -> None:
    record = ended(queued("inv", make_function(), make_event(), now=NOW, epoch=1))
    told = document([record, record], version="1.2")["resourceSpans"][0]
    assert values(told["resource"]) == {"service.name": "penstock"}
    assert told["scopeSpans"][0]["scope"] == {"name": "penstock", "version": "1.2"}
    assert len(told["scopeSpans"][0]["spans"]) == 2 * len(spans_of(record))


def test_the_history_keeps_the_context() -> None:
    record = queued("inv", make_function(), make_event(trace=GIVEN), now=NOW, epoch=1)
    assert decode_record(encode(record)).trigger.trace == GIVEN
