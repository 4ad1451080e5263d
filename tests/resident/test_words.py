"""Variables of a request, media types of answers, and the frames between gateway and pod."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.sidecar.calls import Reply, Unframer, decode_call, decode_reply, frame
from dispatcher.sidecar.turns import RESTART, STUBBORN, Outcome, Turns
from dispatcher.sidecar.words import Exit, Hello
from gateway.resident.facts import Deployment, Pod, address_of, generation_of, trouble_of
from gateway.resident.history import record_of
from gateway.resident.variables import echoed_type, http_variables
from penstock.errors import InvalidInput
from penstock.model import ErrorClass, Function, ItemResult, Phase
from tests.resident.local import call

HEADERS = [
    *(("X-My-header", "a b"), ("content-type", "text/plain"), ("Authorization", "Bearer secret"), ("Cookie", "secret")),
    *(("Proxy-Authorization", "secret"), ("Empty", ""), ("Bad_Name", "x"), ("X-Zero", "a\0b"), ("Host", "h")),
]


def test_a_script_sees_the_request_and_never_who_proved_himself() -> None:
    found = http_variables("POST", "/run/f", "a=1", HEADERS, 5)
    assert found == {
        "Http_Method": "POST",
        "Http_ContentLength": "5",
        "Http_Content_Length": "5",
        "Http_Path": "/run/f",
        "Http_Query": "a=1",
        "Http_X_My_Header": "a b",
        "Http_Content_Type": "text/plain",
        "Http_Host": "h",
    }
    assert (
        sum(map(len, http_variables("GET", "/", "", [(f"X-{n}", "v" * 1000) for n in range(99)], 0).values())) < 65536
    )


@pytest.mark.parametrize(
    "live", ["text/html", "image/svg+xml", "application/xhtml+xml", "text/javascript", "", "a\nb/c"]
)
def test_an_answer_is_never_a_page(live: str) -> None:
    assert echoed_type(live) == "text/plain"
    assert echoed_type("application/json; charset=utf-8") == "application/json; charset=utf-8"


@given(body=st.binary(max_size=2000), cuts=st.lists(st.integers(0, 3000), max_size=6))
def test_a_frame_comes_back_however_it_is_cut(body: bytes, cuts: list[int]) -> None:
    given_call = call(body, variables={"Http_Ü": "ü"})
    data = frame(given_call) + body
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    head = Unframer(10_000)
    rest = b""
    for start, end in itertools.pairwise(places):
        piece = data[start:end]
        if head.head is not None:
            rest += piece
        elif head.feed(piece):
            rest = head.rest
    assert decode_call(head.head or b"") == given_call
    assert rest == body


@given(data=st.binary(max_size=100))
def test_what_is_no_frame_is_refused_or_waited_for(data: bytes) -> None:
    head = Unframer(50)
    try:
        there = head.feed(data)
    except InvalidInput:
        return
    if not there:
        assert len(data) < 64
    else:
        assert head.head is not None
        assert len(head.head) <= 50


def test_a_result_of_any_size_is_a_reply() -> None:
    result = ItemResult(invocation="i", attempt=1, message="x" * 100_000)
    head = Unframer(10**6)
    assert head.feed(frame(Reply(result=result)) + b"answer")
    assert (decode_reply(head.head or b"").result, head.rest) == (result, b"answer")


# The launcher's turns


def test_a_run_is_started_ends_and_the_next_has_the_next_number() -> None:
    turns = Turns(grace_s=5)
    assert turns.hear(Hello()) == []
    assert turns.start(0, 60) == ["ready 0"]
    assert turns.hear(Exit(0, 3)) == []
    assert (turns.outcome, turns.running, turns.number) == (Outcome(3), False, 1)
    assert turns.start(1, 60) == ["ready 1"]
    assert turns.hear(Exit(1, 137, oom=True)) == []
    assert turns.outcome == Outcome(137, ErrorClass.OUT_OF_MEMORY)


def test_a_deadline_is_said_until_it_is_heard_and_then_the_launcher_goes() -> None:
    turns = Turns(grace_s=5)
    turns.hear(Hello())
    turns.start(0, 10)
    assert (turns.next_s(4), turns.tick(9.9)) == (6, [])
    assert turns.tick(10) == ["cancel 0"]
    assert turns.tick(14.9) == [], "it has its grace"
    now, words = 15.0, [turns.tick(15)]
    while RESTART not in words[-1]:
        now += 1
        words.append(turns.tick(now))
    assert len(words) == STUBBORN - 1
    turns.lost()
    assert turns.outcome == Outcome(None, ErrorClass.DEADLINE)
    assert (turns.up, turns.number, turns.next_s(now)) == (False, 0, None)


def test_the_first_reason_counts_and_forged_words_change_nothing_else() -> None:
    turns = Turns(grace_s=5)
    turns.hear(Hello())
    turns.start(0, 10)
    turns.hear(Exit(0, 0))
    turns.start(1, 10)
    assert turns.hear(Exit(0, 7)) == ["ready 1"], "the launcher was not done and has dropped our word"
    assert turns.hear(Exit(5, 7)) == []
    turns.hear(Hello())
    assert (turns.running, turns.number) == (True, 1)
    assert turns.stop(2, ErrorClass.CANCELLED, "left") == ["cancel 1"]
    assert turns.tick(20) == ["cancel 1"]
    turns.hear(Exit(1, 143))
    assert turns.outcome == Outcome(143, ErrorClass.CANCELLED, "left")


def test_a_container_that_went_away_says_so() -> None:
    turns = Turns(grace_s=5)
    turns.hear(Hello())
    turns.start(0, 10)
    turns.lost()
    assert turns.outcome is not None
    assert turns.outcome.why is ErrorClass.KILLED
    assert "memory" in turns.outcome.why_text


# Facts and history


def test_a_pod_is_asked_while_it_has_an_address_and_stays() -> None:
    pod = msgspec.convert(
        {"metadata": {"name": "p", "labels": {"penstock.dev/generation": "3"}}, "status": {"podIP": "10.0.0.1"}}, Pod
    )
    assert (address_of(pod), generation_of(pod.metadata)) == ("http://10.0.0.1:18080", 3)
    six = msgspec.convert({"metadata": {"name": "p"}, "status": {"podIP": "fd00::1"}}, Pod)
    assert address_of(six) == "http://[fd00::1]:18080"
    leaving = {"metadata": {"name": "p", "deletionTimestamp": "now"}, "status": {"podIP": "10.0.0.1"}}
    assert address_of(msgspec.convert(leaving, Pod)) == ""
    assert msgspec.convert({"metadata": {"name": "d"}}, Deployment).spec.replicas == 0


def test_why_a_pod_does_not_start_is_told() -> None:
    waits = {"reason": "ErrImagePull", "message": "not found"}
    status = {"containerStatuses": [{"name": "oscar-container", "state": {"waiting": waits}}]}
    pod = msgspec.convert({"metadata": {"name": "p"}, "status": status}, Pod)
    assert trouble_of(pod) == "the container oscar-container waits: ErrImagePull not found"
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    pod = msgspec.convert({"metadata": {"name": "p"}, "status": {"conditions": [condition]}}, Pod)
    assert trouble_of(pod) == "there is no node for it: 0/1 nodes"


@pytest.mark.parametrize(
    ("error", "phase"),
    [
        (None, Phase.SUCCEEDED),
        (ErrorClass.SCRIPT, Phase.FAILED),
        (ErrorClass.DEADLINE, Phase.FAILED),
        (ErrorClass.INVALID, Phase.FAILED),
        (ErrorClass.CANCELLED, Phase.CANCELLED),
        (ErrorClass.PUBLISH, Phase.DEAD),
    ],
)
def test_a_run_is_one_final_record_with_its_whole_story(error: ErrorClass | None, phase: Phase) -> None:
    made = call()
    result = ItemResult(invocation=made.invocation, attempt=1, error=error, started_ms=20, finished_ms=30)
    record = record_of(Function(name="f", uid="u"), made.submission, result, pod="pod-1", begun_ms=15, now=31)
    assert (record.phase, record.job, record.attempt, record.id) == (phase, "pod-1", 1, made.invocation)
    assert [mark.phase for mark in record.timeline] == [Phase.QUEUED, Phase.PLANNED, Phase.RUNNING, phase]
    assert record.phase.final, "anything else would be run again by the next dispatcher"
