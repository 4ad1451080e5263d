"""Scripts that fail, never end, leave things behind: what the record says, what is published, what survives."""

from __future__ import annotations

import pytest

from tests.embedded.shop import COPY, Shop, gone, marked, until

FAILS = 'echo "attempt of $STORAGE_OBJECT_KEY"\necho half > "$TMP_OUTPUT_DIR/half.txt"\necho why >&2\nexit 3\n'


async def test_a_script_that_exits_3_has_failed_with_its_code_and_its_outputs_are_kept(shop: Shop) -> None:
    await shop.deploy("bad", FAILS)
    shop.drop("bad-in/files/a.txt")
    record = await shop.ended("bad")
    assert (record.phase, record.exit_code, record.error, record.attempt) == ("failed", 3, "script", 1)
    assert record.reason == "the script ended with code 3"
    assert [step.phase for step in record.timeline] == ["queued", "planned", "running", "failed"]
    assert await shop.outputs("bad-out") == {"files/half.txt": b"half\n"}
    assert [one.key for one in record.outputs] == ["files/half.txt"]
    assert await shop.log(record.id) == b"attempt of files/a.txt\nwhy\n"


async def test_a_function_may_say_that_failures_publish_nothing(shop: Shop) -> None:
    await shop.deploy("bad", FAILS, upload_on_failure="never")
    shop.drop("bad-in/files/a.txt")
    record = await shop.ended("bad")
    assert (record.phase, record.exit_code, record.outputs) == ("failed", 3, ())
    assert await shop.outputs("bad-out") == {}


async def test_retries_end_as_failed_and_only_the_last_attempt_publishes(shop: Shop) -> None:
    script = f"""echo run >> {shop.note("runs")}
n=$(wc -l < {shop.note("runs")})
echo "attempt $n" > "$TMP_OUTPUT_DIR/of-$n.txt"
exit 9
"""
    await shop.deploy("stubborn", script, retries=2)
    shop.drop("stubborn-in/files/a")
    record = await shop.ended("stubborn")
    assert (record.phase, record.exit_code, record.attempt) == ("failed", 9, 3)
    assert await shop.outputs("stubborn-out") == {"files/of-3.txt": b"attempt 3\n"}
    waits = [step.note for step in record.timeline if step.phase == "queued"]
    assert waits[0] == ""
    assert all("the script ended with code 9; next attempt in" in note for note in waits[1:])
    assert len(waits) == 3
    assert len(shop.note("runs").read_text().splitlines()) == 3


async def test_a_retry_that_works_is_a_success_with_the_earlier_failure_in_its_story(shop: Shop) -> None:
    script = f"[ -e {shop.note('again')} ] || {{ touch {shop.note('again')}; exit 7; }}\n{COPY}"
    await shop.deploy("second", script, retries=2)
    shop.drop("second-in/files/a", "content")
    record = await shop.ended("second")
    assert (record.phase, record.exit_code, record.attempt, record.error) == ("succeeded", 0, 2, None)
    assert await shop.outputs("second-out") == {"files/a": b"content"}
    assert any("code 7" in step.note for step in record.timeline)


async def test_a_script_that_never_ends_is_stopped_with_all_it_started_and_the_next_runs(shop: Shop) -> None:
    # It ignores the polite signal, and so does a child in a session of its own: only the forced end helps.
    script = f"""if [ "$STORAGE_OBJECT_KEY" = files/good ]; then {COPY.strip()}; exit 0; fi
trap '' TERM
setsid sh -c 'trap "" TERM; while :; do sleep 1; done' &
echo begun > "$TMP_OUTPUT_DIR/partial"
echo started
while :; do sleep 1; done
"""
    mark = shop.note("mark").as_posix()
    await shop.deploy("endless", script, deadline="2", concurrency=1, environment="{variables: {MARK: '" + mark + "'}}")
    shop.drop("endless-in/files/bad")
    await until(lambda: shop.phases("endless"), lambda phases: phases == ["running"])
    left = marked(f"MARK={mark}")
    assert len(left) >= 3, "launcher, script, daemon"
    shop.drop("endless-in/files/good", "fine")
    stuck, good = [await shop.client.invocation(one.id) for one in await shop.settled("endless", 2)]
    assert (stuck.phase, stuck.exit_code, stuck.error) == ("failed", 124, "deadline")
    assert stuck.reason == "the script did not end within its deadline of 2 s"
    assert good.phase == "succeeded"
    assert stuck.finished_ms - stuck.started_ms < 12_000, "deadline and grace"
    outputs = await shop.outputs("endless-out")
    assert outputs["files/good"] == b"fine"
    assert (await shop.log(stuck.id)).startswith(b"started\n")

    async def left_of_script() -> list[int]:
        return [pid for pid in left if pid in marked(f"MARK={mark}")]

    # One launcher may stay warm for the next file, nothing else.
    await until(left_of_script, lambda pids: len(pids) <= 1)


