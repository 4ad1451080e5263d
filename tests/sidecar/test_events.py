"""Conformance vectors of bodies and events, and properties that hold for any bytes."""

from __future__ import annotations

import base64
import json
import subprocess
from typing import Any
from urllib.parse import quote, quote_plus, unquote_plus, urlencode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.sidecar import environment, events
from dispatcher.sidecar.events import ItemInput, Shape, classify
from penstock.errors import InvalidInput
from penstock.model import BucketEvent
from tests.process_runner.support import plan, submission

EVENT = BucketEvent(bucket="in", key="d/ñ a+b.txt", etag="e", size=3, time_ms=1_700_000_000_123, arrived_ms=5)


def minio(key: str = "a.txt", bucket: str = "in", **changes: Any) -> dict[str, Any]:
    record = {"eventSource": "minio:s3", "s3": {"bucket": {"name": bucket}, "object": {"key": key}}} | changes
    return {"EventName": "s3:ObjectCreated:Put", "Key": f"{bucket}/{key}", "Records": [record]}


def staged(body: Any, content_type: str = "") -> ItemInput:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return events.of_submission(submission(raw, content_type=content_type), "inv", raw)


def key_of(body: Any) -> str:
    found = staged(body)
    assert found.object is not None
    return found.object.key


def test_the_event_document_is_what_scripts_parse() -> None:
    document = json.loads(events.event_document(EVENT))
    assert document["Key"] == "in/d/ñ a+b.txt"
    (record,) = document["Records"]
    assert record["eventSource"] == "minio:s3"
    assert record["eventTime"] == "2023-11-14T22:13:20.123Z"
    assert record["s3"]["bucket"] == {
        "name": "in",
        "ownerIdentity": {"principalId": ""},
        "arn": "arn:aws:s3:::in",
    }
    assert record["s3"]["object"]["key"] == "d%2F%C3%B1+a%2Bb.txt"
    assert (record["s3"]["object"]["size"], record["s3"]["object"]["eTag"]) == (3, "e")
    assert "versionId" not in record["s3"]["object"]
    versioned = json.loads(events.event_document(msgspec.structs.replace(EVENT, version_id="v1")))
    assert versioned["Records"][0]["s3"]["object"]["versionId"] == "v1"


@given(st.text(min_size=1).filter(lambda key: key.rpartition("/")[2] not in {"", ".", ".."} and "\0" not in key))
def test_our_own_event_document_leads_back_to_the_key(key: str) -> None:
    event = msgspec.structs.replace(EVENT, key=key)
    try:
        key.encode()
    except UnicodeEncodeError:
        return
    found = classify(events.event_document(event))
    assert found.object is not None
    assert (found.object.bucket, found.object.key) == ("in", key)


def test_a_key_that_is_no_text_still_makes_a_document() -> None:
    document = json.loads(events.event_document(msgspec.structs.replace(EVENT, key="d/\udcff")))
    assert unquote_plus(document["Records"][0]["s3"]["object"]["key"], errors="surrogateescape") == "d/\udcff"


@pytest.mark.parametrize(
    ("body", "content"),
    [
        ('{"message":"hí"}'.encode(), '{"message":"hí"}'.encode()),
        (b" [1, 2] ", b" [1, 2] "),
        (b"", b""),
        (b"aGVsbG8=", b"hello"),
        (b"aGVsbG8", b"hello"),
        (b"aGVs\nbG8=\n", b"hello"),
        (b"1234", base64.b64decode(b"1234")),
        (b"null", base64.b64decode(b"null")),
        (b"true", base64.b64decode(b"true")),
        (b"\xff\xd8\xff\x00", b"\xff\xd8\xff\x00"),
        (b'{"event": "party", "at": 9}', b'{"event": "party", "at": 9}'),
        (b'{"event_type": "click"}', b'{"event_type": "click"}'),
        (b'{"Records": []}', b'{"Records": []}'),
        (b'{"Records": [{"eventSource": "mine"}]}', b'{"Records": [{"eventSource": "mine"}]}'),
        (b'{"event": {"event": {"x": 1}}}', b'{"event": {"event": {"x": 1}}}'),
    ],
)
def test_bodies_that_are_files(body: bytes, content: bytes) -> None:
    found = staged(body)
    assert (found.shape, found.payload, found.file_name) == (Shape.RAW, content, "event-file-inv")
    assert found.event == body
    assert found.storage_object_key == ""


def test_text_is_refused_unless_it_is_declared() -> None:
    with pytest.raises(InvalidInput, match="base64"):
        staged(b"hello world!")
    for content_type in ("text/plain", "TEXT/CSV; charset=utf-8", "application/octet-stream", "image/png"):
        assert staged(b"hello world!", content_type).payload == b"hello world!"
    assert staged(b"aGVsbG8=", "application/x-www-form-urlencoded").payload == b"hello"


