"""How answers look to people."""

from __future__ import annotations

import base64
import io

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gateway.cli.commands import again, dead, function, status, watch
from gateway.cli.commands.invocation import described, listed, outcome, timeline, took
from gateway.cli.commands.submit import decoded
from penstock.answers import FunctionCounts, Invocation, Matched, Output, Slots, Status, Step

NOW = 1_790_000_000_000
DONE = Invocation(
    id="0123456789abcdef0123",
    function="digits",
    phase="succeeded",
    bucket="in",
    key="a\nb.png",
    size=2048,
    queued_ms=NOW - 5000,
    started_ms=NOW - 4000,
    finished_ms=NOW - 1500,
    exit_code=0,
    outputs=(Output(bucket="out", key="a.json", size=10),),
    timeline=(
        Step(phase="queued", time_ms=NOW - 5000),
        Step(phase="running", time_ms=NOW - 4000, note="here"),
        Step(phase="succeeded", time_ms=NOW - 1500),
    ),
)


def test_a_list_has_short_ids_ages_and_durations() -> None:
    head, row = listed([DONE], NOW).splitlines()
    assert head.split() == ["ID", "FUNCTION", "PHASE", "TRY", "AGE", "RAN", "INPUT", "REASON"]
    assert row.split() == ["0123456789ab", "digits", "succeeded", "1", "5s", "2.5", "s", "in/a", "b.png"]


def test_a_story_has_the_time_between_its_steps_and_the_whole() -> None:
    lines = timeline(DONE).splitlines()
    assert "+1.0 s" in lines[2]
    assert lines[2].endswith("here")
    assert "+2.5 s" in lines[3]
    assert lines[-1] == "whole time: 3.5 s"


def test_an_invocation_is_described_without_obeying_control_codes() -> None:
    text = described(DONE)
    assert r"in/a\nb.png (2.0 KiB)" in text
    assert "succeeded, exit code 0" in text
    assert "out/a.json (10 B)" in text


def test_the_outcome_is_one_line() -> None:
    assert outcome(DONE) == "0123456789ab succeeded in 2.5 s -> out/a.json"
    failed = Invocation(id="ab" * 20, function="f", phase="failed", reason="exit\ncode 3")
    assert outcome(failed) == r"abababababab failed: exit\ncode 3"


def test_what_waits_has_not_run() -> None:
    # A retry keeps the start of its last attempt.
    waiting = Invocation(id="x", function="f", phase="queued", started_ms=NOW - 1000)
    assert took(waiting, NOW) == "-"
    assert took(Invocation(id="x", function="f", phase="running", started_ms=NOW - 1000), NOW) == "1.0 s"


STATUS = Status(
    version="1",
    uptime_s=61,
    data="/d",
    functions=(
        FunctionCounts(
            name="a", queued=3, running=1, cancelled=1, skipped=1, concurrency=2, waiting_for="2 run already"
        ),
        FunctionCounts(name="b", paused=True, batch={"message": "20 items a start would be 3.1x as fast"}),
    ),
    slots=Slots(cpu_millis_total=2000, cpu_millis_used=500),
    backlog=3,
)


def test_status_says_why_things_wait_and_what_batching_would_gain() -> None:
    text = status.described(STATUS)
    assert "CPU 0.5 of 2 in use, 3 queued" in text
    assert "2 run already" in text
    assert "paused" in text
    assert text.endswith("b: 20 items a start would be 3.1x as fast")


def test_the_live_picture_shows_counts_and_changes_and_only_what_is_asked_for() -> None:
    console = Console(width=160, file=io.StringIO())
    console.print(watch.drawn(STATUS, (DONE,), NOW, "a"))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "2 run already" in text
    assert r"in/a b.png" in text
    assert "3.1x" not in text


def test_in_a_narrow_terminal_the_input_is_clipped_and_the_id_stays_whole() -> None:
    console = Console(width=60, file=io.StringIO())
    long = msgspec.structs.replace(DONE, function="a-function-of-many-words", key="deep/" * 20)
    console.print(watch.drawn(STATUS, (long,), NOW))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "0123456789ab " in text
    assert "succeeded " in text
    assert max(map(len, text.splitlines())) <= 60


def test_a_change_is_one_line() -> None:
    assert watch.line(DONE) == "0123456789ab  digits  succeeded   in/a\\nb.png"


@pytest.mark.parametrize(
    ("matched", "dry_run", "told"),
    [
        (Matched(matched=0), False, "Nothing to do"),
        (Matched(matched=1, command="c"), False, "1 invocation will run"),
        (
            Matched(matched=3, examples=("in/a", "in/b")),
            True,
            "3 invocations would run (nothing is queued):\n  in/a\n  in/b\n  and 1 more",
        ),
    ],
)
def test_what_is_ordered_is_told(matched: Matched, dry_run: bool, told: str) -> None:
    assert again.told(matched, "invocation", "match", dry_run=dry_run).startswith(told)


def test_original_bytes_are_shown_readably() -> None:
    assert dead.original(base64.b64encode(b'{"a":\t1}\nx').decode()) == '{"a":\\t1}\nx'
    assert dead.original(base64.b64encode(b"\xff\x00").decode()) == "ff 00"
    assert dead.original(base64.b64encode(b"y" * 5000).decode()).endswith("(5000 bytes in all)")


@given(st.binary())
def test_any_original_is_shown(data: bytes) -> None:
    shown = dead.original(base64.b64encode(data).decode())
    assert all(line.isprintable() for line in shown.splitlines())


def test_a_function_is_shown_without_empty_parts_and_with_its_script_last() -> None:
    found = {
        "name": "f",
        "created_ms": NOW,
        "script": "a\nb\n",
        "environment": {"A": "1"},
        "secrets": {},
        "inputs": [{"path": "in", "prefix": []}],
        "definition": {"name": "f", "cpu": 0.5, "labels": {}},
    }
    lines = function._lines(function.told(found))
    assert lines[0] == "name: f"
    assert "secrets:" not in "".join(lines)
    assert "  - path: in" in lines
    assert "  cpu: 0.5" in lines
    assert lines[-3:] == ["script: |", "  a", "  b"]


@given(st.binary(min_size=1))
def test_files_come_back_from_their_base64(data: bytes) -> None:
    assert decoded(base64.b64encode(data) + b"\n") == data


@pytest.mark.parametrize("text", [b"", b"\n", b"hello world!\n", b"{}", b"abc\n", b"\xff\xfe"])
def test_what_is_no_base64_stays_as_it_is(text: bytes) -> None:
    assert decoded(text) == text
