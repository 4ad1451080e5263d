"""The commands against a real server: a `penstock up` in a child process, found as a user's commands find it."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from penstock.client import Client
from tests.gateway.cli.conftest import Cli


def text(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# Functions


def test_apply_again_changes_nothing(cli: Cli) -> None:
    applied = cli.json("apply", cli.up.fdl)
    assert [(one["name"], one["action"]) for one in applied["functions"]] == [
        ("upper", "unchanged"),
        ("gated", "unchanged"),
    ]


def test_a_dry_run_says_what_would_change_and_changes_nothing(cli: Cli, tmp_path: Path) -> None:
    changed = text(tmp_path / "f.yaml", cli.up.fdl.read_text().replace("name: upper", "name: lower"))
    for script in ("upper.sh", "gated.sh"):
        text(tmp_path / script, (cli.up.root / script).read_text())
    assert "lower     would be created" in cli("apply", "--dry-run", changed).out
    assert "lower" not in cli("function", "ls").out


def test_of_several_files_none_is_deployed_when_one_is_bad(cli: Cli, tmp_path: Path) -> None:
    text(tmp_path / "s.sh", "true\n")
    good = text(tmp_path / "good.yaml", "functions: {oscar: [{l: {name: good, script: s.sh}}]}")
    bad = text(tmp_path / "bad.yaml", "functions: {oscar: [{l: {name: Not_Good, script: s.sh}}]}")
    done = cli("apply", good, bad, code=7)
    assert "bad.yaml" in done.err
    assert "good" not in [one["name"] for one in cli.json("function", "ls")["functions"]]


def test_functions_are_paused_resumed_shown_and_removed(cli: Cli, tmp_path: Path) -> None:
    text(tmp_path / "s.sh", "true\n")
    cli("apply", text(tmp_path / "f.yaml", "functions: {oscar: [{l: {name: passing, script: s.sh}}]}"))
    assert cli("function", "pause", "passing").out == "passing paused\n"
    assert cli.json("function", "show", "passing")["paused"] is True
    assert "paused" in cli("function", "ls").out
    cli("function", "resume", "passing")
    assert "script: |\n  true" in cli("function", "show", "passing").out
    assert cli.json("function", "rm", "passing") == {"functions": [{"name": "passing", "action": "removed"}]}
    assert cli("function", "show", "passing", code=5).err == (
        "penstock: there is no function 'passing'. There are: gated, upper.\n"
    )


def test_a_misspelt_function_gets_a_suggestion(cli: Cli) -> None:
    assert cli("function", "show", "uper", code=5).err.endswith("Did you mean 'upper'?\n")
    assert cli("run", "uper", code=5).err.endswith("Did you mean 'upper'?\n")
    assert cli("invocation", "ls", "--function", "uper", code=5).err.endswith("Did you mean 'upper'?\n")
    assert cli("watch", "--function", "uper", code=5).err.endswith("Did you mean 'upper'?\n")


# Objects


def test_objects_go_up_and_come_down_as_they_are(cli: Cli, tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    text(tmp_path / "x.bin", data)
    assert cli("put", "--create-bucket", "x.bin", "files/deep/").out == "files/deep/x.bin (1.2 MiB)\n"
    cli("get", "files/deep/x.bin", "-o", "y.bin")
    assert (tmp_path / "y.bin").read_bytes() == data
    assert (tmp_path / "y.bin").stat().st_mode & 0o777 == (tmp_path / "x.bin").stat().st_mode & 0o777
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("key", ["a b", "a+b", "100%", "%41", "%252F", "ñandú/日本", "a?b#c", "semi;colon=&"])
def test_any_key_is_meant_literally(cli: Cli, tmp_path: Path, key: str) -> None:
    cli("put", "--create-bucket", text(tmp_path / "f", key), f"keys/{key}")
    assert (cli.up.data / "buckets" / "keys" / key).read_text() == key
    assert cli("get", f"keys/{key}", "-o", "-").out == key
    assert key in [one["key"] for one in cli.json("ls", f"keys/{key}")["objects"]]


@pytest.mark.parametrize("key", ["../escape", "a/../../escape", "a//b"])
def test_a_key_that_a_folder_cannot_hold_is_refused_in_a_sentence(cli: Cli, tmp_path: Path, key: str) -> None:
    done = cli("put", "--create-bucket", text(tmp_path / "f", "x"), f"keys/{key}", code=7)
    assert len(done.err.splitlines()) == 1
    assert not list(cli.up.root.rglob("escape"))


def test_nothing_is_overwritten_without_force(cli: Cli, tmp_path: Path) -> None:
    cli("put", "--create-bucket", text(tmp_path / "f", "new"), "files/f")
    text(tmp_path / "f", "old")
    assert "--force" in cli("get", "files/f", code=6).err
    assert (tmp_path / "f").read_text() == "old"
    cli("get", "files/f", "--force")
    assert (tmp_path / "f").read_text() == "new"


def test_what_is_not_there_leaves_no_file(cli: Cli, tmp_path: Path) -> None:
    cli("get", "files/nothing", code=5)
    cli("get", "no-such-bucket/x", code=5)
    cli("put", text(tmp_path / "f", "x"), "no-such-bucket/x", code=5)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_folder_goes_up_and_is_listed_in_pages(cli: Cli, tmp_path: Path) -> None:
    for number in range(12):
        text(tmp_path / f"{number:02}", "x")
    sent = cli.json("put", "-r", "--create-bucket", tmp_path, "many/")["objects"]
    assert [one["key"] for one in sent] == [f"{number:02}" for number in range(12)]
    page = cli("ls", "many", "--limit", "5")
    assert len(page.out.splitlines()) == 6
    assert "more than 5" in page.err
    assert len(cli.json("ls", "many", "--all")["objects"]) == 12
    assert "many" in cli("ls").out.splitlines()


def test_an_empty_file_is_an_object(cli: Cli, tmp_path: Path) -> None:
    cli("put", "--create-bucket", text(tmp_path / "empty", ""), "files/")
    assert cli("get", "files/empty", "-o", "-").out == ""


# Work


def test_a_dropped_file_is_worked_on_and_its_story_told(cli: Cli, tmp_path: Path) -> None:
    identity = cli.submitted("upper", "hello")
    shown = cli("submit", "upper", text(tmp_path / "t", "hi"), "--wait")
    assert " succeeded in " in shown.out
    assert "-> texts/out/" in shown.out
    short = identity[:12]
    assert cli.json("invocation", "show", short)["id"] == identity
    story = cli("invocation", "show", short).out
    assert "queued" in story
    assert "whole time: " in story
    assert short in cli("invocation", "ls", "--function", "upper", "--since", "10m").out


def test_run_prints_the_answer(cli: Cli, tmp_path: Path) -> None:
    body = text(tmp_path / "t", "hello")
    assert cli("run", "upper", body).out == "HELLO"
    assert cli("run", "upper", body, "--raw").out.strip() == base64.b64encode(b"HELLO").decode()
    cli("run", "upper", body, "-o", "answer")
    assert (tmp_path / "answer").read_text() == "HELLO"
    assert cli.json("run", "upper", body)["answer"].strip() == base64.b64encode(b"HELLO").decode()


def test_what_is_posted_reaches_the_script_as_it_is(cli: Cli, tmp_path: Path) -> None:
    # Text that is valid base64, and JSON: neither may be taken for something else.
    for content in ("aGVsbG8=", '{"a": 1}', '"x"', "1234"):
        assert cli("run", "upper", text(tmp_path / "t", content)).out == content.upper()


def test_a_failing_script_says_why_and_exits_1(cli: Cli, tmp_path: Path) -> None:
    body = text(tmp_path / "t", "FAIL")
    done = cli("run", "upper", body, code=1)
    assert done.out == ""
    assert "code 3" in done.err
    assert "cannot shout this" in done.err
    waited = cli("submit", "upper", body, "--wait", code=1)
    assert "failed" in waited.out
    identity = cli.json("invocation", "ls", "--phase", "failed", "--limit", "1")["invocations"][0]["id"]
    assert "cannot shout this" in cli("invocation", "logs", identity).out
    cli("invocation", "cancel", identity, code=6)


def test_running_work_is_cancelled(cli: Cli) -> None:
    identity = cli.submitted("gated", "x")
    cli("invocation", "cancel", identity[:12])
    ended = cli("run", "upper", code=0)  # the platform goes on
    assert ended.code == 0
    cli("invocation", "logs", "-f", identity)  # returns when the attempt has ended
    assert cli.json("invocation", "show", identity)["phase"] == "cancelled"


def test_a_run_that_takes_too_long_goes_on(cli: Cli) -> None:
    done = cli("run", "gated", "--timeout", "0.5", code=1)
    assert "goes on as invocation" in done.err
    identity = done.err.rsplit(" ", 1)[1].strip(".\n")
    cli("invocation", "cancel", identity)


def test_replay_and_backfill_count_before_they_order(cli: Cli, tmp_path: Path) -> None:
    cli("run", "upper", text(tmp_path / "t", "FAIL"), code=1)
    dry = cli.json("replay", "upper", "--dry-run")
    assert dry["matched"] >= 1
    assert dry["command"] is None
    assert cli("replay", "upper", "--prefix", "nowhere/").out.startswith("Nothing to do")
    assert cli("backfill", "gated", "--dry-run").out.startswith("Nothing to do")
    cli("replay", "upper", "--since", "soon", code=7)


def test_status_counts(cli: Cli) -> None:
    cli("run", "upper")
    told = cli.json("status")
    assert [one["name"] for one in told["functions"]] == ["gated", "upper"]
    assert next(one["succeeded"] for one in told["functions"] if one["name"] == "upper") >= 1
    assert str(cli.up.data) in cli("status").out


def test_nothing_is_dead_and_a_wrong_id_is_told(cli: Cli) -> None:
    assert cli("dead", "ls").out == "Nothing is dead.\n"
    assert "nothing dead has an id that starts with 'abc'" in cli("dead", "show", "abc", code=5).err
    assert cli("dead", "retry", "--all").out == "Nothing to do.\n"
    cli("dead", "drop", code=2)


@pytest.mark.parametrize("name", ["abc", "xyz", "0" * 12])
def test_an_id_that_names_nothing_is_refused(cli: Cli, name: str) -> None:
    done = cli("invocation", "show", name, code=5 if len(name) > 6 else 7)
    assert len(done.err.splitlines()) == 1


# Who may, and where


def test_options_work_on_both_sides_of_the_command(cli: Cli) -> None:
    assert json.loads(cli("ls", "--output", "json").out) == json.loads(cli("--output", "json", "ls").out)


def test_a_wrong_token_is_told_and_not_repeated(cli: Cli) -> None:
    done = cli("status", "--token", "wrong-secret", code=4)
    assert "does not know this token" in done.err
    assert "wrong-secret" not in done.err


def test_without_a_token_one_is_asked_for(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/nonexistent")
    assert "wants a token" in cli("status", "--server", cli.up.address, code=4).err
    monkeypatch.setenv("PENSTOCK_TOKEN", cli.up.token)
    monkeypatch.setenv("PENSTOCK_SERVER", cli.up.address)
    cli("status")


def test_no_server_is_told(cli: Cli, unused_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no server answers" in cli("status", "--server", f"127.0.0.1:{unused_port}", code=3).err
    monkeypatch.setenv("XDG_STATE_HOME", "/nonexistent")
    assert "penstock up" in cli("status", code=3).err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["statsu"], "Did you mean 'status'?"),
        (["invocation", "lst"], "Did you mean 'ls'?"),
        (["zebra"], "--help"),
        (["ls", "--limt", "5"], "--limit"),
        (["get"], "BUCKET/KEY"),
        (["--output", "yaml", "ls"], "table"),
    ],
)
def test_a_mistyped_command_line_is_helped(cli: Cli, arguments: list[str], told: str) -> None:
    assert told in cli(*arguments, code=2).err


async def test_the_client_sees_changes_from_the_moment_it_subscribed(cli: Cli) -> None:
    async with Client(cli.up.address, cli.up.token) as client, client.changes() as changes:
        identity = await client.submit("upper", b"x")
        phases = []
        async for change in changes:
            if change.invocation is not None and change.invocation.id == identity:
                phases.append(change.invocation.phase)
                if change.invocation.final:
                    break
    assert phases[0] == "queued"
    assert phases[-1] == "succeeded"
