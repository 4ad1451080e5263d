"""Every command of a user's day against the production gateway, with simulated pods that all succeed.

Watcher, dispatcher and two gateways run as processes; the user's `penstock` is a process too and knows only an address
and a password.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from penstock.model import TOPIC_EVENTS
from penstock.ports import LogEntry
from tests.production.platform import ADMIN_PASSWORD, Platform, Process, eventually, installed
from tests.production_gateway.user import User
from tests.testbed.bed import Bed
from tests.testbed.errors import MissingPart

pytestmark = [pytest.mark.components, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


class Place:
    """An installation with two gateways, and a user who has logged in to the first."""

    def __init__(self, platform: Platform, first: Process, second: Process, user: User) -> None:
        self.platform = platform
        self.first = first
        self.second = second
        self.user = user

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """Options that lead to the second gateway without a login."""
        return ("--server", self.second.address, "--token", ADMIN_PASSWORD)

    def name(self, what: str) -> str:
        return f"{what}-{self.platform.mark}"

    async def apply(self, *functions: dict[str, Any], options: tuple[str, ...] = ()) -> list[str]:
        """Deploy through the command line; returns what was done with each."""
        document = {"functions": {"oscar": [{"any": function} for function in functions]}}
        self.user.write("script.sh", "true\n")
        path = self.user.write(f"{functions[0]['name']}.yaml", json.dumps(document))
        done = await self.user.json("apply", path, *options)
        return [str(one["action"]) for one in done["functions"]]

    async def submitted(self, function: str, *options: str) -> str:
        return str((await self.user.json("submit", function, self.user.write("body", "hello"), *options))["invocation"])


def function(name: str, source: str, target: str = "") -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": name,
        "image": "example/any:1",
        "script": "script.sh",
        "cpu": "0.1",
        "memory": "64Mi",
        "input": [{"storage_provider": "minio", "path": f"{source}/in"}],
    }
    if target:
        made["output"] = [{"storage_provider": "minio", "path": f"{target}/in"}]
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    try:
        await bed.start("minio", "kafka", "kubernetes", "kwok")
    except MissingPart as missing:
        pytest.skip(str(missing))
    folder = tmp_path_factory.mktemp("gateway")
    async with installed(bed, folder, real=False) as platform:
        await bed.kwok.add_nodes(2, prefix=platform.mark)
        first, second = await platform.start("gateway"), await platform.start("gateway")
        await first.ready()
        await second.ready()
        user = User(folder / "home")
        await user.login(first.address)
        yield Place(platform, first, second, user)


async def test_a_chain_is_deployed_fed_watched_and_read(place: Place) -> None:
    user, one, two = place.user, place.name("one"), place.name("two")
    begin, middle = place.name("begin"), place.name("middle")
    assert await place.apply(function(one, begin, middle), function(two, middle)) == ["created", "created"]
    assert await place.apply(function(one, begin, middle), function(two, middle)) == ["unchanged", "unchanged"]
    assert {one, two} <= {found["name"] for found in (await user.json("function", "ls"))["functions"]}
    watching = await user.start("--output", "json", "watch", "--function", one)
    try:
        names = [user.write(f"{number}.txt", str(number)) for number in range(3)]
        await user("put", *names, f"{begin}/in/")
        seen: dict[str, set[str]] = {}
        async with asyncio.timeout(120):
            assert watching.stdout is not None
            while sum("succeeded" in phases for phases in seen.values()) < 3:
                change = json.loads(await watching.stdout.readline())
                if "id" in change:
                    seen.setdefault(change["id"], set()).add(change["phase"])
    finally:
        with contextlib.suppress(ProcessLookupError):
            watching.send_signal(signal.SIGINT)
        await asyncio.wait_for(watching.communicate(), 30)
    listed = await user.invocations("--function", one)
    assert sorted(found["key"] for found in listed) == ["in/0.txt", "in/1.txt", "in/2.txt"]
    assert {found["phase"] for found in listed} == {"succeeded"}
    shown = await user.shown(listed[0]["id"][:12])
    phases = [mark["phase"] for mark in shown["timeline"]]
    assert (phases[0], phases[-1], shown["attempt"]) == ("queued", "succeeded", 1)
    # A simulated pod writes nothing, and nothing was archived: an empty log is no error.
    assert (await user("invocation", "logs", listed[0]["id"])).out == ""
    assert one in (await user("status")).out
    assert sorted(found["key"] for found in (await user.json("ls", f"{begin}/in/"))["objects"]) == [
        "in/",
        "in/0.txt",
        "in/1.txt",
        "in/2.txt",
    ]


async def test_what_succeeded_is_replayed_and_what_was_there_before_is_counted(place: Place) -> None:
    user, name, bucket = place.user, place.name("again"), place.name("older")
    await user("put", "--create-bucket", user.write("old.txt", "old"), f"{bucket}/in/")
    await place.apply(function(name, bucket))
    told = await user.json("backfill", name, "--dry-run")
    assert (told["matched"], told["examples"]) == (1, [f"{bucket}/in/old.txt"])
    assert await user.invocations("--function", name) == [], "a dry run queues nothing"
    assert (await user.json("backfill", name))["matched"] == 1

    async def filled() -> bool:
        found = await user.invocations("--function", name, "--phase", "succeeded")
        return [one["key"] for one in found] == ["in/old.txt"]

    await eventually("the older object was run", filled)
    assert (await user.json("backfill", name, "--dry-run"))["matched"] == 0
    assert (await user.json("replay", name, "--dry-run"))["matched"] == 0, "nothing failed"
    assert (await user.json("replay", name, "--force"))["matched"] == 1
    (only,) = await user.invocations("--function", name)

    async def again() -> bool:
        found = await user.shown(only["id"])
        return (found["phase"], found["attempt"]) == ("succeeded", 2)

    await eventually("it was run again", again)


async def test_a_paused_function_queues_and_a_cancelled_item_never_starts(place: Place) -> None:
    user, name = place.user, place.name("held")
    await place.apply(function(name, place.name("held")))
    await user("function", "pause", name)
    kept, dropped = await place.submitted(name), await place.submitted(name)
    listed = {found["id"]: found["phase"] for found in await user.invocations("--function", name)}
    assert listed == {kept: "queued", dropped: "queued"}, "what was answered 201 is listed at once"
    await user("invocation", "cancel", dropped)
    ended = await user.until(dropped, "cancelled")
    assert "cancelled by oscar" in ended["reason"] or "cancelled by" in ended["reason"]
    assert (await user.shown(kept))["phase"] == "queued"
    await user("function", "resume", name)
    assert (await user.until(kept, "succeeded"))["attempt"] == 1
    assert (await user.shown(dropped))["phase"] == "cancelled"


async def test_a_cancel_before_anybody_has_recorded_the_submission_is_not_lost(place: Place) -> None:
    user, name = place.user, place.name("early")
    await place.apply(function(name, place.name("early")))
    await user("function", "pause", name)
    place.platform.dispatcher.send(signal.SIGSTOP)
    try:
        invocation = await place.submitted(name)
        await user("invocation", "cancel", invocation)
    finally:
        place.platform.dispatcher.send(signal.SIGCONT)
    await user.until(invocation, "cancelled")
    await user("function", "resume", name)
    behind = await place.submitted(name)
    await user.until(behind, "succeeded")
    assert (await user.shown(invocation))["phase"] == "cancelled"


async def test_an_entry_that_nobody_understands_is_shown_and_dropped(place: Place) -> None:
    user = place.user
    await place.platform.log.append(TOPIC_EVENTS, [LogEntry("x", b"no event at all")])
    dead: list[dict[str, Any]] = []

    async def buried() -> bool:
        dead[:] = [one for one in (await user.json("dead", "ls"))["dead"] if one["kind"] == "event"]
        return bool(dead)

    await eventually("it is listed among the dead letters", buried)
    assert "no event at all" in (await user("dead", "show", dead[0]["id"])).out
    await user("dead", "drop", dead[0]["id"])

    async def gone() -> bool:
        return not (await user.json("dead", "ls"))["dead"]

    await eventually("it is dropped", gone)


async def test_what_is_deployed_through_one_gateway_is_seen_by_the_other(place: Place) -> None:
    user, name = place.user, place.name("shared")
    assert await place.apply(function(name, place.name("shared"))) == ["created"]

    async def known() -> bool:
        found = (await user.json("function", "ls", *place.elsewhere))["functions"]
        return name in {one["name"] for one in found}

    await eventually("the other gateway knows it", known)
    through = await place.submitted(name, *place.elsewhere)
    await user.until(through, "succeeded")
    await user("function", "pause", name, *place.elsewhere)

    async def paused() -> bool:
        return bool((await user.json("function", "show", name))["paused"])

    await eventually("the pause is seen here", paused)
    await user("function", "rm", name, *place.elsewhere)

    async def removed() -> bool:
        return name not in {one["name"] for one in (await user.json("function", "ls"))["functions"]}

    await eventually("the removal is seen here", removed)


async def test_removing_a_function_cancels_what_it_has_queued(place: Place, tmp_path: Path) -> None:
    user, name = place.user, place.name("removed")
    await place.apply(function(name, place.name("removed")))
    await user("function", "pause", name)
    invocation = await place.submitted(name)
    await user("function", "rm", name)
    ended = await user.until(invocation, "cancelled")
    assert name in ended["reason"]
    assert (await user("function", "show", name, code=5)).err.startswith(f"penstock: there is no function '{name}'")


async def test_a_wrong_password_is_refused_in_one_sentence(place: Place, tmp_path: Path) -> None:
    stranger = User(tmp_path / "stranger")
    refused = await stranger("login", place.first.address, "--user", "oscar", "--password-stdin", text="wrong", code=4)
    assert len(refused.err.strip().splitlines()) == 1
    assert ADMIN_PASSWORD not in refused.err


async def test_history_whose_time_is_over_is_forgotten_by_every_gateway(place: Place) -> None:
    """The last one here: the dispatcher comes back with a patience of seconds where it had months."""
    user, name = place.user, place.name("old")
    await place.apply(function(name, place.name("old")))
    await user.until(await place.submitted(name), "succeeded")
    dispatcher = place.platform.dispatcher
    assert await dispatcher.end() == 0
    dispatcher.env |= {"PENSTOCK_HISTORY_KEEP_DAYS": str(1 / 86400), "PENSTOCK_HISTORY_INTERVAL_S": "1"}
    await dispatcher.start()
    await dispatcher.ready()
    for options in ((), place.elsewhere):

        async def forgotten(options: tuple[str, ...] = options) -> bool:
            return not (await user.json("invocation", "ls", "--all", *options))["invocations"]

        await eventually("nothing is left of the history", forgotten)
    await place.platform.history.read()
    assert place.platform.history.all
    assert not place.platform.history.latest
    # A gateway that comes back later reads the same history, and the functions go on.
    await place.second.kill()
    await place.second.start()
    await place.second.ready()
    assert (await user.json("invocation", "ls", "--all", *place.elsewhere))["invocations"] == []
    assert name in {one["name"] for one in (await user.json("function", "ls", *place.elsewhere))["functions"]}
