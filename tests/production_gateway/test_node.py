"""The gateway on a real node: what a user sees of work that runs in pods, while it runs and when the pod is gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.production.node import on_the_node
from tests.production.platform import Platform, eventually
from tests.production_gateway.user import User
from tests.testbed.bed import Bed
from tests.testbed.images import BUSYBOX

pytestmark = [pytest.mark.components, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

SHOUT = 'tr a-z A-Z < "$INPUT_FILE_PATH" > "$TMP_OUTPUT_DIR/answer.txt"; echo "shouted $(wc -c < "$INPUT_FILE_PATH")"\n'
#: Long enough to be looked at while it runs, whatever else the machine does.
LONG = "echo begun; sleep 25; echo ended\n"


class Place:
    def __init__(self, platform: Platform, user: User) -> None:
        self.platform = platform
        self.user = user

    async def deploy(self, what: str, script: str) -> str:
        name = f"{what}-{self.platform.mark}"
        await deploy(self.user, name, script)
        return name


async def deploy(user: User, name: str, script: str) -> None:
    function = {
        "name": name,
        "image": BUSYBOX,
        "script": f"{name}.sh",
        "cpu": "0.05",
        "memory": "32Mi",
        "input": [{"storage_provider": "minio", "path": f"{name}/in"}],
        "output": [{"storage_provider": "minio", "path": f"{name}/out"}],
    }
    user.write(f"{name}.sh", script)
    path = user.write(f"{name}.yaml", json.dumps({"functions": {"oscar": [{"any": function}]}}))
    assert (await user.json("apply", path))["functions"][0]["action"] == "created"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    folder = tmp_path_factory.mktemp("node-gateway")
    async with on_the_node(bed, folder) as platform:
        gateway = await platform.start("gateway")
        await gateway.ready()
        user = User(folder / "home")
        await user.login(gateway.address)
        yield Place(platform, user)


async def test_an_upload_runs_and_its_log_outlives_the_pod(place: Place) -> None:
    user, name = place.user, await place.deploy("shout", SHOUT)
    await user("put", user.write("word.txt", "hello"), f"{name}/in/")
    found: list[str] = []

    async def done() -> bool:
        found[:] = [one["id"] for one in await user.invocations("--function", name, "--phase", "succeeded")]
        return len(found) == 1

    await eventually("the upload was run", done, 300)
    assert (await user("get", f"{name}/out/answer.txt", "-o", "-")).out == "HELLO"
    shown = await user.shown(found[0])
    assert shown["outputs"][0]["key"] == "out/answer.txt"

    async def gone() -> bool:
        return not await place.platform.pods(shown["job"])

    await eventually("its pod is gone", gone)
    assert (await user("invocation", "logs", found[0])).out == "shouted 5\n"


async def test_a_posted_body_runs_and_a_synchronous_run_answers(place: Place) -> None:
    user, name = place.user, await place.deploy("bodies", SHOUT)
    body = user.write("body.txt", "some words")
    invocation = str((await user.json("submit", name, body))["invocation"])
    assert invocation in {one["id"] for one in await user.invocations("--function", name)}, "listed at once"
    assert (await user("run", name, body, "--timeout", "240")).out == "SOME WORDS"
    assert (await user.until(invocation, "succeeded"))["exit_code"] == 0
    # Too large for the log: it lies in the store, where the function's own sidecars alone may read it.
    large = str((await user.json("submit", name, user.write("large.txt", "some words\n" * 10_000)))["invocation"])
    assert (await user.until(large, "succeeded"))["exit_code"] == 0
    assert (await user("invocation", "logs", large)).out == "shouted 110000\n"
    failing = await place.deploy("failing", "echo 'no such model' >&2; exit 3\n")
    refused = await user("run", failing, body, "--timeout", "240", code=1)
    assert "code 3" in refused.err
    assert "no such model" in refused.err


async def test_the_log_is_seen_while_the_script_runs(place: Place) -> None:
    user, name = place.user, await place.deploy("slow", LONG)
    invocation = str((await user.json("submit", name, user.write("x", "x")))["invocation"])
    following = await user.start("invocation", "logs", "-f", invocation)
    assert following.stdout is not None
    async with asyncio.timeout(240):
        assert await following.stdout.readline() == b"begun\n"
        assert (await user.shown(invocation))["phase"] in {"planned", "submitted", "running"}, "before its end"
        out, err = await following.communicate()
    assert (out, following.returncode) == (b"ended\n", 0), err
    assert (await user.until(invocation, "succeeded"))["exit_code"] == 0
    assert (await user("invocation", "logs", invocation)).out == "begun\nended\n"
