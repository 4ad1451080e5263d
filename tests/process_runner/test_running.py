"""Conformance vectors that need a run, and what only local processes can do: signals, memory, daemons, warm
launchers.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path

import msgspec
import pytest

from dispatcher.process_runner import ProcessRunner, lanes, read_answer, read_log
from penstock.errors import OutOfSpace, Unavailable
from penstock.model import SYSTEM_BUCKET, ErrorClass, OutputObject, Resources, StorageIO
from tests.process_runner.support import (
    UID,
    Bench,
    alive,
    changed,
    collect,
    eventually,
    left_over,
    left_running,
    outputs_of,
    plan,
    process_bench,
    submission,
)


def pids(path: Path) -> list[str]:
    return path.read_text().split()


async def test_a_failing_script_keeps_its_code_and_its_outputs(bench: Bench) -> None:
    script = 'echo half >"$TMP_OUTPUT_DIR/half"; exit 7'
    (result,) = await bench.run(plan(script, await bench.put()))
    assert (result.error, result.exit_code, outputs_of([result])) == (ErrorClass.SCRIPT, 7, [["out/half"]])
    assert result.message == "the script ended with code 7"
    unwanted = changed(plan(script, await bench.put(), name="job-2"), publish_on_failure=False)
    (result,) = await bench.run(unwanted)
    assert (result.exit_code, result.outputs) == (7, ())


@pytest.mark.parametrize(
    ("script", "code", "text"),
    [("kill -SEGV $$", 139, "SIGSEGV"), ("no-such-program", 127, "not installed"), ("kill -KILL $$", 137, "SIGKILL")],
)
async def test_codes_above_125_are_explained(bench: Bench, script: str, code: int, text: str) -> None:
    (result,) = await bench.run(plan(script, await bench.put()))
    assert (result.error, result.exit_code) == (ErrorClass.SCRIPT, code)
    assert text in result.message


@pytest.mark.parametrize("script", ["", " \n"])
async def test_a_missing_script_is_invalid(bench: Bench, script: str) -> None:
    results = await bench.run(plan(script, await bench.put("a"), await bench.put("b")))
    assert [(result.error, result.exit_code) for result in results] == [(ErrorClass.INVALID, 123)] * 2


async def test_what_cannot_be_staged_is_told_per_item_and_the_rest_runs(bench: Bench) -> None:
    gone, replaced, fine = [await bench.put(key) for key in ("gone", "replaced", "fine")]
    looping = msgspec.structs.replace(await bench.put("looping"), hops=16)
    await bench.store.delete("pictures", "gone")
    await bench.store.write("pictures", "replaced", b"new version")
    results = await bench.run(plan("true", gone, replaced, looping, submission(b"not base64!"), fine))
    assert [result.error for result in results] == [
        ErrorClass.GONE,
        ErrorClass.SUPERSEDED,
        ErrorClass.HOP_LIMIT,
        ErrorClass.INVALID,
        None,
    ]
    assert [result.started_ms > 0 for result in results] == [False, False, False, False, True]


async def test_the_shebang_is_ignored_and_the_input_may_be_changed(bench: Bench) -> None:
    script = (
        '#!/no/such/interpreter\nset -e; echo more >>"$INPUT_FILE_PATH"; mv "$INPUT_FILE_PATH" "$TMP_INPUT_DIR/renamed"'
    )
    (result,) = await bench.run(plan(script, await bench.put()))
    assert result.exit_code == 0


async def test_input_is_at_its_end_and_both_outputs_are_one(bench: Bench) -> None:
    (result,) = await bench.run(plan("cat; echo 1; echo 2 >&2; echo 3", await bench.put()))
    assert await collect(read_log(bench.store, UID, "job-1-0", 1)) == b"1\n2\n3\n"
    assert result.log_bytes == 6


async def test_a_silent_script_leaves_no_log(bench: Bench) -> None:
    (result,) = await bench.run(plan("true", await bench.put()))
    assert result.log_bytes == 0
    assert await bench.keys(SYSTEM_BUCKET) == []
    assert await collect(read_log(bench.store, UID, "job-1-0", 1)) == b""


async def test_whoever_holds_the_output_is_waited_for(bench: Bench) -> None:
    script = '(sleep 0.6; echo late; cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/late") & echo done'
    (result,) = await bench.run(plan(script, await bench.put()))
    assert result.finished_ms - result.started_ms >= 600
    assert outputs_of([result]) == [["out/late"]]
    assert await collect(read_log(bench.store, UID, "job-1-0", 1)) == b"done\nlate\n"


async def test_a_daemon_that_closed_the_output_is_not_waited_for_and_does_not_survive(
    bench: Bench, tmp_path: Path
) -> None:
    script = f"""setsid sh -c 'echo $$ >{tmp_path}/daemon; exec sleep 1000' >/dev/null 2>&1 </dev/null &
        while [ ! -s {tmp_path}/daemon ]; do sleep 0.01; done"""
    (result,) = await bench.run(plan(script, await bench.put()))
    assert result.error is None
    await eventually(lambda: not alive(tmp_path / "daemon"))


async def test_a_daemon_that_hides_its_environment_does_not_survive_either(bench: Bench, tmp_path: Path) -> None:
    script = f"""(env -i PATH="$PATH" setsid sh -c 'echo $$ >{tmp_path}/daemon; exec sleep 1000' >/dev/null 2>&1 &)
        while [ ! -s {tmp_path}/daemon ]; do sleep 0.01; done"""
    await bench.run(plan(script, await bench.put()))
    await eventually(lambda: not alive(tmp_path / "daemon"))


async def test_what_holds_the_output_for_ever_ends_at_the_deadline(bench: Bench) -> None:
    (result,) = await bench.run(plan("sleep 1000 & exit 0", await bench.put(), deadline_s=0.4))
    assert (result.error, result.exit_code) == (ErrorClass.DEADLINE, 124)


async def test_a_script_may_use_the_grace_to_end_well(tmp_path: Path) -> None:
    script = "trap 'echo bye; exit 0' TERM; while :; do sleep 0.02; done"
    async with process_bench(tmp_path, grace_s=20.0) as bench:
        (result,) = await bench.run(plan(script, await bench.put(), deadline_s=1))
        assert result.error is ErrorClass.DEADLINE
        # The shell may also say that its `sleep` was ended.
        assert (await collect(read_log(bench.store, UID, "job-1-0", 1))).endswith(b"bye\n")


async def test_a_script_that_signals_its_group_does_not_take_the_list_along(bench: Bench) -> None:
    events = [await bench.put(str(number)) for number in range(2)]
    results = await bench.run(plan("case $INPUT_FILE_PATH in *0) kill -TERM 0; sleep 5;; esac", *events))
    assert [result.exit_code for result in results] == [143, 0]


async def test_a_launcher_killed_from_outside_costs_its_item_alone(bench: Bench) -> None:
    events = [await bench.put(str(number)) for number in range(3)]
    results = await bench.run(plan("case $INPUT_FILE_PATH in *0) kill -KILL $PPID; sleep 1000;; esac", *events))
    assert [(result.error, result.exit_code) for result in results] == [(ErrorClass.KILLED, 137), (None, 0), (None, 0)]


async def test_memory_beyond_the_functions_own_is_not_granted(bench: Bench) -> None:
    events = [await bench.put(str(number)) for number in range(2)]
    hungry = (
        "case $INPUT_FILE_PATH in *0) python3 -c 'import time; kept = bytearray(300_000_000); time.sleep(1000)';; esac"
    )
    results = await bench.run(plan(hungry, *events, resources=Resources(memory_bytes=100 * 2**20)))
    assert [(result.error, result.exit_code) for result in results] == [(ErrorClass.OUT_OF_MEMORY, 137), (None, 0)]
    assert results[0].max_rss_bytes > 100 * 2**20
    assert "100 MiB" in results[0].message


async def test_output_names_keep_their_blanks_and_links_stay_inside(bench: Bench) -> None:
    script = """cd "$TMP_OUTPUT_DIR"; mkdir -p sub/deep void; touch .hidden empty sub/deep/c ' lead trail '
        mkfifo pipe; ln -s /etc/passwd leak; ln -s empty good"""
    (result,) = await bench.run(plan(script, await bench.put()))
    assert result.error is None
    keys = [f"out/{name}" for name in (" lead trail ", ".hidden", "empty", "good", "sub/deep/c")]
    assert sorted(outputs_of([result])[0]) == keys
    assert await bench.keys() == keys
    assert "leak leads out of the output folder" in result.message


async def test_an_output_that_cannot_go_up_fails_the_item_with_121(bench: Bench) -> None:
    other = StorageIO(provider="webdav", bucket="there")
    made = plan('echo x >"$TMP_OUTPUT_DIR/x"', await bench.put(), outputs=(other,))
    (result,) = await bench.run(made)
    assert (result.error, result.exit_code, result.outputs) == (ErrorClass.PUBLISH, 121, ())
    assert "webdav.default:there" in result.message
    (result,) = await bench.run(msgspec.structs.replace(made, name="job-2", script=f"{made.script}; exit 4"))
    assert (result.error, result.exit_code) == (ErrorClass.SCRIPT, 4)
    assert "webdav.default:there" in result.message


async def test_a_second_attempt_does_not_write_the_same_again(bench: Bench) -> None:
    made = plan('cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/"', await bench.put())
    (first,) = await bench.run(made)
    again = changed(msgspec.structs.replace(made, name="job-2"), attempt=2)
    (second,) = await bench.run(again)
    (forced,) = await bench.run(changed(msgspec.structs.replace(again, name="job-3"), attempt=3, force=True))
    written: list[OutputObject] = [*first.outputs, *second.outputs, *forced.outputs]
    assert [output.written for output in written] == [True, False, True]


async def test_answers_of_synchronous_runs(bench: Bench) -> None:
    asked = {"content_type": "text/plain", "answer": True}
    script = 'echo log; [ "$(cat "$INPUT_FILE_PATH")" = none ] || cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/f"'
    triggers = [
        submission(b"some", **asked),
        submission(b"none", **asked),
        submission(b"some", content_type="text/plain"),
    ]
    results = await bench.run(plan(script, *triggers, outputs=()))
    assert [result.error for result in results] == [None] * 3
    assert base64.b64decode(await collect(read_answer(bench.store, UID, "job-1-0", 1))) == b"some"
    assert await collect(read_answer(bench.store, UID, "job-1-1", 1)) == b"log\n"
    assert await collect(read_answer(bench.store, UID, "job-1-2", 1)) == b"log\n"


async def test_a_large_event_is_a_file(bench: Bench) -> None:
    body = b'{"data": "' + b"x" * 300_000 + b'"}'
    script = 'cmp "$EVENT_FILE_PATH" "$INPUT_FILE_PATH" && [ -z "$EVENT" ]'
    (result,) = await bench.run(plan(script, submission(body)))
    assert result.exit_code == 0


async def test_file_stage_in_leaves_the_input_out(bench: Bench) -> None:
    script = '[ -z "$INPUT_FILE_PATH" ] && [ "$STORAGE_OBJECT_KEY" = k ] && [ -z "$(ls "$TMP_INPUT_DIR")" ]'
    (result,) = await bench.run(plan(script, await bench.put("k"), file_stage_in=True))
    assert result.exit_code == 0


async def test_a_launcher_is_kept_for_the_same_function_and_nothing_leaks(bench: Bench, tmp_path: Path) -> None:
    script = f'echo $PPID >>{tmp_path}/parents; umask 000; cd /; export LEAK=1; [ "$EVENT_TIME$PAYLOAD" ] || exit 3'
    await bench.run(plan(script, await bench.put(), name="job-1"))
    await bench.run(
        plan(f'echo $PPID >>{tmp_path}/parents; [ -z "$LEAK$EVENT_TIME" ]; exit $?', submission(b""), name="job-2")
    )
    await bench.run(plan(script, await bench.put(), name="job-3", environment={"OTHER": "1"}))
    first, second, third = pids(tmp_path / "parents")
    assert first == second
    assert third != first
    results = {status.name: status.results[0].exit_code for status in await bench.runner.jobs()}
    assert results == {"job-1": 0, "job-2": 0, "job-3": 0}


async def test_idle_launchers_are_let_go(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "_IDLE_S", 0.01)
    await bench.run(plan("true", await bench.put()))
    await eventually(lambda: left_running(bench.folder) == [])


async def test_no_more_launchers_are_kept_than_wanted(tmp_path: Path) -> None:
    async with process_bench(tmp_path, warm=0) as bench:
        await bench.run(plan("true", await bench.put()))
        await eventually(lambda: left_running(bench.folder) == [])


async def test_the_work_folder_is_empty_when_all_is_forgotten(bench: Bench) -> None:
    script = 'mkdir -p deep/er; touch deep/er/x "$TMP_INPUT_DIR/y"; chmod 000 deep; echo log; ln -s / root; exit 1'
    await bench.run(plan(script, await bench.put("a"), await bench.put("b")))
    await bench.runner.forget("job-1")
    await eventually(lambda: left_over(bench.folder) == [])


async def test_forgetting_a_running_job_ends_it(bench: Bench, tmp_path: Path) -> None:
    await bench.runner.submit(plan(f"echo $$ >{tmp_path}/pid; sleep 1000", await bench.put()))
    await eventually(lambda: (tmp_path / "pid").exists() and bool(pids(tmp_path / "pid")))
    await bench.runner.forget("job-1")
    await eventually(lambda: not alive(tmp_path / "pid"))
    assert await bench.runner.jobs() == []


async def test_a_word_that_user_code_swallowed_is_made_up_for(bench: Bench) -> None:
    """The doorbell may be read or filled by anybody of the same user: the code file is looked at all the same."""
    thief = 'dd if="$WORK/.lanes/alive" of=/dev/null bs=64k count=1 2>/dev/null & sleep 0.1'
    workdir = str(bench.folder / "work")
    (result,) = await bench.run(plan(f"({thief}) >/dev/null 2>&1", await bench.put(), environment={"WORK": workdir}))
    assert result.exit_code == 0


async def test_garbage_and_forged_words_change_nothing(bench: Bench) -> None:
    words = r"job-1 exit 0 0\n\njob-1 exit 99 0\nnobody exit 0 0\nhalf a line"
    forged = f'printf "{words}" >"$WORK/.lanes/alive"; sleep 0.2; exit 5'
    workdir = str(bench.folder / "work")
    (result,) = await bench.run(plan(forged, await bench.put(), environment={"WORK": workdir}))
    assert result.exit_code == 5


async def test_a_script_can_stop_itself_for_good_only_until_the_deadline(bench: Bench) -> None:
    (result,) = await bench.run(plan("kill -STOP $$", await bench.put(), deadline_s=0.3))
    assert result.error is ErrorClass.DEADLINE


async def test_the_base_environment_holds_no_credential() -> None:
    environ = {"PATH": "/p", "LC_ALL": "C", "HOME": "/h", "AWS_ACCESS_KEY_ID": "x", "PENSTOCK_TOKEN": "y", "TZ": "UTC"}
    assert lanes.base_environment(environ) == {"PATH": "/p", "LC_ALL": "C", "HOME": "/h", "TZ": "UTC"}
    assert lanes.base_environment({})["PATH"]


async def test_a_disk_that_is_full_is_said_and_leaves_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    event = await bench.put()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OutOfSpace, match="no space"):
            await bench.runner.submit(plan("true", event))
    assert await bench.runner.jobs() == []
    (result,) = await bench.run(plan("true", event))
    assert result.error is None


async def test_killing_penstocks_own_group_does_not_reach_the_scripts(bench: Bench, tmp_path: Path) -> None:
    await bench.runner.submit(plan(f"ps -o sid= -p $$ >{tmp_path}/sid", await bench.put()))
    await bench.end("job-1")
    assert int((tmp_path / "sid").read_text()) != os.getsid(0)


async def test_a_runner_needs_its_folder(tmp_path: Path, bench: Bench) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="file"):
        await ProcessRunner.open(store=bench.store, workdir=tmp_path / "file", volumes=tmp_path / "v", node="n")
