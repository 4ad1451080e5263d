"""The data folder: private, locked, of a known format, with a credential that is made once."""

from __future__ import annotations

import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from gateway import datadir
from penstock.errors import Conflict, InvalidInput


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_layout_is_made_and_closed_to_others(tmp_path: Path) -> None:
    with datadir.opened(tmp_path / "a" / "data") as layout:
        assert {path.name for path in layout.root.iterdir()} == {"buckets", "db", "work", "volumes", "tmp", "lock"}
        assert mode(layout.root) == 0o700
        assert layout.lock.read_text() == f"{os.getpid()}\n"
        (layout.tmp / "half").mkdir()
        (layout.tmp / "half" / "written").write_text("x")
    with datadir.opened(tmp_path / "a" / "data") as layout:  # given back
        assert list(layout.tmp.iterdir()) == []


def test_a_second_one_is_told_who_has_the_folder(tmp_path: Path) -> None:
    with (
        datadir.opened(tmp_path / "data"),
        pytest.raises(Conflict, match=rf"in use by another `penstock up` \(process {os.getpid()}\); stop that one"),
        datadir.opened(tmp_path / "data"),
    ):
        pass


def _take_and_die(root: Path) -> None:
    with datadir.opened(root):
        os._exit(9)


def test_a_process_that_dies_gives_the_lock_back(tmp_path: Path) -> None:
    child = multiprocessing.get_context("spawn").Process(target=_take_and_die, args=(tmp_path / "data",))
    child.start()
    child.join(30)
    assert child.exitcode == 9
    with datadir.opened(tmp_path / "data") as layout:
        assert layout.lock.read_text() == f"{os.getpid()}\n"


def test_a_folder_of_a_newer_version_is_refused_untouched(tmp_path: Path) -> None:
    with datadir.opened(tmp_path) as layout:
        layout.format.write_text("7\n")
    with pytest.raises(InvalidInput, match=r"newer version of Penstock \(format 7; this version reads up to 1\)"):
        datadir.opened(tmp_path).__enter__()
    assert layout.format.read_text() == "7\n"


def test_a_damaged_format_number_is_named(tmp_path: Path) -> None:
    with datadir.opened(tmp_path) as layout:
        layout.format.write_text("one\n")
    with pytest.raises(InvalidInput, match="'one', not a number"):
        datadir.opened(tmp_path).__enter__()


def test_a_file_in_place_of_the_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(InvalidInput, match="the data folder cannot be used: file exists"):
        datadir.opened(tmp_path / "data").__enter__()


def test_an_open_folder_with_other_things_in_it_is_not_taken_over(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    (home / "letter.txt").write_text("mine")
    with pytest.raises(InvalidInput, match="holds other things"):
        datadir.opened(home).__enter__()
    assert mode(home) == 0o755


def test_the_credential_is_generated_once_and_only_the_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    first = datadir.keep_credentials(path, "http://127.0.0.1:1", datadir.read_credentials(path))
    assert len(first.token) == 64
    assert mode(path) == 0o600
    again = datadir.keep_credentials(path, "http://127.0.0.1:2", datadir.read_credentials(path))
    assert again == first
    assert 'server = "http://127.0.0.1:2"' in path.read_text()
    assert first.token not in repr(first)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("token = ", "not valid TOML"),
        ("user = 'admin'\n", "needs a user and a token"),
        ("user = 'admin'\ntoken = 'short'\n", "at least 32 characters"),
        ("user = 3\ntoken = 4\n", "needs a user and a token"),
    ],
)
def test_a_damaged_credentials_file_is_never_replaced(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "credentials"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=says) as caught:
        datadir.read_credentials(path)
    assert "short" not in caught.value.message
    assert path.read_text() == text


def test_an_unreadable_credentials_file_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    path.mkdir()
    with pytest.raises(InvalidInput, match="cannot be read: is a directory"):
        datadir.read_credentials(path)


def test_the_state_file_lives_as_long_as_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = tmp_path / "penstock" / "servers" / "8080.toml"
    with datadir.announced(8080, "http://127.0.0.1:8080", Path('/data "x"/credentials')):
        assert mode(path) == 0o600
        assert path.read_text() == (
            f'server = "http://127.0.0.1:8080"\ncredentials = "/data \\"x\\"/credentials"\npid = {os.getpid()}\n'
        )
    assert not path.exists()


def test_a_state_file_of_somebody_else_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with datadir.announced(1, "http://127.0.0.1:1", Path("/c")):
        datadir.state_file(1).write_text("pid = 1\n")
    assert datadir.state_file(1).exists()


def test_a_home_that_cannot_be_written_costs_only_the_convenience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with datadir.announced(1, "http://127.0.0.1:1", Path("/c")):
        pass
