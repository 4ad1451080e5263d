"""The contract of the `Runner` port, for every adapter: what it promises about Jobs, items, logs and results."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from penstock import tracing
from penstock.errors import AlreadyExists, Closed, InvalidInput, NotFound
from penstock.model import ErrorClass, JobPhase, JobStatus, Volume
from penstock.model.objects import META_TRACE
from penstock.ports import KeepsResults
from tests.kubernetes.bench import kubernetes_bench, prepare_node
from tests.process_runner.support import Bench, alive, collect, eventually, outputs_of, plan, process_bench

#: (name, factory taking a folder): a production adapter is added here.
ADAPTERS: list[tuple[str, Callable[[Path], AbstractAsyncContextManager[Bench]]]] = [
    ("process", process_bench),
    ("kubernetes", kubernetes_bench),
]
#: These need real servers from the test bed.
SERVED = {"kubernetes"}


@pytest.fixture(
    params=[pytest.param(one, marks=[pytest.mark.components] * (one[0] in SERVED), id=one[0]) for one in ADAPTERS]
)
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    name, factory = request.param
    if name in SERVED:
        await prepare_node(*map(request.getfixturevalue, ("kubernetes", "node", "images", "minio")))
    async with factory(tmp_path) as made:
        yield made


#: Leaves something behind in the working directory, and fails where something was left.
ALONE = '[ -z "$(ls)" ] || exit 9; touch mine; '
COPY = 'cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/"'


async def test_one_item_runs_and_its_output_carries_its_lineage(bench: Bench) -> None:
    event = await bench.put(data=b"hello")
    (result,) = await bench.run(plan(COPY, event))
    assert (result.error, result.exit_code, result.message) == (None, 0, "")
    (output,) = result.outputs
    assert (output.bucket, output.key, output.size, output.written) == ("results", "out/pic ture.txt", 5, True)
    assert await bench.get("results", "out/pic ture.txt") == b"hello"
    info = await bench.store.head("results", "out/pic ture.txt")
    assert info.etag == output.etag
    assert info.metadata == {
        "penstock-invocation": "job-1-0",
        "penstock-input": event.identity,
        "penstock-hops": "1",
        "penstock-sha256": output.sha256,
        META_TRACE: info.metadata[META_TRACE],
    }
    assert tracing.parsed(info.metadata[META_TRACE])
    assert 0 < result.staged_ms <= result.started_ms <= result.finished_ms <= result.published_ms


async def test_a_list_runs_in_order_each_item_in_its_own_folder(bench: Bench) -> None:
    events = [await bench.put(f"{number}.txt", b"%d" % number) for number in range(4)]
    script = f'{ALONE if bench.own_folder else ""}mv "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/"; echo "$INPUT_FILE_PATH"'
    results = await bench.run(plan(script, *events))
    assert [result.error for result in results] == [None] * 4
    assert outputs_of(results) == [[f"out/{number}.txt"] for number in range(4)]
    reported = [result.invocation for status in bench.seen for result in status.results]
    assert set(reported) == {f"job-1-{number}" for number in range(4)}
    currents = [status.current for status in bench.seen if status.current is not None]
    assert currents == sorted(currents)
    assert not bench.prompt or set(currents) == {0, 1, 2, 3}


async def test_the_same_plan_again_starts_nothing_twice(bench: Bench, tmp_path: Path) -> None:
    event = await bench.put()
    counted = plan(f"echo x >>{tmp_path}/runs", event)
    await bench.runner.submit(counted)
    await bench.runner.submit(counted)
    await bench.end("job-1")
    await bench.runner.submit(counted)
    runner = await bench.reopen()
    await runner.submit(counted)
    (status,) = await runner.jobs()
    assert status.phase is JobPhase.FINISHED
    assert [result.error for result in status.results] == [None]
    assert (tmp_path / "runs").read_text() == "x\n"


async def test_another_plan_under_a_taken_name_is_refused(bench: Bench) -> None:
    event = await bench.put()
    await bench.run(plan("true", event))
    with pytest.raises(AlreadyExists):
        await bench.runner.submit(plan("false", event))


async def test_forgetting_frees_the_name_and_keeps_the_published(bench: Bench) -> None:
    event = await bench.put()
    await bench.run(plan(COPY, event))
    await bench.runner.forget("job-1")
    await bench.runner.forget("job-1")
    assert await bench.runner.jobs() == []
    with pytest.raises(NotFound):
        await collect(bench.runner.log("job-1", "job-1-0"))
    (result,) = await bench.run(plan("exit 3", event))
    assert result.exit_code == 3
    assert await bench.keys() == ["out/pic ture.txt"]


async def test_of_a_forgotten_job_nothing_is_told_any_more(bench: Bench) -> None:
    """Also not what was waiting to be told: its name may be in use again."""
    event = await bench.put()
    await bench.runner.submit(plan("exit 4", event))

    async with asyncio.timeout(bench.patience_s):
        while [status.phase for status in await bench.runner.jobs()] != [JobPhase.FINISHED]:
            await asyncio.sleep(0.05)
    await bench.runner.forget("job-1")
    await bench.run(plan("true", event, name="job-2"))
    assert {status.name for status in bench.seen} == {"job-2"}


async def test_results_are_kept_until_they_are_forgotten(bench: Bench) -> None:
    """Where they outlive the Job (`KeepsResults`) they are asked for by its plan, else the Job itself has them."""
    runner, done = bench.runner, plan("exit 7", await bench.put())

    async def kept() -> list[int | None]:
        if isinstance(runner, KeepsResults):
            return [result.exit_code for result in await runner.left_behind(done)]
        return [result.exit_code for status in await runner.jobs() for result in status.results]

    assert await kept() == []
    await bench.run(done)
    assert await kept() == [7]
    await runner.forget("job-1")
    assert await kept() == []


async def test_a_job_that_nobody_watched_is_told_by_jobs(bench: Bench) -> None:
    event = await bench.put()
    await bench.runner.submit(plan("exit 5", event))
    await bench.end("job-1")
    (status,) = await bench.runner.jobs()
    assert (status.phase, status.results[0].exit_code) == (JobPhase.FINISHED, 5)


@pytest.mark.parametrize("changes", [{"items": ()}, {"name": "../x"}, {"environment": {"A": "\0"}}])
async def test_a_plan_that_cannot_run_is_refused_and_leaves_nothing(bench: Bench, changes: dict[str, Any]) -> None:
    event = await bench.put()
    with pytest.raises(InvalidInput):
        await bench.runner.submit(plan("true", event, **changes))
    assert await bench.runner.jobs() == []


async def test_an_environment_that_is_too_large_is_refused_with_a_sentence(bench: Bench) -> None:
    event = await bench.put()
    with pytest.raises(InvalidInput, match="too large"):
        await bench.runner.submit(plan("true", event, environment={"BIG": "x" * 200_000}))
    assert await bench.runner.jobs() == []


async def test_one_item_is_cancelled_and_the_others_go_on(bench: Bench, tmp_path: Path) -> None:
    events = [await bench.put(f"{number}.txt") for number in range(3)]
    script = f"case $INPUT_FILE_PATH in *0.txt) touch {tmp_path}/up; sleep 1000;; esac; {COPY}"
    await bench.runner.submit(plan(script, *events))
    await eventually((tmp_path / "up").exists, bench.patience_s)
    await bench.runner.cancel("job-1", invocation="job-1-2")
    await bench.runner.cancel("job-1", invocation="job-1-0", reason="not wanted")
    results = (await bench.end("job-1")).results
    assert [result.error for result in results] == [ErrorClass.CANCELLED, None, ErrorClass.CANCELLED]
    assert results[0].message == "not wanted"
    assert outputs_of(results) == [[], ["out/1.txt"], []]


async def test_a_whole_job_is_cancelled(bench: Bench, tmp_path: Path) -> None:
    events = [await bench.put(f"{number}.txt") for number in range(3)]
    await bench.runner.submit(plan(f"touch {tmp_path}/up; sleep 1000", *events))
    await eventually((tmp_path / "up").exists, bench.patience_s)
    await bench.runner.cancel("job-1")
    await bench.runner.cancel("job-1")
    await bench.runner.cancel("no-such-job")
    status = await bench.end("job-1")
    assert [result.error for result in status.results] == [ErrorClass.CANCELLED] * 3
    await bench.runner.cancel("job-1")


async def test_a_deadline_ends_its_item_alone_with_all_its_children(bench: Bench, tmp_path: Path) -> None:
    events = [await bench.put(f"{number}.txt") for number in range(2)]
    # Ignores TERM, and hides a child in a session of its own.
    script = f"""case $INPUT_FILE_PATH in *0.txt)
        trap '' TERM; setsid sh -c 'while :; do echo x >>{tmp_path}/beat; sleep 0.05; done' & sleep 1000; sleep 1000
        esac; {COPY}"""
    results = await bench.run(plan(script, *events, deadline_s=0.5))
    assert [result.error for result in results] == [ErrorClass.DEADLINE, None]
    assert results[0].exit_code == 124
    assert "0.5 s" in results[0].message
    # The second item ran after the first one's end: nothing of it may beat any more.
    beats = (tmp_path / "beat").stat().st_size
    assert beats
    await asyncio.sleep(0.3)
    assert (tmp_path / "beat").stat().st_size == beats


async def test_the_log_is_live_and_outlives_the_item(bench: Bench, tmp_path: Path) -> None:
    event = await bench.put()
    await bench.runner.submit(
        plan(f"echo one; echo two >&2; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; echo three", event)
    )
    following = bench.runner.log("job-1", "job-1-0", follow=True)
    text = b""
    async with asyncio.timeout(bench.patience_s):
        async for chunk in following:
            text += chunk
            if text == b"one\ntwo\n":
                (tmp_path / "go").touch()
    assert text == b"one\ntwo\nthree\n"
    await bench.end("job-1")
    assert await collect(bench.runner.log("job-1", "job-1-0")) == text
    assert await collect(bench.runner.log("job-1", "job-1-0", offset=4)) == b"two\nthree\n"
    with pytest.raises(NotFound):
        await collect(bench.runner.log("job-1", "nobody"))


async def test_following_ends_for_an_item_that_never_starts(bench: Bench) -> None:
    event = await bench.put()
    await bench.store.delete("pictures", event.key)
    await bench.runner.submit(plan("echo x", event))
    assert await collect(bench.runner.log("job-1", "job-1-0", follow=True), bench.patience_s) == b""
    assert (await bench.end("job-1")).results[0].error is ErrorClass.GONE


async def after_closing(bench: Bench) -> JobStatus:
    """What became of the one Job once its runner was closed: from its own last words, or from the next one's."""
    if not bench.outlived:
        return [status async for status in bench.watch][-1]
    runner = await bench.reopen()
    bench.watch = runner.watch()
    (status,) = await runner.jobs()
    return status if status.phase in {JobPhase.FINISHED, JobPhase.LOST} else await bench.end(status.name)


