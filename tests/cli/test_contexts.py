"""Contexts as a file, the order in which servers and credentials are found, and completion."""

from __future__ import annotations

import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import client_places
from penstock.client_contexts import Context, Contexts, check_name, load, path_of, save
from penstock.errors import InvalidInput, NotFound
from tests.cli.conftest import User

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)


@given(st.dictionaries(TEXT, st.tuples(TEXT, TEXT, st.integers(0, 2**40)), max_size=4), st.booleans())
def test_what_is_saved_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, made: dict[str, tuple[str, str, int]], use: bool
) -> None:
    path = tmp_path_factory.mktemp("home") / "contexts.toml"
    by_name = {
        name: Context(name=name, server="http://x", user=user, password=password, expires_s=expires)
        for name, (user, password, expires) in made.items()
    }
    contexts = Contexts(current=next(iter(by_name), "") if use else "", by_name=by_name)
    save(path, contexts)
    assert load(path) == contexts
    assert path.stat().st_mode & 0o777 == 0o600


def test_secrets_do_not_show() -> None:
    secret = Context(
        name="a", server="b", password="p4ss", token="t0ken", access_token="acc3ss", refresh_token="r3fresh"
    )
    assert not [word for word in ("p4ss", "t0ken", "acc3ss", "r3fresh") if word in repr(secret)]
    assert asdict(secret)["password"] == "p4ss"


def test_a_damaged_file_is_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "contexts.toml"
    path.write_text('current = "a\nsecret-in-it')
    with pytest.raises(InvalidInput) as refused:
        load(path)
    assert "secret-in-it" not in str(refused.value)
    with pytest.raises(tomllib.TOMLDecodeError):
        tomllib.loads(path.read_text())


def test_names() -> None:
    assert check_name("lab-1.example_org") == "lab-1.example_org"
    for name in ("", "-x", "a/b", "a b", "x" * 70):
        with pytest.raises(InvalidInput):
            check_name(name)


class Home:
    def __init__(self, root: Path) -> None:
        self.environ = {"XDG_CONFIG_HOME": str(root), "XDG_STATE_HOME": str(root / "state"), "HOME": str(root)}
        one = Context(name="one", server="https://one.example/p", token="of-one", ca="/one.pem")
        two = Context(name="two", server="http://two.example:1", user="u", password="of-two")
        self.contexts = Contexts(current="one", by_name={"one": one, "two": two})
        save(path_of(self.environ), self.contexts)

    def find(
        self, server: str | None = None, token: str | None = None, *, context: str | None = None, **environ: str
    ) -> tuple[str, str, str]:
        found = client_places.find(server, token, self.environ | environ, context=context)
        credential = found.token or (found.context.password if found.context else "")
        return found.server, credential, found.ca


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_the_documented_order(home: Home) -> None:
    one, two = ("https://one.example/p", "of-one", "/one.pem"), ("http://two.example:1", "of-two", "")
    assert home.find() == one
    assert home.find(PENSTOCK_CONTEXT="two") == two
    assert home.find(PENSTOCK_CONTEXT="two", PENSTOCK_SERVER="http://env:1") == ("http://env:1", "", "")
    assert home.find(context="two", PENSTOCK_SERVER="http://env:1", PENSTOCK_TOKEN="env") == two
    assert home.find("http://flag:1", PENSTOCK_SERVER="http://env:1", PENSTOCK_TOKEN="env") == (
        "http://flag:1",
        "env",
        "",
    )
    assert home.find("http://flag:1", "flag", PENSTOCK_TOKEN="env") == ("http://flag:1", "flag", "")
    # A server that is known by its address brings its credential.
    assert home.find("two.example:1/") == two
    assert home.find("https://one.example/p/", PENSTOCK_CA="/env.pem") == (
        "https://one.example/p",
        "of-one",
        "/env.pem",
    )
    assert home.find(context="one", token="flag") == ("https://one.example/p", "flag", "/one.pem")
    assert home.find(PENSTOCK_TOKEN="env") == ("https://one.example/p", "env", "/one.pem")


def test_a_context_that_is_not_there_names_those_that_are(home: Home) -> None:
    with pytest.raises(NotFound, match="one, two"):
        home.find(context="three")


async def test_completion_is_taught_to_the_shells_and_answers_them(user: User) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_PENSTOCK_COMPLETE" in (await user("completion", shell)).out

    async def asked(words: str, number: int) -> list[str]:
        return (await user(_PENSTOCK_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(number))).out.split()

    assert await asked("penstock con", 1) == ["plain,context"]
    assert {line.partition(",")[2] for line in await asked("penstock context ", 2)} == {"ls", "rm", "show", "use"}
