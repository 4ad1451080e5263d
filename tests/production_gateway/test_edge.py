"""The edge profile end to end on a real node: killed in the middle nothing is lost and nothing succeeds twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.model import Phase
from tests.production.platform import eventually
from tests.production_gateway.edge import edge_of, memory_mib
from tests.production_gateway.test_node import SHOUT, deploy
from tests.production_gateway.user import User
from tests.testbed.bed import Bed
from tests.testbed.errors import MissingPart

pytestmark = [pytest.mark.components, pytest.mark.slow]

#: What one process of everything may take when there is nothing to do.
PROMISED_MIB = 400.0


async def test_one_process_does_it_all_and_outlives_its_own_death(bed: Bed, tmp_path: Path) -> None:
    try:
        await bed.start("minio", "network", "images")
    except MissingPart as missing:
        pytest.skip(str(missing))
    async with edge_of(bed, tmp_path) as edge:
        user, name = User(tmp_path / "home"), f"edge-{edge.mark}"
        await user.login(edge.process.address)
        idle = memory_mib(edge.process.pid)
        print(f"edge profile, idle: {idle['rss']:.0f} MiB resident, {idle['pss']:.0f} MiB its own share")  # noqa: T201 - a figure
        assert idle["rss"] < PROMISED_MIB

        await deploy(user, name, 'cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/"; echo "did $STORAGE_OBJECT_KEY"\n')
        names = [f"{number}.txt" for number in range(6)]
        for one in names[:4]:
            await edge.put(name, f"in/{one}", one.encode())

        async def some() -> bool:
            return bool(await edge.keys(name, "out/0") or await edge.keys(name, "out/1"))

        await eventually("the first output is there", some, 300)
        submitted = str((await user.json("submit", name, user.write("body", "by hand")))["invocation"])
        await edge.process.kill()
        for one in names[4:]:
            await edge.put(name, f"in/{one}", one.encode())
        await edge.process.start()
        await edge.process.ready()

        async def all_done() -> bool:
            return len(await user.invocations("--function", name, "--phase", "succeeded")) == len(names) + 1

        await eventually("everything has succeeded", all_done, 400)
        assert (await user.shown(submitted))["phase"] == "succeeded"
        outputs = {key.removeprefix("out/") for key in await edge.keys(name, "out/")} - {""}
        assert set(names) <= outputs
        record = (await user.invocations("--function", name, "--prefix", f"{name}/in/5"))[0]
        assert (await user("invocation", "logs", record["id"])).out == "did in/5.txt\n"
        await deploy(user, f"loud-{edge.mark}", SHOUT)
        assert (await user("run", f"loud-{edge.mark}", user.write("w", "word"), "--timeout", "240")).out == "WORD"

        rival = await edge.rival()
        code = await rival.exited()
        said = [line for line in rival.tail().splitlines() if "in use by another process" in line]
        assert (code, len(said)) == (1, 1), rival.tail()
        assert "Traceback" not in rival.tail()

        assert await edge.process.end() == 0
        history = await edge.told()
        assert {record.phase for record in history.latest.values()} == {Phase.SUCCEEDED}
        assert len(history.latest) == len(names) + 2
        assert set(history.successes().values()) == {1}