@pytest.mark.parametrize(
    ("escaped", "key"),
    [
        ("a+b.txt", "a b.txt"),
        ("a%2Bb.txt", "a+b.txt"),
        ("%C3%B1.txt", "ñ.txt"),
        ("d%2Fe.txt", "d/e.txt"),
        ("d/e", "d/e"),
    ],
)
def test_keys_of_storage_events_are_decoded_once(escaped: str, key: str) -> None:
    found = staged(minio(escaped, eventTime="2026-01-01T00:00:00Z"))
    assert found.shape is Shape.OBJECT
    assert found.object is not None
    assert (found.object.bucket, found.object.key, found.object.raw_key) == (
        "in",
        key,
        escaped if escaped != key else "",
    )
    assert found.file_name == key.rpartition("/")[2]
    assert (found.storage_object_key, found.event_time) == (key, "2026-01-01T00:00:00Z")


def test_event_time_and_arn_may_be_missing() -> None:
    assert staged(minio()).event_time == ""


@pytest.mark.parametrize("provider", ["m", "minio.m"])
def test_delegated_jobs_are_unwrapped_whatever_the_form_of_the_provider(provider: str) -> None:
    assert key_of({"storage_provider": provider, "event": json.dumps(minio("x%2Fy"))}) == "x/y"
    assert key_of({"storage_provider": provider, "event": minio("x%2Fy")}) == "x/y"
    assert key_of({"event": minio("x%2Fy")}) == "x/y"
    assert staged({"storage_provider": provider, "event": "aGVsbG8="}).payload == b"hello"
    assert staged({"storage_provider": provider, "event": {"x": 1}}).payload == b'{"x":1}'


def test_an_api_gateway_call_gives_its_parameters_and_its_body() -> None:
    found = staged({"httpMethod": "POST", "queryStringParameters": {"q": "a b", "n": 3}, "body": "aGVsbG8="})
    assert (found.payload, found.variables) == (b"hello", {"CONT_VAR_q": "a b", "CONT_VAR_n": "3"})
    assert key_of({"httpMethod": "POST", "body": json.dumps(minio("k.txt"))}) == "k.txt"
    assert staged({"httpMethod": "GET", "body": None}).payload == b""


@given(st.dictionaries(st.text(), st.text() | st.integers(), min_size=1).filter(lambda form: form != {"": ""}))
@pytest.mark.parametrize("label", ["application/json", "application/x-www-form-urlencoded"])
def test_a_dict_of_the_python_client_is_a_file_of_form_text(label: str, form: dict[str, Any]) -> None:
    text = urlencode(form, errors="surrogatepass").encode()
    if is_base64(text):  # one pair without a value, whose name happens to be base64: `abc=`
        assert len(form) == 1
        return
    found = staged(text, label)
    assert (found.shape, found.payload, found.event) == (Shape.RAW, text, text)


@given(st.binary(min_size=1))
def test_base64_is_never_taken_for_form_text(data: bytes) -> None:
    text = base64.b64encode(data)
    assert staged(text, "application/x-www-form-urlencoded").payload == data
    assert events.is_plain_file(text, "") is False
    assert events.is_plain_file(text + b"\n", "") is False


@pytest.mark.parametrize("body", [b"a=b\n", b"a=b c=d", b"a=b&c", b"aGVsbG8=aGVsbG8=", b"a=b&c=d/e"])
def test_what_no_client_sends_as_a_form_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput, match="neither"):
        staged(body, "application/x-www-form-urlencoded")


def is_base64(text: bytes) -> bool:
    try:
        events.decode_base64(text)
    except InvalidInput:
        return False
    return True


@pytest.mark.parametrize(
    "body",
    [
        {"event": {"name": "f", "mask": ["IN_CREATE"]}, "subscription": "x"},
        {"event_type": "create_did", "payload": {"scope": "s", "name": "n"}},
        {"Key": "/space/f", "Records": [{"eventSource": "OneTrigger", "objectKey": "../../etc/passwd"}]},
        minio(eventSource="aws:s3"),
    ],
)
def test_events_of_other_storages_are_refused_with_the_reason(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="own store"):
        staged(body)


@pytest.mark.parametrize(
    "body", [minio("f/"), minio(".."), minio(bucket="penstock-system"), minio(s3={}), minio(s3={"bucket": {"name": 1}})]
)
def test_events_that_name_no_possible_input_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        staged(body)