async def test_closing_kills_what_runs_and_says_lost_or_leaves_it_to_the_next_runner(
    bench: Bench, tmp_path: Path
) -> None:
    event = await bench.put()
    script = f"echo $$ >{tmp_path}/pid; until [ -e {tmp_path}/go ]; do sleep 0.05; done; touch {tmp_path}/went"
    await bench.runner.submit(plan(script, event))
    await eventually(
        lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"), bench.patience_s
    )
    await bench.runner.close()
    if bench.outlived:
        (tmp_path / "go").touch()
    status = await after_closing(bench)
    assert status.phase is (JobPhase.FINISHED if bench.outlived else JobPhase.LOST)
    assert (tmp_path / "went").exists() is bench.outlived
    if not bench.outlived:
        await eventually(lambda: not alive(tmp_path / "pid"))


async def test_closing_gives_running_items_time_to_end(bench: Bench, tmp_path: Path) -> None:
    event = await bench.put()
    await bench.runner.submit(plan(f"touch {tmp_path}/up; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done", event))
    await eventually((tmp_path / "up").exists, bench.patience_s)
    closing = asyncio.create_task(bench.runner.close(drain_s=bench.patience_s))
    (tmp_path / "go").touch()
    await closing
    status = await after_closing(bench)
    assert status.phase is JobPhase.FINISHED
    assert status.results[0].error is None


