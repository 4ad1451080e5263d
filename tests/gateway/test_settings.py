"""Settings: the same names in file and environment, unknown ones refused by name, everything documented."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from dispatcher.settings import DispatcherSettings
from penstock.errors import InvalidInput
from penstock.settings import DispatcherGroup, HttpSettings, Settings, load, override

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"


def fields() -> list[tuple[str, str, object, str]]:
    """(group, field, default, description) of every setting."""
    found = []
    for group, info in Settings.model_fields.items():
        kind = info.annotation
        assert isinstance(kind, type)
        assert issubclass(kind, BaseModel)
        for name, field in kind.model_fields.items():
            found.append((group, name, field.default, field.description or ""))
    return found


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PENSTOCK_CONFIG", raising=False)


def write(folder: Path, text: str) -> Path:
    path = folder / "penstock.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_file_and_environment_everything_is_at_its_default() -> None:
    settings = load()
    assert settings.http == HttpSettings()
    assert settings.http.listen == "127.0.0.1:8080"
    assert settings.history.keep_days == 90


def test_file_and_environment_use_the_same_names_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "[http]\nkeepalive_s = 7\nmax_connections = 9\n[log]\nformat = 'json'\n")
    monkeypatch.setenv("PENSTOCK_HTTP_KEEPALIVE_S", "8")
    settings = load(path)
    assert (settings.http.keepalive_s, settings.http.max_connections, settings.log.format) == (8, 9, "json")


def test_the_file_may_be_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_CONFIG", str(write(tmp_path, "[up]\ndrain_s = 3\n")))
    assert load().up.drain_s == 3


def test_variables_of_the_command_line_are_not_taken_for_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_SERVER", "http://127.0.0.1:1")
    monkeypatch.setenv("PENSTOCK_TOKEN", "x")
    assert load() == Settings()


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ("[http]\nkeepalive = 3\n", "http.keepalive", "no setting of this name; known here are listen"),
        ("[web]\nport = 3\n", "web", "known here are http, log"),
        ("[http]\nkeepalive_s = 'long'\n", "http.keepalive_s", "valid number"),
        ("[http]\nkeepalive_s = -1\n", "http.keepalive_s", "greater than or equal to 0"),
        ("http = 3\n", "http", "valid dictionary"),
        ("[http\n", "", "not valid TOML"),
    ],
)
def test_what_is_wrong_in_the_file_is_named_with_its_place(tmp_path: Path, text: str, where: str, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InvalidInput) as caught:
        load(path)
    assert says in caught.value.message
    assert caught.value.where == (f"{path}: {where}" if where else str(path))


def test_an_unknown_name_in_the_environment_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_HTTP_KEEPALIVE", "3")
    with pytest.raises(InvalidInput, match=r"PENSTOCK_HTTP_KEEPALIVE: there is no setting"):
        load()


def test_a_bad_value_in_the_environment_names_the_variable_and_not_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_HTTP_MAX_CONNECTIONS", "hunter2")
    with pytest.raises(InvalidInput, match="PENSTOCK_HTTP_MAX_CONNECTIONS") as caught:
        load()
    assert "hunter2" not in caught.value.message


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read: No such file"):
        load(tmp_path / "none.toml")


def test_the_command_line_lies_over_everything_and_is_checked_too() -> None:
    settings = load()
    assert override(settings, "up", drain_s=1.5, data=None).up.drain_s == 1.5
    with pytest.raises(InvalidInput, match="--drain-s: input should be"):
        override(settings, "up", drain_s=-1.0)


def test_groups_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load().http.listen = "0.0.0.0:1"


def test_the_dispatcher_group_is_the_dispatchers_settings() -> None:
    ours = {name: field.default for name, field in DispatcherGroup.model_fields.items()}
    theirs = {field.name: field.default for field in dataclasses.fields(DispatcherSettings)}
    assert ours == theirs


@pytest.mark.parametrize(("group", "name", "default", "description"), fields())
def test_every_setting_says_why_and_is_in_the_reference(
    group: str, name: str, default: object, description: str
) -> None:
    assert len(description) > 40, "unit, and the reason for the default"
    text = REFERENCE.read_text(encoding="utf-8")
    variable = f"PENSTOCK_{group}_{name}".upper()
    row = next((line for line in text.splitlines() if line.startswith(f"| `{group}.{name}`")), "")
    assert f"`{variable}`" in row, f"docs/reference/settings.md lacks {group}.{name}"
    assert f"`{default}`" in row, f"docs/reference/settings.md has another default for {group}.{name} than {default}"


def test_the_reference_names_nothing_that_is_gone() -> None:
    known = {f"{group}.{name}" for group, name, _, _ in fields()}
    lines = REFERENCE.read_text(encoding="utf-8").splitlines()
    named = {line.split("`")[1] for line in lines if line.startswith("| `")}
    assert named == known
