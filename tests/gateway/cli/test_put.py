"""Which file gets which key: decided before anything is sent."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from gateway.cli.commands.get import split
from gateway.cli.commands.put import plan
from penstock.errors import InvalidInput, NotFound


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("a.png", "b.png", "deep/a.png", "deep/er/c.png", "deep/.hidden"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * len(name))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def keys(*sources: str, prefix: str, recursive: bool = False) -> list[str]:
    return [upload.key for upload in plan(sources, prefix, recursive=recursive)]


def test_a_slash_keeps_names_and_without_one_it_is_the_key() -> None:
    assert keys("a.png", "b.png", prefix="in/") == ["in/a.png", "in/b.png"]
    assert keys("a.png", prefix="in/other.png") == ["in/other.png"]
    assert keys("deep/a.png", prefix="") == ["a.png"]


def test_folders_keep_their_inner_names() -> None:
    assert keys("deep", prefix="in/", recursive=True) == ["in/.hidden", "in/a.png", "in/er/c.png"]
    assert keys("deep/", "b.png", prefix="", recursive=True) == [".hidden", "a.png", "er/c.png", "b.png"]


def test_sizes_are_known_before() -> None:
    assert plan(["deep/a.png"], "k", recursive=False)[0].size == len("deep/a.png")


def test_stdin_wants_a_whole_key_and_company_of_none() -> None:
    assert plan(["-"], "in/a", recursive=False)[0].path is None
    for sources, prefix in ((["-"], "in/"), (["-"], ""), (["-", "a.png"], "in/a")):
        with pytest.raises(InvalidInput, match="whole key"):
            plan(sources, prefix, recursive=False)


def test_two_files_of_one_name_are_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match=r"a\.png and deep/a\.png would both become 'in/a\.png'"):
        keys("a.png", "deep/a.png", prefix="in/")
    with pytest.raises(InvalidInput, match="would both become 'one'"):
        keys("a.png", "b.png", prefix="one")


def test_a_folder_needs_to_be_asked_for_and_a_place_to_go() -> None:
    with pytest.raises(InvalidInput, match="give -r"):
        keys("deep", prefix="in/")
    with pytest.raises(InvalidInput, match="end it with a slash"):
        keys("deep", prefix="in", recursive=True)


def test_what_is_missing_or_empty_is_told_before_anything_is_sent(folder: Path) -> None:
    with pytest.raises(NotFound, match=r"no file c\.png"):
        keys("a.png", "c.png", prefix="in/")
    (folder / "none").mkdir()
    with pytest.raises(InvalidInput, match="no file in none"):
        keys("none", prefix="in/", recursive=True)


def test_an_unreadable_file_is_named(folder: Path) -> None:
    # A socket cannot be opened by anybody, root included, whom permissions would not stop.
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "sock"))
        with pytest.raises(InvalidInput, match="cannot read sock"):
            keys("a.png", "sock", prefix="in/")


def test_a_name_that_is_no_text_is_refused(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff")).touch()
    with pytest.raises(InvalidInput, match=r"bad\\xff.* not UTF-8"):
        keys(".", prefix="in/", recursive=True)


def test_places_are_split_at_the_first_slash_only() -> None:
    assert split("b/a//c ") == ("b", "a//c ")
    assert split("b") == ("b", "")
    assert split("") == ("", "")
    with pytest.raises(InvalidInput, match="starts with a slash"):
        split("/b/c")