def test_an_event_with_two_records_is_two_submissions() -> None:
    double = minio("a") | {"Records": [minio("a")["Records"][0], minio("b")["Records"][0]]}
    raw = json.dumps(double).encode()
    assert [key_of(part) for part in events.split_records(raw)] == ["a", "b"]
    with pytest.raises(InvalidInput, match="2 records"):
        staged(double)
    for single in (b"x", b"{}", json.dumps(minio()).encode()):
        assert events.split_records(single) == [single]


@given(st.binary())
def test_any_body_is_classified_or_refused(body: bytes) -> None:
    try:
        found = classify(body)
    except InvalidInput:
        return
    assert found.object is None or found.object.key


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["event", "Records", "httpMethod", "body", "payload", "event_type", "s3", "eventSource", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values.filter(lambda value: isinstance(value, dict | list)))
def test_any_json_document_is_classified_or_refused(value: Any) -> None:
    raw = json.dumps(value).encode()
    try:
        found = classify(raw)
    except InvalidInput:
        return
    assert found.object is None or found.object.key


@given(st.binary(max_size=200))
def test_base64_comes_back(data: bytes) -> None:
    encoded = base64.b64encode(data)
    wrapped = b"\n".join(encoded[start : start + 7] for start in range(0, len(encoded), 7))
    assert events.decode_base64(wrapped) == data
    assert events.decode_base64(encoded.rstrip(b"=")) == data


@given(st.text().filter(lambda text: "\0" not in text))
def test_quoting_both_ways(key: str) -> None:
    escaped = quote_plus(key, errors="surrogatepass")
    assert unquote_plus(escaped, errors="surrogatepass") == key
    assert quote("a b") == "a%20b"


def test_large_bodies_are_told_by_their_beginning() -> None:
    assert events.is_plain_file(b"  {", "") is None
    assert events.is_plain_file(b"aGVs", "") is False
    assert events.is_plain_file(b"aGVs", "text/plain") is True
    assert events.is_plain_file(b"\xff\xd8", "") is True
    assert events.is_plain_file(b"a=b&long=" + b"x" * 4000, "application/json") is True
    assert events.is_plain_file(b"a=b&cut%2", "") is True


@pytest.mark.parametrize("shell", [["dash"], ["bash", "--posix"], ["busybox", "sh"]], ids=lambda shell: shell[0])
def test_variables_reach_a_program_byte_for_byte(shell: list[str], tmp_path: Any) -> None:
    values = {
        "A": b" a  'b' \"c\" $HOME `id` \\n \\\\ *?[x] !! ~ # \t",
        "B": b"line\nline\n",
        "C": bytes(range(1, 256)),
        "D": b"$(touch evil)",
    }
    rendered = environment.render(values, directory=str(tmp_path))
    (tmp_path / "env").write_bytes(rendered)
    command = [*shell, "-c", f". {tmp_path}/env; exec env -0"]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin", "EVENT": "left over"}, capture_output=True, check=True)
    seen = dict(line.split(b"=", 1) for line in done.stdout.split(b"\0") if line)
    assert {name: seen[name.encode()] for name in values} == values
    assert b"EVENT" not in seen
    assert seen[b"PWD"] == str(tmp_path).encode()


@given(st.binary().filter(lambda value: b"\0" not in value))
def test_a_quoted_word_is_the_value(value: bytes) -> None:
    quoted = environment.quote(value)
    assert quoted.startswith(b"'")
    assert quoted.replace(b"'\\''", b"\0").strip(b"'").replace(b"\0", b"'").strip(b"'") == value.strip(b"'")


def test_the_event_is_a_variable_or_a_file() -> None:
    def variables(event: bytes) -> dict[str, bytes]:
        given_input = ItemInput(shape=Shape.RAW, payload=b"", file_name="f", event=event)
        return environment.item_variables(
            given_input, input_dir="/i", output_dir="/o", input_path="/i/f", event_path="/e"
        )

    assert variables(b"x")["EVENT"] == b"x"
    assert "EVENT_FILE_PATH" not in variables(b"x")
    for large in (b"x" * 100_001, b"a\0b"):
        assert "EVENT" not in variables(large)
        assert variables(large)["EVENT_FILE_PATH"] == b"/e"


def test_the_platforms_variables_win_and_empty_ones_are_left_out() -> None:
    made = plan(
        "true", EVENT, environment={"OSCAR_SERVICE_NAME": "me", "A": "1", "E": ""}, secrets={"A": "2"}, token="t"
    )
    assert environment.job_variables(made, node="n") == {
        "A": "2",
        "OSCAR_SERVICE_NAME": "classify",
        "OSCAR_SERVICE_TOKEN": "t",
        "RESOURCE_ID": "n",
    }
    with pytest.raises(InvalidInput, match="'A=B'"):
        environment.job_variables(plan("true", EVENT, environment={"A=B": "1"}), node="n")
