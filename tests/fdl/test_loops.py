from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import InvalidInput
from penstock.fdl import check_loops, cycles
from penstock.model import Function, StorageIO


def place(path: str, prefix: Sequence[str] = (), suffix: Sequence[str] = (), provider: str = "minio") -> StorageIO:
    kind, _, identity = provider.partition(".")
    bucket, _, folder = path.partition("/")
    return StorageIO(
        provider=kind,
        provider_id=identity or "default",
        bucket=bucket,
        folder=folder,
        prefix=tuple(prefix),
        suffix=tuple(suffix),
    )


def function(inputs: list[StorageIO], outputs: list[StorageIO], name: str = "f") -> Function:
    return Function(name=name, inputs=tuple(inputs), outputs=tuple(outputs))


@pytest.mark.parametrize(
    "output",
    [
        place("data/in"),
        place("data/in/deep/er"),
        place("data/in", suffix=[".json"]),  # the input takes any name, .json too
        place("data/in", provider="local"),  # two words for the same store
    ],
)
def test_an_output_in_the_own_input_is_refused(output: StorageIO) -> None:
    with pytest.raises(InvalidInput, match="lies in the function's own input 'data/in'"):
        check_loops(function([place("data/in")], [output]))


def test_filters_that_share_a_name_do_not_help() -> None:
    both = function([place("data/in", suffix=[".png"])], [place("data/in", suffix=[".out.png", ".txt"])])
    with pytest.raises(InvalidInput):
        check_loops(both)


@pytest.mark.parametrize(
    ("source", "output"),
    [
        (place("data/in", suffix=[".png"]), place("data/in", suffix=[".txt"])),
        (place("data/in", prefix=["raw-"]), place("data/in", prefix=["done-"])),
        (place("data/in", prefix=["raw-"]), place("data/in/results")),
        (place("data", suffix=[".png"]), place("data/out", suffix=[".json"])),
    ],
)
def test_only_filters_between_output_and_input_is_a_warning(source: StorageIO, output: StorageIO) -> None:
    (warning,) = check_loops(function([source], [output]))
    assert warning.endswith("only their filters keep it from starting itself")


def test_an_input_below_the_output_is_a_warning() -> None:
    (warning,) = check_loops(function([place("data/all/in")], [place("data/all")]))
    assert warning.endswith("a result named like in/* would start the function again")
    assert check_loops(function([place("data/all/in")], [place("data/all", prefix=["out/"])])) == []


@pytest.mark.parametrize(
    "output",
    [
        place("data/input"),  # begins with the same letters, is another folder
        place("other/in"),
        place("data/in", provider="minio.far"),
        place("data/in", provider="s3"),
        place("data/out"),
    ],
)
def test_other_places_are_fine(output: StorageIO) -> None:
    assert check_loops(function([place("data/in")], [output])) == []


NAMES = ["".join(letters) for length in range(1, 5) for letters in itertools.product("ab./", repeat=length)]
filter_lists = st.lists(st.text("ab.", max_size=2), max_size=2)
folders = st.sampled_from(["data", "data/a", "data/a/b", "data/b"])
places = st.builds(place, folders, filter_lists, filter_lists)


@given(places, places)
@settings(deadline=None)  # the cores are shared
def test_no_name_slips_through(source: StorageIO, output: StorageIO) -> None:
    """Where a published name triggers its own function, `check_loops` has spoken."""
    keys = [output.key_prefix + name for name in NAMES if output.accepts(name)]
    skip = len(source.key_prefix)
    if any(key.startswith(source.key_prefix) and source.accepts(key[skip:]) for key in keys):
        with contextlib.suppress(InvalidInput):
            assert check_loops(function([source], [output]))


@given(places, places)
@settings(deadline=None)  # the cores are shared
def test_a_refusal_has_a_name_that_proves_it(source: StorageIO, output: StorageIO) -> None:
    try:
        check_loops(function([source], [output]))
    except InvalidInput:
        below = output.key_prefix[len(source.key_prefix) :]
        beginnings = [*output.prefix, *(p[len(below) :] for p in source.prefix if p.startswith(below)), ""]
        endings = [*output.suffix, *source.suffix, ""]
        candidates = (begin + "xxxx" + end for begin, end in itertools.product(beginnings, endings))
        assert any(output.accepts(name) and source.accepts(below + name) for name in candidates)


def test_two_functions_that_feed_each_other() -> None:
    there = function([place("ring/one")], [place("ring/two")], "b-there")
    back = function([place("ring/two")], [place("ring/one/again")], "a-back")
    aside = function([place("ring/two")], [place("ring/three")], "c-aside")
    assert cycles([there, back, aside]) == [["a-back", "b-there"]]


def test_filters_break_a_ring() -> None:
    there = function([place("ring/one", suffix=[".png"])], [place("ring/two")], "a")
    back = function([place("ring/two")], [place("ring/one", suffix=[".txt"])], "b")
    assert cycles([there, back]) == []


def test_a_function_that_starts_itself_is_not_a_ring_of_several() -> None:
    assert cycles([function([place("one/x")], [place("one/x")], "self")]) == []


@given(st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20))
@settings(deadline=None)  # the cores are shared
def test_rings_are_real_and_cover_every_function_in_one(edges: set[tuple[int, int]]) -> None:
    feeds = {(one, other) for one, other in edges if one != other}
    functions = [
        function([place(f"n{n}/in")], [place(f"n{m}/in") for k, m in sorted(feeds) if k == n], f"f{n}")
        for n in range(8)
    ]
    reach = set(feeds)
    for middle, one, other in itertools.product(range(8), repeat=3):
        if (one, middle) in reach and (middle, other) in reach:
            reach.add((one, other))
    rings = cycles(functions)
    for ring in rings:
        following = [*ring[1:], ring[0]]
        assert all((int(one[1]), int(other[1])) in feeds for one, other in zip(ring, following, strict=True))
        assert ring[0] == min(ring)
        assert len(set(ring)) == len(ring) >= 2
    assert {name for ring in rings for name in ring} == {f"f{n}" for n in range(8) if (n, n) in reach}
    assert rings == sorted(rings)


def test_a_long_chain_is_walked_without_recursion() -> None:
    chain = [function([place(f"step{n}/x")], [place(f"step{(n + 1) % 3000}/x")], f"f{n:04}") for n in range(3000)]
    (ring,) = cycles(chain)
    assert len(ring) == 3000
