"""The partitioner may never change: entries that are stored would be looked for in another partition."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.adapters.kafka import partition_of


@pytest.mark.parametrize(
    ("key", "of_3", "of_8", "of_12"),
    [
        (b"", 0, 4, 0),
        (b"a", 2, 7, 11),
        (b"bucket/photos/one.png", 1, 5, 1),
        ("bucket/fünf + %2F/ö".encode(), 2, 2, 2),
        (b"\xff" * 1024, 2, 1, 5),
    ],
)
def test_known_keys_stay_where_they_are(key: bytes, of_3: int, of_8: int, of_12: int) -> None:
    assert (partition_of(key, 3), partition_of(key, 8), partition_of(key, 12)) == (of_3, of_8, of_12)


@given(key=st.binary(max_size=200), partitions=st.integers(1, 1000))
def test_every_key_has_one_home_that_exists(key: bytes, partitions: int) -> None:
    home = partition_of(key, partitions)
    assert 0 <= home < partitions
    assert partition_of(bytes(bytearray(key)), partitions) == home


@given(
    stem=st.binary(max_size=60),
    tail=st.binary(max_size=20),
    partitions=st.integers(2, 64),
    start=st.integers(0, 10**9),
    step=st.sampled_from([1, 2, 8, 10, 64, 100, 256]),
)
def test_keys_that_differ_only_by_a_number_are_spread_evenly(
    stem: bytes, tail: bytes, partitions: int, start: int, step: int
) -> None:
    each = 60
    keys = (b"%b%d%b" % (stem, start + step * number, tail) for number in range(each * partitions))
    counts = Counter(partition_of(key, partitions) for key in keys)
    # A fair draw strays by about 8 from 60; six times that is out of reach, a pattern in the hash is not.
    assert len(counts) == partitions
    assert max(abs(count - each) for count in counts.values()) < 48
