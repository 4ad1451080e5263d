"""What somebody sent as JSON, or one sentence."""

from __future__ import annotations

import msgspec
import pytest

from penstock.codec import decode_body
from penstock.errors import InvalidInput


class Order(msgspec.Struct, forbid_unknown_fields=True):
    count: int = 0


def test_a_body_becomes_its_type() -> None:
    assert decode_body(b'{"count": 3}', Order).count == 3


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "this is not JSON"),
        (b'{"count": "three"}', "Expected `int`, got `str`"),
        (b'{"other": 1}', "unknown field `other`"),
        (b"\xff", "this is not JSON"),
        (b'{"x":' * 200_000, "this is not JSON"),
    ],
    ids=["cut", "type", "unknown", "bytes", "deep"],
)
def test_what_is_none_is_one_sentence_that_names_the_body(body: bytes, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        decode_body(body, object if body.startswith(b'{"x"') else Order)
    assert caught.value.where == "request body"
