"""Which functions an event concerns."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.routing import RoutingTable, takes
from penstock.identity import invocation_id
from penstock.model import ErrorClass, Phase, StorageIO, Submission
from tests.factories import NOW, make_event, make_function


def _local(bucket: str, folder: str = "", **filters: Any) -> StorageIO:
    return StorageIO(provider="local", bucket=bucket, folder=folder, **filters)


def test_an_event_goes_to_every_function_whose_input_holds_it() -> None:
    a, b = make_function("a"), make_function("b")
    other = make_function("other", inputs=(_local("photos", "elsewhere"),))
    routed = RoutingTable([a, b, other]).route(make_event())
    assert {entry.function.name for entry in routed} == {"a", "b"}


def test_two_inputs_of_one_function_that_overlap_start_it_once() -> None:
    function = make_function(inputs=(_local("photos"), _local("photos", "in")))
    assert len(RoutingTable([function]).route(make_event())) == 1


@pytest.mark.parametrize("key", ["inner/a.png", "in", "other/in/a.png", "In/a.png"])
def test_a_folder_is_matched_as_a_whole(key: str) -> None:
    assert RoutingTable([make_function()]).route(make_event(key)) == []


def test_filters_look_at_the_name_below_the_folder() -> None:
    function = make_function(inputs=(_local("photos", "in", prefix=("a",), suffix=(".png", ".jpg")),))
    table = RoutingTable([function])
    assert table.route(make_event("in/a/b.jpg"))
    assert not table.route(make_event("in/b.png"))
    assert not table.route(make_event("in/a.gif"))


def test_what_arrived_before_the_function_was_made_does_not_start_it() -> None:
    function = make_function(start_ms=NOW)
    table = RoutingTable([function])
    assert not table.route(make_event(arrived_ms=NOW - 1))
    assert table.route(make_event(arrived_ms=NOW, time_ms=NOW - 10**9)), "an old file moved in now is new"


def test_a_folder_marker_is_skipped_with_a_reason() -> None:
    [routed] = RoutingTable([make_function()]).route(make_event("in/sub/"))
    assert routed.phase is Phase.SKIPPED
    assert "folder marker" in routed.reason


def test_the_hop_limit_ends_a_loop() -> None:
    table = RoutingTable([make_function(max_hops=3)])
    assert table.route(make_event(hops=2))[0].phase is None
    [routed] = table.route(make_event(hops=3))
    assert (routed.phase, routed.error) == (Phase.SKIPPED, ErrorClass.HOP_LIMIT)
    assert "max_hops" in routed.reason
    assert table.route(make_event(hops=None))[0].phase is None, "unknown: the input stage reads it"


def test_a_submission_goes_to_its_function_alone() -> None:
    a, b = make_function("a"), make_function("b")
    submission = Submission(function="a", function_uid=a.uid, id="s1", time_ms=NOW)
    [routed] = RoutingTable([a, b]).route(submission)
    assert routed.function is a
    assert routed.invocation == invocation_id(a.uid, submission.identity)


def test_a_submission_of_a_deleted_function_is_cancelled() -> None:
    [routed] = RoutingTable([]).route(Submission(function="gone", function_uid="u", id="s1", time_ms=NOW))
    assert routed.phase is Phase.CANCELLED
    assert "gone" in routed.reason


def test_inputs_on_other_stores_do_not_route() -> None:
    function = make_function(inputs=(StorageIO(provider="webdav", bucket="photos", folder="in"),))
    assert RoutingTable([function]).route(make_event()) == []
    assert not takes(function, "photos", "in/a.png")


@given(st.text(min_size=1), st.text())
def test_routing_and_takes_agree_for_every_key(folder: str, key: str) -> None:
    function = make_function(inputs=(_local("photos", folder.strip("/")),))
    routed = RoutingTable([function]).route(make_event(key))
    assert bool(routed) == takes(function, "photos", key)
