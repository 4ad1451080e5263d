"""A secret that is no text is one sentence that says where, and never shows a byte of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock import settings as penstock_settings
from penstock.errors import InvalidInput
from penstock.production import kafka_settings, s3_credentials
from penstock.rereading import Reread, text_of
from penstock.settings import Settings
from watcher.options import webhook_token

BAD = b"s3cret-\xff\xfe"


@pytest.mark.parametrize("variable", ["PENSTOCK_S3_SECRET_KEY", "PENSTOCK_KAFKA_PASSWORD", "PENSTOCK_S3_REGION"])
def test_a_variable_that_is_no_text_is_named(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, os.fsdecode(BAD))
    with pytest.raises(InvalidInput, match=f"{variable}: is not UTF-8 text") as caught:
        penstock_settings.load()
    assert "s3cret" not in f"{caught.value}{caught.value.__cause__}"


def test_variables_of_others_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMETHING_ELSE", os.fsdecode(BAD))
    penstock_settings.load()


def _store(folder: Path) -> None:
    (folder / "access_key").write_text("account")
    (folder / "secret_key").write_bytes(BAD)
    s3_credentials(_changed("s3", credentials_dir=folder))


def _webhook(folder: Path) -> None:
    (folder / "token").write_bytes(BAD)
    webhook_token(_changed("notify", token_file=folder / "token"))


def _broker(folder: Path) -> None:
    (folder / "password").write_bytes(BAD)
    kafka_settings(_changed("kafka", servers="127.0.0.1:1", username="me", password_file=folder / "password"))


def _changed(group: str, **values: object) -> Settings:
    return penstock_settings.override(Settings(), group, **values)


@pytest.mark.parametrize(
    ("use", "file"), [(_store, "secret_key"), (_webhook, "token"), (_broker, "password")], ids=["s3", "notify", "kafka"]
)
def test_a_file_that_is_no_text_is_named(use: Callable[[Path], None], file: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=rf"{tmp_path / file}: is not UTF-8 text") as caught:
        use(tmp_path)
    assert "s3cret" not in f"{caught.value}{caught.value.__cause__!r}"


def test_a_file_that_becomes_so_later_leaves_what_was_known(tmp_path: Path) -> None:
    file = tmp_path / "word"
    file.write_text("good")
    word = Reread([file], lambda: text_of(file))
    file.write_bytes(BAD)
    assert word() == "good"
    file.write_text("better")
    assert word() == "better"
