"""Which server a command talks to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.cli import servers
from gateway.cli.failures import NoServer
from penstock.errors import InvalidInput


class Home:
    """A user's state folder with the files that running servers leave."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environ = {"XDG_STATE_HOME": str(root / "state"), "HOME": str(root)}
        self.folder = servers.state_folder(self.environ)
        self.folder.mkdir(parents=True)

    def server(self, port: int, *, token: str = "secret", pid: int | None = None) -> str:
        credentials = self.root / f"credentials-{port}"
        credentials.write_text(f'server = "http://127.0.0.1:{port}"\nuser = "admin"\ntoken = "{token}"\n')
        address = f"http://127.0.0.1:{port}"
        text = f'server = "{address}"\ncredentials = "{credentials}"\npid = {pid or os.getpid()}\n'
        (self.folder / f"{port}.toml").write_text(text)
        return address


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_the_one_that_runs_is_found_with_its_token(home: Home) -> None:
    address = home.server(9123)
    assert servers.find(None, None, home.environ)[:2] == (address, "secret")


def test_options_win_over_the_environment_and_both_over_what_runs(home: Home) -> None:
    home.server(9123)
    environ = home.environ | {"PENSTOCK_SERVER": "http://env:1", "PENSTOCK_TOKEN": "env"}
    assert servers.find("http://flag:1", "flag", environ)[:2] == ("http://flag:1", "flag")
    assert servers.find(None, None, environ)[:2] == ("http://env:1", "env")
    assert servers.find(None, "flag", home.environ)[:2] == ("http://127.0.0.1:9123", "flag")


def test_empty_variables_count_as_not_set(home: Home) -> None:
    address = home.server(9123)
    assert servers.find(None, None, home.environ | {"PENSTOCK_SERVER": "", "PENSTOCK_TOKEN": ""}).server == address


def test_a_named_local_server_still_brings_its_token(home: Home) -> None:
    home.server(8080, token="wrong")
    home.server(9123, token="right")
    assert servers.find("127.0.0.1:9123/", None, home.environ)[:2] == ("http://127.0.0.1:9123", "right")


def test_a_token_never_goes_to_another_server(home: Home) -> None:
    home.server(8080)
    assert servers.find("http://elsewhere:8080", None, home.environ).token == ""


def test_of_several_the_usual_port_is_meant(home: Home) -> None:
    home.server(9123)
    address = home.server(8080)
    assert servers.find(None, None, home.environ).server == address


def test_of_several_others_none_is_guessed(home: Home) -> None:
    home.server(9123)
    home.server(9124)
    with pytest.raises(NoServer, match=r"several.*http://127.0.0.1:9123, http://127.0.0.1:9124"):
        servers.find(None, None, home.environ)


def test_what_a_killed_server_left_is_passed_over(home: Home) -> None:
    home.server(8080, pid=2**22 - 1)
    address = home.server(9123)
    assert servers.find(None, None, home.environ, lambda pid: pid == os.getpid()).server == address


@pytest.mark.parametrize("text", ["", "not toml =", 'server = "x"', 'server = 1\ncredentials = 2\npid = "x"', "\x00"])
def test_a_damaged_file_names_no_server(home: Home, text: str) -> None:
    (home.folder / "8080.toml").write_text(text)
    (home.folder / "notes.toml").write_text("pid = 1")
    with pytest.raises(NoServer, match="penstock up"):
        servers.find(None, None, home.environ)


def test_without_a_state_folder_nothing_runs(tmp_path: Path) -> None:
    with pytest.raises(NoServer, match="--server"):
        servers.find(None, None, {"HOME": str(tmp_path)})


def test_an_unreadable_credential_is_named(home: Home) -> None:
    home.server(8080)
    (home.root / "credentials-8080").unlink()
    with pytest.raises(InvalidInput, match=r"credentials-8080: .*No such file"):
        servers.find(None, None, home.environ)


def test_a_credential_without_token_is_named_without_its_content(home: Home) -> None:
    home.server(8080)
    (home.root / "credentials-8080").write_text('tokn = "abcdef"')
    with pytest.raises(InvalidInput, match="credentials-8080") as caught:
        servers.find(None, None, home.environ)
    assert "abcdef" not in str(caught.value)


@pytest.mark.parametrize("text", ["ftp://host", "http://", "a b", "http://a b", "http://user:hidden@host"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="--server") as caught:
        servers.address(text)
    assert "hidden" not in caught.value.message


def test_the_state_folder_follows_xdg() -> None:
    assert servers.state_folder({"HOME": "/h"}) == Path("/h/.local/state/penstock/servers")
    assert servers.state_folder({"HOME": "/h", "XDG_STATE_HOME": "/s"}) == Path("/s/penstock/servers")
    assert servers.state_folder({"HOME": "/h", "XDG_STATE_HOME": "relative"}) == Path(
        "/h/.local/state/penstock/servers"
    )


def test_this_process_is_alive_and_a_reaped_one_is_not() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert servers.alive(os.getpid())
    assert servers.alive(1)
    assert not servers.alive(child)
