"""Notification rules: what a bucket should have, whatever it has."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from penstock.adapters.s3.notifications import CREATED, Rule
from watcher.rules import desired, is_ours, merged, safe_filter

ARNS = ["arn:minio:sqs::P:webhook", "arn:minio:sqs::P:kafka"]
OWNER = "penstock"

prefixes = st.text(max_size=40) | st.sampled_from(["", "in/", "a*b/", "./x/", "a/../b/", "back\\slash/", "ü/日本/"])
rules = st.builds(
    Rule,
    id=st.sampled_from(["somebody", "penstock-old", "penstockx", "", "penstock-0"]),
    arn=st.sampled_from(ARNS),
    prefix=st.text(max_size=5),
)


def test_each_target_hears_of_the_fewest_prefixes_by_the_four_events() -> None:
    wanted = desired({"b": ["in/", "in/deep/", "other/"]}, ARNS, OWNER)["b"]
    assert {(rule.arn, rule.prefix) for rule in wanted} == {(arn, at) for arn in ARNS for at in ("in/", "other/")}
    assert {rule.events for rule in wanted} == {CREATED}
    assert len({rule.id for rule in wanted}) == 4


@given(prefixes)
def test_a_filter_matches_no_less_than_its_prefix_and_is_taken_everywhere(prefix: str) -> None:
    safe = safe_filter(prefix)
    assert prefix.startswith(safe)
    assert len(safe.encode()) <= 1024
    assert "\\" not in safe
    assert not {".", ".."} & set(safe.split("/"))


@given(st.lists(rules, max_size=6), st.sets(prefixes, max_size=4))
def test_those_of_others_stay_in_order_and_a_second_look_changes_nothing(existing: list[Rule], at: set[str]) -> None:
    wanted = desired({"b": at}, ARNS, OWNER)["b"]
    result = merged(existing, wanted, OWNER)
    if result is None:
        assert {rule.id for rule in existing if is_ours(rule, OWNER)} == {rule.id for rule in wanted}
        return
    others = [rule for rule in existing if not is_ours(rule, OWNER)]
    assert result == [*others, *wanted]
    assert merged(result, wanted, OWNER) is None
    # A store may give the events in another order.
    turned = [msgspec.structs.replace(rule, events=rule.events[::-1]) for rule in result]
    assert merged(turned, wanted, OWNER) is None


def test_a_rule_of_ours_that_was_narrowed_is_set_again() -> None:
    (rule,) = desired({"b": ["in/"]}, ARNS[:1], OWNER)["b"]
    for changed in ({"suffix": ".png"}, {"events": CREATED[:1]}, {"arn": ARNS[1]}, {"prefix": "in/x"}):
        assert merged([msgspec.structs.replace(rule, **changed)], [rule], OWNER) == [rule]
    assert merged([rule, rule], [rule], OWNER) == [rule]
    assert merged([rule], [], OWNER) == []
