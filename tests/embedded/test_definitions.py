"""Bad definitions, through the command line and through the HTTP interface: one sentence each, and nothing deployed."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from penstock.errors import InvalidInput
from tests.embedded.shop import COPY, Shop, document, entry, service
from tests.gateway.cli.conftest import Cli

GOOD = service("good")

BAD = {
    "broken YAML": (document(GOOD) + "  - local: {name: bad, script: [\n", "line "),
    "a TAB for a blank": (document(GOOD) + "  - local:\n\tname: bad\n", "TAB"),
    "unknown provider": (
        document(GOOD, service("bad", source=None, input="[{storage_provider: ftp, path: bad/in}]")),
        "storage_provider",
    ),
    "bad quantity": (document(GOOD, service("bad", memory="12 potatoes")), "memory"),
    "zero processors": (document(GOOD, service("bad", cpu="0")), "cpu"),
    "capital letters": (document(GOOD, service("bad").replace("name: bad", "name: Bad_Name")), "name"),
    "a name too long": (document(GOOD, service("bad").replace("name: bad", f"name: {'x' * 40}")), "name"),
    "output into own input": (document(GOOD, service("bad", source="bad/x", target="bad/x")), "own input"),
    "output below own input": (
        document(GOOD, service("bad", source="bad/x", target=None, output=f"[{entry('bad/x/')}]")),
        "own input",
    ),
    "negative retries": (document(GOOD, service("bad", retries=-1)), "retries"),
    "the same key twice": (document(GOOD, service("bad") + "      name: worse\n"), "twice"),
    "no name": (document(GOOD, service("bad").replace("      name: bad\n", "")), "name"),
    "a bucket that cannot be": (document(GOOD, service("bad", source="BAD_bucket/in")), "bucket"),
    "escape by path": (document(GOOD, service("bad", source="bad/../../etc")), ".."),
    "the platform's own bucket": (document(GOOD, service("bad", source="penstock-system/logs")), "penstock-system"),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_definition_is_told_in_a_sentence_and_nothing_is_deployed(
    shop: Shop, http: aiohttp.ClientSession, case: str
) -> None:
    fdl, told = BAD[case]
    scripts = {"good.sh": COPY, "bad.sh": COPY}
    async with http.post("/v1/apply", json={"fdl": fdl, "scripts": scripts}) as answer:
        said = await answer.text()
        assert answer.status == 400, said
    assert told.lower() in said.lower()
    assert len(said.strip().splitlines()) == 1
    assert len(said) < 500
    assert await shop.client.functions() == []
    assert await shop.client.buckets() == []


@pytest.mark.parametrize("case", BAD)
def test_the_command_line_says_the_same_with_code_7(cli: Cli, tmp_path: Path, case: str) -> None:
    fdl, told = BAD[case]
    path = tmp_path / "functions.yaml"
    path.write_text(fdl)
    for name in ("good", "bad"):
        (tmp_path / f"{name}.sh").write_text(COPY)
    before = cli.json("function", "ls")
    for command in ("validate", "apply"):
        done = cli(command, path, code=7)
        assert done.out == ""
        assert done.err.startswith("penstock: ")
        assert "functions.yaml" in done.err
        assert told.lower() in done.err.lower()
        assert len(done.err.splitlines()) == 1
    assert cli.json("function", "ls") == before


async def test_a_missing_script_is_named(shop: Shop) -> None:
    with pytest.raises(InvalidInput, match=r"script 'bad\.sh'"):
        await shop.client.apply(document(GOOD, service("bad")), {"good.sh": COPY})
    assert await shop.client.functions() == []


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"], ids=["missing", "no text"])
def test_a_missing_or_unreadable_script_is_named_by_the_command(
    cli: Cli, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "functions.yaml"
    path.write_text(document(service("bad")))
    if content is not None:
        (tmp_path / "bad.sh").write_bytes(content)
    done = cli("apply", path, code=7)
    assert "bad.sh" in done.err
    assert len(done.err.splitlines()) == 1
    assert "bad" not in [one["name"] for one in cli.json("function", "ls")["functions"]]


def test_an_empty_script_is_refused(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "functions.yaml"
    path.write_text(document(service("hollow", source=None)))
    (tmp_path / "hollow.sh").write_text(" \n")
    done = cli("apply", path, code=7)
    assert "script" in done.err


def test_an_fdl_file_that_is_not_there(cli: Cli, tmp_path: Path) -> None:
    done = cli("apply", tmp_path / "nothing.yaml", code=5)
    assert "nothing.yaml" in done.err
    assert len(done.err.splitlines()) == 1
