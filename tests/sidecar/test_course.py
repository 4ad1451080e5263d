"""The course of items: settled once and in order whatever is heard; and the launcher's words as untrusted bytes."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.sidecar.course import Act, Course, Ended, Say, Settle, State, Turn
from dispatcher.sidecar.words import LONGEST_BYTES, Exit, Hello, Lines, parse
from penstock.model import ErrorClass

ITEMS = ("a", "b", "c")


def made(*, settled: tuple[int, ...] = (), deadline_s: float = 10.0) -> Course:
    course = Course(ITEMS, deadline_s=deadline_s, grace_s=2.0, settled=settled)
    course.hear(Hello())
    return course


def said(acts: list[Act]) -> list[str]:
    return [act.words for act in acts if isinstance(act, Say)]


def ends(acts: list[Act]) -> list[tuple[int, int | None, ErrorClass | None]]:
    return [(act.index, act.code, act.why) for act in acts if isinstance(act, Ended)]


def test_nothing_is_said_before_the_launcher_is_there_but_what_cannot_run_is_settled() -> None:
    course = Course(ITEMS, deadline_s=1, grace_s=1)
    course.staged(0, runs=False)
    course.staged(1, runs=True)
    acts = course.step(0, 0)
    assert [act for act in acts if not isinstance(act, Turn)] == [Settle(0)]
    course.hear(Hello())
    assert said(course.step(5, 5000)) == ["skip 0", "ready 1"]


def test_the_clock_of_an_item_starts_with_it() -> None:
    course = made()
    course.staged(0, runs=True)
    assert said(course.step(100, 0)) == ["ready 0"]
    assert said(course.step(109, 0)) == []
    assert said(course.step(110, 0)) == ["cancel 0"]
    assert said(course.step(111, 0)) == []
    assert said(course.step(112, 0)) == ["cancel 0"]  # the launcher makes it KILL
    course.hear(Exit(0, 137))
    assert ends(course.step(113, 0)) == [(0, 137, ErrorClass.DEADLINE)]


def test_memory_counts_only_against_a_script_that_failed() -> None:
    course = made()
    for index, code in enumerate((0, 1)):
        course.staged(index, runs=True)
        course.step(0, 0)
        course.hear(Exit(index, code, oom=True))
        assert ends(course.step(0, 0)) == [(index, code, ErrorClass.OUT_OF_MEMORY if code else None)]


def test_a_word_that_a_forged_end_made_the_launcher_miss_is_said_again() -> None:
    course = made()
    for index in (0, 1):
        course.staged(index, runs=True)
    course.step(0, 0)
    course.hear(Exit(0, 0))
    assert said(course.step(0, 0)) == ["ready 1"]
    course.hear(Exit(0, 4))  # the real end
    assert said(course.step(0, 0)) == ["ready 1"]


def test_a_launcher_that_forged_ends_have_left_behind_is_led_to_the_item_whose_turn_it_is() -> None:
    course = made()
    for index in range(3):
        course.staged(index, runs=True)
    course.step(0, 0)
    # While the first one runs: the launcher drops what is said meanwhile.
    for index in (0, 1):
        course.hear(Exit(index, 0))
        assert said(course.step(0, 0)) == [f"ready {index + 1}"]
    course.hear(Exit(0, 4))  # the real end: it waits for the second item
    course.hear(Exit(0, 5))  # noise costs no more
    assert said(course.step(0, 0)) == ["skip 1", "ready 2"]
    course.hear(Exit(2, 7))
    assert ends(course.step(0, 0)) == [(2, 7, None)]


def test_a_launcher_that_does_not_listen_is_ended() -> None:
    course = made(settled=(1, 2))
    course.staged(0, runs=True)
    course.step(0, 0)
    course.hear(Exit(0, 0))
    course.step(0, 0)
    assert course.complete
    assert said(course.part(0, 0)) == ["done 0"]
    assert said(course.part(0, 1)) == []
    assert said(course.part(0, 2)) == ["cancel 0", "done 0"]
    assert said(course.part(0, 3)) == []
    assert said(course.part(0, 4)) == ["cancel 0", "done 0"]


def test_term_starts_nothing_more_and_marks_what_ends() -> None:
    course = made()
    course.staged(0, runs=True)
    course.staged(1, runs=True)
    course.step(0, 0)
    course.terminate(1)
    course.hear(Exit(0, 143))
    (end,) = [act for act in course.step(1, 0) if isinstance(act, Ended)]
    assert end.interrupted
    assert course.state is State.OVER
    assert not course.complete


def test_what_ends_by_a_term_that_only_the_launcher_has_heard_of_is_marked_too() -> None:
    """All containers of a pod are told at once, and the script may be gone before `output` wakes up."""
    course = made()
    for index, term in enumerate((True, False)):
        course.staged(index, runs=True)
        course.step(0, 0)
        course.hear(Exit(index, 143, term=term))
        (end,) = [act for act in course.step(0, 0) if isinstance(act, Ended)]
        assert end.interrupted is term


HEARD = st.one_of(
    st.just(Hello()),
    st.builds(Exit, st.integers(0, 4), st.integers(0, 255), st.booleans()),
    st.tuples(st.just("staged"), st.integers(0, 2), st.booleans()),
    st.tuples(st.just("cancel"), st.sampled_from(ITEMS)),
    st.sampled_from(["gone", "crippled", "term", "tick"]),
)


def tell(course: Course, what: Any, now: int, cancelled: dict[str, str]) -> None:
    match what:
        case Hello() | Exit():
            course.hear(what)
        case ("staged", index, runs):
            course.staged(index, runs=runs)
        case ("cancel", name):
            cancelled[name] = "why"
            course.cancel(dict(cancelled))
        case "gone":
            course.lost_launcher()
        case "crippled":
            course.lost_input()
        case "term":
            course.terminate(now)


@given(st.lists(HEARD, max_size=40), st.sets(st.integers(0, 2)))
def test_every_item_is_settled_at_most_once_and_in_order(heard: list[Any], settled: set[int]) -> None:
    course = Course(ITEMS, deadline_s=3, grace_s=1, settled=settled)
    done: list[int] = []
    ready: set[int] = set()
    cancelled: dict[str, str] = {}
    for now, what in enumerate(heard):
        tell(course, what, now, cancelled)
        for act in course.step(now, now):
            if isinstance(act, Ended):
                assert act.index in ready
            if isinstance(act, Settle | Ended):
                done.append(act.index)
            if isinstance(act, Say) and act.words.startswith("ready"):
                ready.add(int(act.words.split()[1]))
    assert done == sorted(set(done))
    assert not set(done) & settled
    if course.complete:
        assert set(done) | settled == {0, 1, 2}


@given(st.lists(st.binary(max_size=400)))
def test_any_bytes_are_words_or_nothing_and_memory_is_bounded(pieces: list[bytes]) -> None:
    lines = Lines()
    for piece in pieces:
        for line in lines.feed(piece):
            word = parse(line)
            assert word is None or isinstance(word, Hello) or 0 <= word.code < 256
        assert len(lines._rest) <= LONGEST_BYTES


@given(st.integers(0, 10**6), st.integers(0, 255), st.booleans(), st.booleans(), st.integers(0, 35))
def test_a_word_is_heard_however_it_is_cut(index: int, code: int, oom: bool, term: bool, cut: int) -> None:
    data = b"garbage\n\nexit %d %d%s%s\n" % (index, code, b" oom" * oom, b" term" * term)
    lines = Lines()
    words = [parse(line) for part in (data[:cut], data[cut:]) for line in lines.feed(part)]
    assert [word for word in words if word] == [Exit(index, code, oom, term)]


def test_what_is_no_word_of_ours() -> None:
    for line in (
        b"",
        b"exit",
        b"exit 1",
        b"exit -1 0",
        b"exit 0 256",
        b"exit 0 0 OOM",
        b"exit 0 0 term oom",
        b"exit 0 0 oom oom",
        b"exit x 0",
        b"exit 0 \xc2\xb2",
    ):
        assert parse(line) is None
