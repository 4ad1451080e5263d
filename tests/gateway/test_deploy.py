"""Planning a deployment: pure, so every case is a line."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.deploy import Scripts, decide, make_plan
from penstock.errors import InvalidInput
from penstock.fdl import Draft, Start
from penstock.model import Function, StorageIO, Volume
from tests.factories import make_function


def draft(name: str = "thumbs", **changes: Any) -> Draft:
    """As the parser makes it: no uid, no token."""
    return Draft(function=make_function(name, **({"uid": "", "token": ""} | changes)))


def deployed(name: str = "thumbs", **changes: Any) -> Function:
    fields = {"generation": 4, "created_ms": 7, "updated_ms": 8, "start_ms": 9, "owner": "me", "token": "t" * 64}
    return make_function(name, **(fields | changes))


def test_a_new_function_is_created() -> None:
    step = decide(draft(), None)
    assert (step.action, step.base, step.start) == ("created", None, Start.NOW)


def test_the_same_definition_is_unchanged() -> None:
    base = deployed()
    assert decide(draft(), base).action == "unchanged"


@pytest.mark.parametrize(
    "changes",
    [
        {"script": "false\n"},
        {"image": "other"},
        {"retries": 3},
        {"environment": {"A": "1"}},
        {"outputs": ()},
        {"definition": {"name": "thumbs"}},
    ],
)
def test_any_difference_is_an_update_that_keeps_what_is_the_platforms(changes: dict[str, Any]) -> None:
    base = deployed(paused=True)
    step = decide(draft(**changes), base)
    assert step.action == "updated"
    for name in ("uid", "generation", "created_ms", "start_ms", "owner", "token", "paused"):
        assert getattr(step.function, name) == getattr(base, name), name
    for name, value in changes.items():
        assert getattr(step.function, name) == value


@pytest.mark.parametrize(
    ("given", "wanted", "action"),
    [
        ({"A": ""}, {"A": "old"}, "unchanged"),
        ({"A": "new"}, {"A": "new"}, "updated"),
        ({"A": "", "B": "more"}, {"A": "old", "B": "more"}, "updated"),
        ({}, {}, "updated"),
        ({"B": ""}, {"B": ""}, "updated"),
    ],
)
def test_a_blank_secret_is_unchanged_and_an_absent_one_goes(
    given: dict[str, str], wanted: dict[str, str], action: str
) -> None:
    step = decide(draft(secrets=given), deployed(secrets={"A": "old"}))
    assert (step.function.secrets, step.action) == (wanted, action)


def test_a_volume_cannot_be_changed() -> None:
    with pytest.raises(InvalidInput, match="function thumbs: volume: the volume of a deployed function"):
        decide(draft(volume=Volume(name="v", mount_path="/data")), deployed())


def test_a_name_on_several_clusters_is_one_function() -> None:
    plan = make_plan([draft(), draft(image="second")], [])
    assert [(step.function.name, step.function.image) for step in plan.steps] == [("thumbs", "")]


def io(bucket: str) -> tuple[StorageIO, ...]:
    return (StorageIO(provider="minio", bucket=bucket),)


def test_a_ring_is_warned_about_when_the_document_is_part_of_it() -> None:
    there = deployed("b", inputs=io("second"), outputs=io("first"))
    ring = draft("a", inputs=io("first"), outputs=io("second"))
    assert make_plan([ring], [there]).warnings == ("a -> b -> a feed each other; each object goes round until 16 hops",)
    assert make_plan([draft("c", inputs=io("other"), outputs=io("third"))], [there]).warnings == ()


def test_a_dry_run_tells_what_would_happen() -> None:
    plan = make_plan([draft("new"), draft(), draft("old", retries=1)], [deployed(), deployed("old")], ["careful"])
    assert [(one.name, one.action) for one in plan.outcome.functions] == [
        ("new", "created"),
        ("thumbs", "unchanged"),
        ("old", "updated"),
    ]
    assert plan.outcome.warnings == ("careful",)


def test_scripts_come_by_the_paths_of_the_document() -> None:
    scripts = Scripts({"a.sh": "echo a"})
    assert scripts("a.sh") == "echo a"
    with pytest.raises(InvalidInput, match=r"the script 'b.sh' did not come with the document; those that did: a.sh"):
        scripts("b.sh")


FAR = {"endpoint": "https://far", "access_key": "AK", "secret_key": "swordfish"}


def with_store(fields: dict[str, Any], **changes: Any) -> Draft:
    outputs = (StorageIO(provider="minio", provider_id="far", bucket="results"),)
    made = draft(outputs=outputs, **changes)
    own = {"default": {"access_key": "hidden", "secret_key": "hidden"}}
    providers = {"minio": {"far": fields, **own}, "s3": {"unused": {"secret_key": "x"}}}
    return msgspec.structs.replace(made, storage_providers=providers)


def test_credentials_of_other_stores_are_kept_for_those_that_are_used() -> None:
    step = decide(with_store(FAR), None)
    assert step.function.storage_providers == {"minio": {"far": FAR}}
    assert "swordfish" not in str(step.function.definition)


def test_a_credential_that_was_read_back_hidden_is_unchanged() -> None:
    base = deployed(outputs=with_store(FAR).function.outputs, storage_providers={"minio": {"far": FAR}})
    back = FAR | {"access_key": "hidden", "secret_key": "hidden"}
    assert decide(with_store(back), base).action == "unchanged"
    moved = decide(with_store(back | {"endpoint": "https://farther"}), base).function
    assert moved.storage_providers == {"minio": {"far": FAR | {"endpoint": "https://farther"}}}
    assert decide(with_store(back), None).function.storage_providers["minio"]["far"]["secret_key"] == ""


def test_a_store_that_is_named_no_more_is_forgotten() -> None:
    base = deployed(outputs=with_store(FAR).function.outputs, storage_providers={"minio": {"far": FAR}})
    assert decide(draft(), base).function.storage_providers == {}
