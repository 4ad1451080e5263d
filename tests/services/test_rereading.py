"""A value in files, as a mounted Secret changes it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.errors import InvalidInput
from penstock.rereading import Reread


def test_it_is_read_again_only_when_a_file_changed(tmp_path: Path) -> None:
    file, reads = tmp_path / "word", []
    file.write_text("first")

    def read() -> str:
        reads.append(1)
        return file.read_text()

    value = Reread([file], read)
    assert [value(), value(), value()] == ["first"] * 3
    assert len(reads) == 1
    new = tmp_path / "new"
    new.write_text("other")
    os.utime(new, ns=(1, file.stat().st_mtime_ns))  # the same time and size: another file all the same
    new.rename(file)
    assert [value(), value()] == ["other"] * 2
    assert len(reads) == 2


def test_between_two_versions_the_last_one_counts(tmp_path: Path) -> None:
    file = tmp_path / "word"
    file.write_text("first")
    value = Reread([file], file.read_text)
    file.unlink()
    assert value() == "first"
    file.write_text("second")
    assert value() == "second"


def test_at_the_start_there_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Reread([tmp_path / "none"], lambda: "")


def test_what_cannot_be_used_is_said_each_time_and_not_remembered(tmp_path: Path) -> None:
    file = tmp_path / "word"
    file.write_text("good")

    def read() -> str:
        if (word := file.read_text()) == "bad":
            raise InvalidInput("is bad", where=str(file))
        return word

    value = Reread([file], read)
    file.write_text("bad")
    for _ in range(2):
        with pytest.raises(InvalidInput):
            value()
    file.write_text("good again")
    assert value() == "good again"