async def test_a_second_close_cuts_the_drain_short_and_nothing_is_accepted_meanwhile(
    bench: Bench, tmp_path: Path
) -> None:
    event = await bench.put()
    await bench.runner.submit(plan(f"touch {tmp_path}/up; until [ -e {tmp_path}/go ]; do sleep 0.05; done", event))
    await eventually((tmp_path / "up").exists, bench.patience_s)
    async with asyncio.timeout(bench.patience_s):
        closing = asyncio.create_task(bench.runner.close(drain_s=1000))
        await asyncio.sleep(0)
        with pytest.raises(Closed):
            await bench.runner.submit(plan("true", event, name="job-2"))
        await bench.runner.close()
        await closing
    if bench.outlived:
        (tmp_path / "go").touch()
    status = await after_closing(bench)
    assert status.phase is (JobPhase.FINISHED if bench.outlived else JobPhase.LOST)


async def test_user_code_sees_its_own_values_byte_for_byte_and_nobody_elses(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PENSTOCK_TOKEN", "AWS_SECRET_ACCESS_KEY", "KUBECONFIG"):
        monkeypatch.setenv(name, "stolen")
    await bench.reopen()
    bench.runner = await bench.reopen()
    bench.watch = bench.runner.watch()
    odd = "a  b *?[x] $HOME `id` \\n \\\\ 'q' \"d\" ñ\nline $(touch x)"
    event = await bench.put("deep/er/na me+%2F.txt")
    made = plan(
        'env -0 >"$TMP_OUTPUT_DIR/env"; ls -a >"$TMP_OUTPUT_DIR/ls"',
        event,
        environment={"ODD": odd, "EMPTY": ""},
        secrets={"KEY": "s3cret"},
        token="t" * 64,
        volume=Volume(name="shared", mount_path="/data"),
    )
    (result,) = await bench.run(made)
    assert result.error is None
    raw = (await bench.get("results", "out/env")).split(b"\0")
    seen = dict(line.decode().split("=", 1) for line in raw if line)
    assert seen["ODD"] == odd
    assert seen["KEY"] == "s3cret"
    assert seen["STORAGE_OBJECT_KEY"] == "deep/er/na me+%2F.txt"
    assert seen["INPUT_FILE_PATH"] == f"{seen['TMP_INPUT_DIR']}/na me+%2F.txt"
    assert (seen["JOB_UUID"], seen["RESOURCE_ID"]) == ("job-1", bench.node or seen["RESOURCE_ID"])
    assert (seen["OSCAR_SERVICE_NAME"], seen["OSCAR_SERVICE_TOKEN"]) == ("classify", "t" * 64)
    assert seen["VOLUME_PATH"].endswith(("/shared", "/data"))
    assert '"key":"deep%2Fer%2Fna+me%2B%252F.txt"' in seen["EVENT"]
    assert seen["EVENT_TIME"].endswith("Z")
    assert not {"EMPTY", "PENSTOCK_TOKEN", "AWS_SECRET_ACCESS_KEY", "KUBECONFIG", "EVENT_FILE_PATH"} & seen.keys()
    assert not [name for name in seen if name.startswith("_pk")]
    if bench.own_folder:
        assert (await bench.get("results", "out/ls")).split() == [b".", b".."]


async def test_the_room_is_the_machine(bench: Bench) -> None:
    room = await bench.runner.room()
    assert room.default_cpu_millis == bench.item_cpu_millis
    assert room.cpu_millis is None or room.cpu_millis >= 1000


async def test_many_jobs_at_once(bench: Bench) -> None:
    names = [f"job-{number}" for number in range(12)]
    for name in names:
        await bench.runner.submit(
            plan(
                f'{COPY}; mv "$TMP_OUTPUT_DIR"/* "$TMP_OUTPUT_DIR/$JOB_UUID"', await bench.put(f"{name}.txt"), name=name
            )
        )
    waiting = set(names)
    with contextlib.suppress(KeyError):
        while waiting:
            status = await bench.until(lambda status: status.phase is JobPhase.FINISHED)
            assert status.results[0].error is None
            waiting.remove(status.name)
    assert not waiting
    assert await bench.keys() == sorted(f"out/{name}" for name in names)