async def test_a_daemon_left_behind_does_not_hold_up_anything_and_is_ended(shop: Shop) -> None:
    script = f"""setsid sh -c 'exec >/dev/null 2>&1 </dev/null; sleep 600' &
echo $! >> {shop.note("daemons")}
{COPY}"""
    await shop.deploy("leaver", script)
    shop.drop("leaver-in/files/a", "1")
    record = await shop.ended("leaver")
    assert record.phase == "succeeded"
    assert await shop.outputs("leaver-out") == {"files/a": b"1"}
    await gone(int(pid) for pid in await shop.noted("daemons"))


async def test_a_background_child_that_writes_output_is_waited_for(shop: Shop) -> None:
    # OSCAR's notion of the end: nobody holds the script's output any more.
    await shop.deploy("late", '(sleep 0.5; echo late; echo x > "$TMP_OUTPUT_DIR/late") &\necho early\n')
    shop.drop("late-in/files/a")
    record = await shop.ended("late")
    assert record.phase == "succeeded"
    assert await shop.log(record.id) == b"early\nlate\n"
    assert await shop.outputs("late-out") == {"files/late": b"x\n"}


async def test_a_script_killed_by_itself_keeps_its_signal(shop: Shop) -> None:
    await shop.deploy("suicide", "kill -9 $$\n", retries=0)
    shop.drop("suicide-in/files/a")
    record = await shop.ended("suicide")
    assert (record.phase, record.exit_code) == ("failed", 137)
    assert record.reason == "the script was ended by SIGKILL (exit code 137)"


async def test_a_missing_command_is_told_in_words(shop: Shop) -> None:
    await shop.deploy("lacking", "convert-with-nothing $INPUT_FILE_PATH\n")
    shop.drop("lacking-in/files/a")
    record = await shop.ended("lacking")
    assert (record.phase, record.exit_code) == ("failed", 127)
    assert "not installed or not on PATH" in record.reason
    assert b"convert-with-nothing: not found" in await shop.log(record.id)


async def test_too_much_memory_ends_the_script_and_says_so(shop: Shop) -> None:
    hog = 'python3 -c "b = bytearray(300 * 2**20); import time; time.sleep(60)"\n'
    await shop.deploy("hog", hog, memory="64Mi")
    shop.drop("hog-in/files/a")
    record = await shop.ended("hog")
    assert (record.phase, record.exit_code, record.error) == ("failed", 137, "out_of_memory")
    assert "64 MiB" in record.reason


async def test_cancel_ends_running_work_with_its_children(shop: Shop) -> None:
    await shop.deploy("held", f"sleep 600 &\necho $! $$ >> {shop.note('pids')}\nwait\n")
    shop.drop("held-in/files/a")
    pids = [int(pid) for pid in (await shop.noted("pids"))[0].split()]
    [record] = await shop.records("held")
    await shop.client.cancel(record.id)
    record = await shop.ended("held")
    assert (record.phase, record.error) == ("cancelled", "cancelled")
    assert "cancelled by" in record.reason
    await gone(pids)


@pytest.mark.parametrize("batch", ["{max_items: 10, linger: 300ms}", "auto"])
async def test_one_bad_file_of_a_list_leaves_its_neighbours_alone(shop: Shop, batch: str) -> None:
    script = f'case $STORAGE_OBJECT_KEY in *bad*) echo "no"; exit 5;; esac\n{COPY}'
    await shop.deploy("lists", script, batch=batch, concurrency=1)
    names = ["a", "b-bad", "c", "d", "e"]
    await shop.client.pause("lists")
    for name in names:
        shop.drop(f"lists-in/files/{name}", name)
    await until(lambda: shop.phases("lists"), lambda phases: phases == ["queued"] * 5)
    await shop.client.resume("lists")
    records = {one.key: one for one in await shop.settled("lists", 5)}
    assert records["files/b-bad"].phase == "failed"
    assert records["files/b-bad"].exit_code == 5
    assert [records[f"files/{name}"].phase for name in ("a", "c", "d", "e")] == ["succeeded"] * 4
    assert await shop.outputs("lists-out") == {f"files/{name}": name.encode() for name in ("a", "c", "d", "e")}
    assert await shop.log(records["files/b-bad"].id) == b"no\n"
    assert await shop.log(records["files/c"].id) == b""
    if batch != "auto":
        assert len({one.job for one in records.values()}) == 1, "they shared one Job"
