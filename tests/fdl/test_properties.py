"""Whatever is thrown at the parser, it answers with a document or with one sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.codec import decode_function, encode
from penstock.errors import InvalidInput
from penstock.fdl import Draft, known_keys, parse_document, parse_service
from penstock.fdl.schema import SERVICE

Answer = TypeVar("Answer")

KEYS = sorted({part for key in known_keys() for part in key.split(".") if part != "ID"})
WORDS = [
    *("minio", "minio.default", "local", "s3.x", "webdav", "gcs", "bucket/in", "bucket/in/out", "x", ".png", "", " "),
    *("auto", "single", "now", "existing", "USER", "public", "oscar", "inference", "1h", "256Mi", "0.5", "true", "no"),
    *("/data", "a b", "ä/b", "-1", "1e3", "\ud800", "\x00", "docker://x"),
]
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 300),
    st.integers(),
    st.floats(),
    st.sampled_from(WORDS),
    st.text(max_size=10),
)
keys = st.one_of(st.sampled_from(KEYS), st.sampled_from(KEYS).map(str.upper), st.text(max_size=5))
values = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=5)),
    max_leaves=20,
)


def read_script(path: str) -> str:
    if "a" in path:
        raise FileNotFoundError(2, "No such file or directory", path)
    return f"#!/bin/sh\n# {path}\n"


def answer(read: Callable[[], Answer]) -> Answer | None:
    """Return what is read, or None where it is refused in one sentence on one line."""
    try:
        result = read()
    except InvalidInput as error:
        refusal = error
    else:
        return result
    sentence = refusal.message.removeprefix(f"{refusal.where}: ")
    assert sentence
    assert refusal.message.isprintable() or "\n" not in refusal.message
    return None


def parsed(obj: Any) -> Draft | None:
    return answer(lambda: parse_service(obj))


def assert_fixed_point(draft: Draft) -> None:
    """A definition read back gives itself: what clients PUT after a GET changes nothing."""
    assert decode_function(encode(draft.function)) == draft.function
    definition = json.loads(json.dumps(draft.function.definition))
    again = parse_service(definition, require_image=False, require_script=False)
    assert again.function.definition == definition
    assert again.function.inputs == draft.function.inputs
    assert again.function.outputs == draft.function.outputs
    assert again.function.environment == draft.function.environment
    assert again.function.limits == draft.function.limits
    assert again.function.batch == draft.function.batch
    assert again.function.volume == draft.function.volume
    assert again.function.deadline_s == draft.function.deadline_s
    assert set(again.function.secrets) == set(draft.function.secrets)
    assert not any(again.function.secrets.values())


@settings(deadline=None)  # the cores are shared
@given(st.one_of(st.text(), st.text("functions: oscar\n-[]{}&*!|>'\"#%@`,?<x1.\t", max_size=80)))
def test_any_text(text: str) -> None:
    answer(lambda: parse_document(text, read_script=read_script))


SHAPES = [path.read_text(encoding="utf-8") for path in sorted((Path(__file__).parent / "shapes").glob("*.yaml"))]


@given(st.sampled_from(SHAPES), st.data())
@settings(deadline=None, max_examples=200)
def test_a_file_with_a_slip(text: str, data: st.DataObject) -> None:
    """Cut something out of a real file, or put something in."""
    at = data.draw(st.integers(0, len(text)))
    cut = data.draw(st.integers(0, 20))
    slip = data.draw(
        st.one_of(st.just(""), st.sampled_from(["\n", "\t", "- ", ": ", "&a ", "*a", '"', "{", "]", "null"]))
    )
    answer(lambda: parse_document(text[:at] + slip + text[at + cut :], read_script=read_script))


@given(st.binary())
@settings(deadline=None)  # the cores are shared
def test_any_bytes(data: bytes) -> None:
    answer(lambda: parse_document(data, read_script=None))


@given(values)
@settings(deadline=None)  # the cores are shared
def test_any_document(value: Any) -> None:
    for document in (
        value,
        {"functions": value},
        {"functions": {"oscar": value}},
        {"functions": {"oscar": [{"c": value}]}},
    ):
        text = yaml.safe_dump(document, allow_unicode=True, sort_keys=False)
        answer(lambda text=text: parse_document(text, read_script=read_script))  # type: ignore[misc]  # bound by default


@given(values)
@settings(deadline=None)  # the cores are shared
def test_any_service(value: Any) -> None:
    parsed(value)


BASE = {"name": "abc", "image": "i", "script": "true"}
services = st.dictionaries(st.sampled_from(sorted(SERVICE.keys)), values, max_size=4).map(lambda extra: BASE | extra)


@given(services)
@settings(deadline=None, max_examples=300)
def test_a_definition_read_back_gives_itself(service: dict[str, Any]) -> None:
    draft = parsed(service)
    if draft is not None:
        assert_fixed_point(draft)


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


names = st.sampled_from(["abc", "x-1", "name9"])
folders = st.sampled_from(["/one/in/ ", "one", "one/two/three", "other/out", " results"])
filters = st.one_of(
    st.none(), st.just(""), st.just(".png"), st.lists(st.sampled_from(["a-", " b", ".x", ""]), max_size=2)
)
entries = st.fixed_dictionaries(
    {"storage_provider": st.sampled_from(["minio", "MINIO.default", "local", "webdav.d"]), "path": folders},
    optional={"prefix": filters, "suffix": filters, "options": st.sampled_from(["", "a=b"])},
)
numbers = st.one_of(st.integers(1, 9), st.integers(1, 9).map(str), st.none())
# YAML has infinities, JSON has not: what is refused there is text here.
finite = leaves.filter(lambda value: not isinstance(value, float) or math.isfinite(value))
maps = st.dictionaries(st.sampled_from(["A", "b", "C_D"]), finite, max_size=3)
valid_like = optional(
    input=st.one_of(entries, st.lists(entries, max_size=2)),
    output=st.lists(entries, max_size=2),
    environment=optional(Variables=maps, secrets=maps),
    cpu=st.sampled_from([0.5, "500m", 2, None]),
    memory=st.sampled_from(["1Gi", 1024, ""]),
    synchronous=optional(min_scale=numbers, max_scale=numbers),
    expose=optional(
        api_port=st.one_of(numbers, st.lists(st.integers(0, 9), max_size=2)),
        nodePort=st.one_of(numbers, st.lists(st.integers(0, 9), max_size=2)),
        set_auth=st.booleans(),
        auth_type=st.sampled_from(["", "Basic"]),
        default_command=st.booleans(),
    ),
    mount=optional(storage_provider=st.sampled_from(["minio", "s3.x"]), path=folders),
    volume=optional(name=names, size=st.sampled_from(["1Gi", ""]), mount_path=st.sampled_from(["/a/", "/b/c"])),
    kserve=optional(
        type=st.sampled_from(["llm_inference", ""]), storage_uri=st.just("hf://x"), set_auth=st.booleans(), env=maps
    ),
    federation=optional(group_id=names, topology=st.sampled_from(["Star", "none"]), rescheduler_threshold=numbers),
    replicas=st.lists(optional(type=st.just("endpoint"), url=st.just("https://x"), headers=maps), max_size=2),
    delegation=st.sampled_from(["", "Random", "static"]),
    batch=st.sampled_from(["auto", 5, {"max_items": 3, "linger": "1.5s", "max_bytes": "1Mi"}]),
    deadline=st.sampled_from([0.1, "1h", 1e-7, 90]),
    rate=st.floats(0, 1e6),
    weight=st.floats(0, 1000),
    upload_on_failure=st.sampled_from([True, False, "Never"]),
    storage_providers=st.just({"minio": {"far": {"secret_key": "k", "verify": "/ca.pem"}}, "S3": None}),
    clusters=st.just({"far": {"endpoint": "https://x", "auth_password": "p"}, "near": None}),
    allowed_users=st.one_of(st.just("ann"), st.lists(st.sampled_from(["ann", " bob ", ""]), max_size=2)),
    interlink_node_name=names,
)


@given(valid_like)
@settings(deadline=None, max_examples=400)
def test_sensible_services_are_read_and_read_back(extra: dict[str, Any]) -> None:
    draft = parsed(BASE | extra)
    if draft is not None:
        assert_fixed_point(draft)


@given(valid_like)
@settings(deadline=None)  # the cores are shared
def test_a_file_and_the_json_of_the_same_service_agree(extra: dict[str, Any]) -> None:
    service = BASE | extra
    draft = parsed(service)
    text = yaml.safe_dump({"functions": {"oscar": [{"c": service}]}}, allow_unicode=True)
    document = answer(lambda: parse_document(text, read_script=None))
    if document is None or draft is None:
        assert document is None
        assert draft is None
        return
    (from_file,) = document.functions
    assert from_file.function.inputs == draft.function.inputs
    assert from_file.function.resources == draft.function.resources
    assert from_file.function.limits == draft.function.limits
    # Free values differ in one way: YAML has its own spelling of floats (1.0e-05), which is kept as written.
    free = ("environment", "kserve", "federation")
    expected = {key: value for key, value in draft.function.definition.items() if key not in free}
    assert {k: v for k, v in from_file.function.definition.items() if k not in free} == expected | {"cluster_id": "c"}
