"""The client's pure parts; against a real server it is tested in `test_end_to_end`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import unquote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from gateway.cli import failures
from penstock import errors
from penstock.client import Client, RunTimedOut, TooLarge, Unauthenticated, Unreachable
from penstock.client_errors import error_of
from penstock.client_wire import decoded, encoded, object_path, server_sent_events

KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(KEYS)
def test_a_key_is_encoded_once_and_survives_the_address(key: str) -> None:
    path = object_path("b", key)
    sent = URL("http://host" + path, encoded=True).raw_path
    assert sent == path
    assert unquote(sent.removeprefix("/v1/buckets/b/objects/")) == key


@given(KEYS)
def test_a_path_holds_no_character_that_has_a_meaning_in_addresses(key: str) -> None:
    path = object_path("b", key)
    assert not set(path) & set("?#+ \\\n")
    assert path.isascii()
    assert not {".", ".."} & set(path.split("/"))


def test_names_that_are_no_text_keep_their_bytes() -> None:
    assert object_path("b", "a\udcff") == "/v1/buckets/b/objects/a%FF"


@given(st.text())
def test_any_text_survives_json_both_ways(text: str) -> None:
    for name in (text, f"{text}\udcff"):
        assert decoded(encoded({"name": name}), dict[str, str]) == {"name": name}


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"a": 1}', b'{"a": "\\udcff"', b"\xff"])
def test_what_is_no_answer_is_refused(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decoded(body, dict[str, str])


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, b"x", errors.InvalidInput),
        (401, b"x", Unauthenticated),
        (403, b"x", errors.Forbidden),
        (404, b"x", errors.NotFound),
        (409, b"x", errors.Conflict),
        (413, b"x", TooLarge),
        (422, b"x", errors.Unsupported),
        (503, b"x", errors.Unavailable),
        (507, b"x", errors.OutOfSpace),
        (500, b"x", errors.PenstockError),
        (409, b'{"error": {"code": "already_exists", "message": "x", "where": ""}}', errors.AlreadyExists),
        (400, b'{"error": {"code": "invalid", "message": "x", "where": "f"}}', errors.InvalidInput),
        (418, b'{"error": {"code": "new", "message": "x", "where": ""}}', errors.PenstockError),
    ],
)
def test_an_answer_becomes_the_error_it_means(status: int, body: bytes, kind: type[errors.PenstockError]) -> None:
    error = error_of(status, body)
    assert type(error) is kind
    assert error.message.endswith("x")


def test_the_place_of_an_error_is_told_once() -> None:
    told = error_of(400, b'{"error": {"code": "invalid", "message": "line 3: bad", "where": "line 3"}}')
    assert told.message == "line 3: bad"
    told = error_of(400, b'{"error": {"code": "invalid", "message": "bad", "where": "line 3"}}')
    assert told.message == "line 3: bad"


@given(st.integers(min_value=400, max_value=599), st.binary())
def test_any_answer_becomes_an_error_with_a_sentence(status: int, body: bytes) -> None:
    assert error_of(status, body).message


def test_each_error_has_the_exit_code_of_its_cause() -> None:
    assert failures.exit_code(errors.NotFound("x")) == 5
    assert failures.exit_code(errors.InvalidInput("x")) == 7
    assert failures.exit_code(errors.Conflict("x")) == 6
    assert failures.exit_code(errors.AlreadyExists("x")) == 6
    assert failures.exit_code(Unauthenticated("x")) == 4
    assert failures.exit_code(Unreachable("x")) == 3
    assert failures.exit_code(failures.NoServer("x")) == 3
    assert failures.exit_code(RunTimedOut("x")) == 1
    assert failures.exit_code(errors.OutOfSpace("x")) == 1


async def _lines(text: str) -> AsyncIterator[bytes]:
    for line in text.splitlines(keepends=True):
        yield line.encode()


async def test_events_are_told_apart_and_comments_passed_over() -> None:
    text = ": hello\n\nevent: invocation\ndata: {}\n\nevent: gap\n\nid: 7\ndata:a\ndata: b\n\nevent: invocation\n"
    found = [message async for message in server_sent_events(_lines(text))]
    assert found == [("invocation", b"{}"), ("gap", b""), ("message", b"a\nb")]


@given(st.lists(st.tuples(st.sampled_from(["invocation", "gap"]), st.text("ab :\t", min_size=1))))
async def test_events_read_back(messages: list[tuple[str, str]]) -> None:
    text = "".join(f"event: {event}\r\ndata: {data}\r\n\r\n" for event, data in messages)
    found = [message async for message in server_sent_events(_lines(text))]
    assert found == [(event, data.encode()) for event, data in messages]


async def test_no_server_is_told_in_one_sentence(unused_port: int) -> None:
    async with Client(f"http://127.0.0.1:{unused_port}", "t") as client:
        with pytest.raises(Unreachable, match=f"no server answers at http://127.0.0.1:{unused_port}"):
            await client.status()


@pytest.mark.parametrize(
    "server",
    [
        "",
        "http://",
        "host:8080",
        "ftp://h",
        "http://h:abc",
        "http://h:99999",
        "http://[::1",
        "http://h/?a",
        "http://h h",
        "http://u:hidden@h",
    ],
)
def test_an_address_that_is_none_is_told_so(server: str) -> None:
    with pytest.raises(errors.InvalidInput, match="must look like") as caught:
        Client(server, "t")
    assert "hidden" not in caught.value.message


@given(st.text())
def test_any_address_is_taken_or_refused(server: str) -> None:
    try:
        assert Client(server, "t").server
    except errors.InvalidInput as refusal:
        assert "must look like" in refusal.message  # noqa: PT017 - both ways out are fine


@pytest.mark.parametrize("token", ["secret\n", "sécret", "se\x00cret"])
def test_a_token_that_is_none_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(errors.InvalidInput, match="no token") as caught:
        Client("http://h", token)
    assert "cret" not in caught.value.message
