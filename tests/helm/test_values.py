"""Values that are wrong or missing are refused by name, before anything reaches a cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from helm.chart_schema import CHART_OWNS
from penstock.settings import Settings
from tests.helm.rendering import CHART, EXTERNAL, PROFILES, template

pytestmark = pytest.mark.components

SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def less(name: str) -> dict[str, str]:
    return {key: value for key, value in EXTERNAL.items() if key != name}


MISSING = [
    ("default", less("settings.s3.endpoint"), "settings.s3.endpoint is missing"),
    ("default", less("settings.kafka.servers"), "settings.kafka.servers is missing"),
    ("default", less("secrets.s3.existingSecret"), "secrets.s3.existingSecret is missing"),
    (
        "default",
        {**less("secrets.s3.existingSecret"), "secrets.s3.accessKey": "a"},
        "secrets.s3.existingSecret is missing",
    ),
    ("default", {**EXTERNAL, "settings.kafka.username": "u"}, "secrets.kafka.existingSecret is missing"),
    ("production", EXTERNAL, "gateway.ingress.host is missing"),
    ("production", {**EXTERNAL, "gateway.ingress.host": "h"}, "gateway.ingress.tls.secretName is missing"),
    ("default", {**EXTERNAL, "scaler.enabled": "true"}, "scaler.pools is missing"),
    ("edge", {"settings.kafka.servers": "a:1"}, "settings.kafka.servers is set in mode edge"),
    ("trial", {"functions.namespace.name": "penstock"}, "functions.namespace.name is the release's own namespace"),
]
WRONG = [
    ("image.tag=latest", "/image/tag"),
    ("image.digest=abc", "/image/digest"),
    ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
    ("mode=both", "/mode"),
    ("bundled.minio.image=minio/minio:latest", "/bundled/minio/image"),
    ("bundled.minio.image=minio/minio", "/bundled/minio/image"),
    ("dispatcher.replicas=0", "/dispatcher/replicas"),
    ("dispatcher.replcas=3", "'replcas'"),
    ("dispatcher.persistence.size=large", "/dispatcher/persistence/size"),
    ("functions.namespace.podSecurity=none", "/functions/namespace/podSecurity"),
    ("functions.namespace.name=Big", "/functions/namespace/name"),
    ("settings.dispatcher.windw=3", "'windw'"),
    ("settings.dispatcher.window=0", "/settings/dispatcher/window"),
    ("settings.dispatcher.window=many", "/settings/dispatcher/window"),
    ("settings.watcher.listing_share=much", "/settings/watcher/listing_share"),
    ("settings.nonsense.a=1", "'nonsense'"),
    ("settings.log.level=loud", "/settings/log/level"),
    # Secrets have no place among the settings, which are in a ConfigMap.
    ("settings.s3.secret_key=abc", "'secret_key'"),
    ("settings.kafka.password=abc", "'password'"),
    # What the chart decides itself.
    ("settings.state.data=/tmp", "'state'"),
    ("gateway.service.type=Headless", "/gateway/service/type"),
    ("nonsense=1", "'nonsense'"),
]


@pytest.mark.parametrize(("profile", "values", "sentence"), MISSING, ids=lambda value: str(value)[:60])
def test_what_is_missing_is_named(profile: str, values: dict[str, str], sentence: str) -> None:
    done = template(profile, values)
    assert done.returncode != 0
    assert sentence in done.stderr


@pytest.mark.parametrize(("value", "name"), WRONG)
def test_what_is_wrong_is_named(value: str, name: str) -> None:
    key, _, text = value.partition("=")
    done = template("trial", {key: text})
    assert done.returncode != 0
    assert name in done.stderr
    assert "schema" in done.stderr


@pytest.mark.parametrize("profile", PROFILES)
def test_nothing_but_what_is_said_is_needed(profile: str) -> None:
    done = template(profile, PROFILES[profile])
    assert done.returncode == 0, done.stderr


def leaves(schema: dict[str, Any], values: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every value of values.yaml with what the schema says of it."""
    if isinstance(values, dict) and "properties" in schema:
        for name, value in values.items():
            assert name in schema["properties"], f"{path}.{name} is not in the schema"
            yield from leaves(schema["properties"][name], value, f"{path}.{name}")
    yield path, schema


def test_every_value_is_described_and_every_description_is_of_a_value() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for path, schema in leaves(SCHEMA, values):
        assert len(schema.get("description", "")) > 3, path
    # `settings` lists more than values.yaml says, by design; everything else has its default written down.
    for path, schema in walk(SCHEMA):
        if not path.startswith(("settings", "global", "enabled")):
            assert value_at(values, path) is not None, f"{path} has no default in values.yaml"
        assert schema.get("description") or path.startswith("settings"), path


def walk(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, inner in schema.get("properties", {}).items():
        here = f"{path}.{name}".lstrip(".")
        yield here, inner
        yield from walk(inner, here)


def value_at(values: Any, path: str) -> Any:
    for name in path.split("."):
        if name not in values:
            return None
        values = values[name]
    return "" if values is None else values


def test_what_the_chart_decides_are_settings_that_exist() -> None:
    for name in CHART_OWNS:
        group, _, field = name.partition(".")
        model = Settings.model_fields[group].annotation
        assert model is not None
        assert field in getattr(model, "model_fields", {}), name


def test_an_empty_value_counts_as_not_said() -> None:
    done = template("trial", {"settings.s3.endpoint": "", "settings.s3.region": ""})
    assert done.returncode == 0, done.stderr
    assert 'endpoint = "http://p-penstock-minio.penstock.svc:9000"' in done.stdout
    assert "region =" not in done.stdout


def test_numbers_and_texts_are_written_as_toml() -> None:
    values = {
        "settings.http.max_payload_bytes": "67108864",
        "settings.watcher.listing_share": "0.25",
        "settings.s3.versioned": "true",
        "settings.s3.region": 'a"b\\\\c',
    }
    done = template("trial", values)
    assert done.returncode == 0, done.stderr
    for line in ("max_payload_bytes = 67108864", 'listing_share = "0.25"', "versioned = true", r'region = "a\"b\\c"'):
        assert f"    {line}\n" in done.stdout
