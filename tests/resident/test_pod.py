"""The pod of a resident function as local processes: answers, ends, and what happens when something breaks."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import os
import zipfile
from pathlib import Path

import aiohttp
import pytest

from penstock.errors import NotFound
from penstock.model import SYSTEM_BUCKET, ErrorClass
from penstock.model.objects import log_key
from tests.adapters.s3.support import content, opened
from tests.kubernetes.support import eventually
from tests.resident.local import LocalPod, call, plan
from tests.testbed.minio import Minio

SHELLS = [("dash",), ("busybox", "ash"), ("bash", "--posix")]
ONE = 'cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/copy"; echo said'


@pytest.mark.parametrize("shell", SHELLS, ids=["dash", "ash", "bash"])
async def test_the_answer_is_one_file_several_or_the_script_s_words(tmp_path: Path, shell: tuple[str, ...]) -> None:
    script = """case $(cat "$INPUT_FILE_PATH") in
        one) printf '\\000\\377x' >"$TMP_OUTPUT_DIR/only" ;;
        two) echo a >"$TMP_OUTPUT_DIR/a"; mkdir "$TMP_OUTPUT_DIR/d"; echo b >"$TMP_OUTPUT_DIR/d/b" ;;
        empty) : >"$TMP_OUTPUT_DIR/nothing" ;;
    esac
    echo words; echo complaints >&2"""
    async with LocalPod(tmp_path, script, shell=shell).started() as pod:
        result, answer = await pod.run(base64.b64encode(b"one"))
        assert (result.error, result.exit_code, result.log_bytes) == (None, 0, 0), "no account, so no log is kept"
        assert answer == base64.b64encode(b"\0\xffx") + b"\n"
        _, answer = await pod.run(base64.b64encode(b"two"))
        with zipfile.ZipFile(io.BytesIO(base64.b64decode(answer))) as packed:
            assert {name: packed.read(name) for name in packed.namelist()} == {"a": b"a\n", "d/b": b"b\n"}
        assert (await pod.run(base64.b64encode(b"empty")))[1] == b"\n"
        assert (await pod.run(base64.b64encode(b"none")))[1] == b"words\ncomplaints\n"
        await pod.quiet()
        assert list((tmp_path / "slots" / "0" / "items").iterdir()) == [], "nothing is left of any run"


async def test_a_run_sees_its_body_its_variables_and_nothing_of_the_run_before(tmp_path: Path) -> None:
    script = 'env; ls "$TMP_INPUT_DIR"; cat "$INPUT_FILE_PATH"'
    async with LocalPod(tmp_path, script).started() as pod:
        body = b'{"a": "$(id) `x` \\u00f1"}'
        variables = {"Http_X_Key": "a'b $HOME", "Http_Method": "POST"}
        _, first = await pod.run(body, variables=variables, content_type="application/json")
        assert b"Http_X_Key=a'b $HOME\n" in first
        assert first.endswith(body)
        _, second = await pod.run(b"aGVsbG8=")
        assert b"Http_" not in second
        assert second.endswith(b"hello")
        assert b"PENSTOCK" not in first + second
        assert pod.key.encode() not in first + second


async def test_a_body_too_large_for_memory_arrives_whole(tmp_path: Path) -> None:
    data = os.urandom(9 * 1024 * 1024)
    async with LocalPod(tmp_path, 'cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/out"').started() as pod:
        result, answer = await pod.run(base64.b64encode(data), content_type="application/json")
        assert (result.error, base64.b64decode(answer) == data) == (None, True)
        result, answer = await pod.run(data, content_type="application/octet-stream")
        assert (result.error, base64.b64decode(answer) == data) == (None, True)


async def test_a_failing_script_keeps_its_code_and_a_bad_body_runs_nothing(tmp_path: Path) -> None:
    script = 'echo before; touch "$TMP_OUTPUT_DIR/x"; exit 7'
    async with LocalPod(tmp_path, script).started() as pod:
        result, quoted = await pod.run(b"aGVsbG8=")
        assert (result.error, result.exit_code, quoted) == (ErrorClass.SCRIPT, 7, b"before\n")
        result, quoted = await pod.run(b"hello world!")
        assert (result.error, result.exit_code, quoted) == (ErrorClass.INVALID, 123, b"")
        assert "base64" in result.message
        result, _ = await pod.run(b"aGVsbG8=")
        assert result.exit_code == 7, "it goes on after a refusal"


@pytest.mark.components
async def test_the_log_is_kept_in_the_functions_own_folder(tmp_path: Path, minio: Minio) -> None:
    async with opened(minio) as store:
        await store.create_bucket(SYSTEM_BUCKET)
        async with LocalPod(tmp_path, "echo said", minio=minio).started() as pod:
            result, answer = await pod.run(b"aGVsbG8=")
            assert (result.error, answer) == (None, b"said\n")
            key = log_key(plan().function_uid, result.invocation, 1)

            async def there() -> bool:
                with contextlib.suppress(NotFound):
                    return await content(store, SYSTEM_BUCKET, key) == b"said\n"
                return False

            await eventually(there)


async def test_a_function_without_a_script_is_refused(tmp_path: Path) -> None:
    async with LocalPod(tmp_path, "", made=plan(script="")).started() as pod:
        result, quoted = await pod.run(b"aGVsbG8=")
        assert (result.error, result.exit_code, quoted) == (ErrorClass.INVALID, 123, b"")
        assert result.message == "the function echo has no script"


async def test_a_deadline_ends_the_script_and_the_next_one_runs(tmp_path: Path) -> None:
    script = 'read -r word <"$INPUT_FILE_PATH"; [ "$word" = fast ] && exit 0; trap "" TERM; while :; do :; done'
    async with LocalPod(tmp_path, script).started() as pod:
        result, _ = await pod.run(base64.b64encode(b"slow\n"), deadline_s=0.3)
        assert (result.error, result.exit_code) == (ErrorClass.DEADLINE, 124)
        assert (await pod.run(base64.b64encode(b"fast\n")))[0].error is None


async def test_a_caller_who_leaves_ends_the_script(tmp_path: Path) -> None:
    script = f"echo $$ >{tmp_path}/pid; exec sleep 1000"
    async with LocalPod(tmp_path, script).started() as pod:
        asking = asyncio.create_task(pod.run(b""))
        number = int(await pod.until("pid"))
        assert (await pod.use()).active == 1
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await pod.quiet()
        assert not running(number)


def running(number: int) -> bool:
    return Path(f"/proc/{number}").exists()


async def test_it_never_queues_and_says_that_nothing_was_begun(tmp_path: Path) -> None:
    script = f"echo $$ >{tmp_path}/pid; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo done"
    async with LocalPod(tmp_path, script).started() as pod:
        asking = asyncio.create_task(pod.run(b""))
        await pod.until("pid")
        assert await pod.post(call()) == (503, b"not begun: busy\n")
        (tmp_path / "go").touch()
        assert (await asking)[1] == b"done\n"


async def test_without_the_key_nothing_is_told_or_run(tmp_path: Path) -> None:
    async with LocalPod(tmp_path, f"touch {tmp_path}/ran").started() as pod:
        assert (await pod.post(call(), key="0" * 64))[0] == 401
        async with pod.session.get(f"{pod.url}/use") as answer:
            assert answer.status == 401
        async with pod.session.post(f"{pod.url}/run", data=b"x", headers={"Authorization": "Bearer ü"}) as answer:
            assert answer.status == 401
    assert not (tmp_path / "ran").exists()


async def test_what_is_no_call_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    async with LocalPod(tmp_path, "true").started() as pod:
        headers = {"Authorization": f"Bearer {pod.key}"}
        for data in (b"", b"hello", b"3\nabc", b"99999999999\n", b"2\n{}", b"5\n{"):
            async with pod.session.post(f"{pod.url}/run", data=data, headers=headers) as answer:
                assert answer.status == 400, data
        assert (await pod.run(b""))[0].error is None


async def test_a_killed_container_is_told_at_once_and_the_next_one_serves(tmp_path: Path) -> None:
    script = f"[ -e {tmp_path}/again ] && exit 0; echo $$ >{tmp_path}/pid; exec sleep 1000"
    async with LocalPod(tmp_path, script).started() as pod:
        asking = asyncio.create_task(pod.run(b""))
        await pod.until("pid")
        (tmp_path / "again").touch()
        pod.kill("user-0")
        result, _ = await asking
        assert (result.error, result.exit_code) == (ErrorClass.KILLED, 137)
        await pod.ready(wanted=False)
        pod.start_launcher()
        await pod.ready()
        assert (await pod.run(b""))[0].error is None
        assert (await pod.run(b""))[0].error is None, "the numbering began anew on both sides"


async def test_a_sidecar_that_starts_again_has_its_launchers_begin_anew(tmp_path: Path) -> None:
    script = f"[ -e {tmp_path}/again ] && exit 0; echo $$ >{tmp_path}/pid; exec sleep 1000"
    async with LocalPod(tmp_path, script).started() as pod:
        (tmp_path / "again").touch()
        await pod.run(b"")
        (tmp_path / "again").unlink()
        asking = asyncio.create_task(pod.post(call()))
        await pod.until("pid")
        (tmp_path / "again").touch()
        pod.kill("resident")
        with pytest.raises(aiohttp.ClientError):
            await asking
        pod.start_sidecar()
        assert await pod.ended("user-0") == 143, "it was in the middle of a run of nobody's"
        pod.start_launcher()
        await pod.ready()
        assert (await pod.run(b""))[0].error is None


async def test_forged_words_end_only_their_own_run(tmp_path: Path) -> None:
    script = f"""[ -e {tmp_path}/fair ] && {{ echo fair; exit 0; }}
    for fd in {tmp_path}/slots/0/alive; do printf '\\nhello\\nexit 0 0\\nexit 999 1\\nnonsense\\nexit 0' >$fd; done
    sleep 0.5; exit 3"""
    async with LocalPod(tmp_path, script).started() as pod:
        result, _ = await pod.run(b"")
        assert (result.error, result.exit_code) == (None, 0), "it said so itself"
        (tmp_path / "fair").touch()
        assert (await pod.run(b""))[1] == b"fair\n"


async def test_two_slots_run_side_by_side_and_the_third_call_is_told(tmp_path: Path) -> None:
    script = f"echo $TMP_INPUT_DIR >>{tmp_path}/runs; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done"
    async with LocalPod(tmp_path, script, slots=2).started() as pod:
        await pod.slots_up(2)
        asking = [asyncio.create_task(pod.run(b"")) for _ in range(2)]
        while len((await pod.until("runs")).splitlines()) < 2:
            await asyncio.sleep(0.02)
        assert (await pod.post(call()))[0] == 503
        (tmp_path / "go").touch()
        assert [result.error for result, _ in await asyncio.gather(*asking)] == [None, None]
        assert len({line.split("/items/")[0] for line in (tmp_path / "runs").read_text().split()}) == 2


async def test_on_term_it_finishes_what_it_has_and_then_lets_the_user_s_container_end(tmp_path: Path) -> None:
    script = f"echo $$ >{tmp_path}/pid; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo done"
    async with LocalPod(tmp_path, script).started() as pod:
        asking = asyncio.create_task(pod.run(b""))
        await pod.until("pid")
        hook = await asyncio.create_subprocess_exec("/bin/sh", "-c", f"read -r _ <{tmp_path}/slots/0/drained")
        pod.term("resident")
        await pod.ready(wanted=False)
        assert await pod.post(call()) == (503, b"not begun: leaving\n")
        assert hook.returncode is None, "a run is under way"
        (tmp_path / "go").touch()
        assert (await asking)[1] == b"done\n"
        async with asyncio.timeout(20):
            assert await hook.wait() == 0
        late = await asyncio.create_subprocess_exec("/bin/sh", "-c", f"read -r _ <{tmp_path}/slots/0/drained")
        async with asyncio.timeout(20):
            # 1 = the end of the file instead of a word, when the sidecar was just about to close it.
            assert await late.wait() in {0, 1}, "who asks later is not kept waiting"
        pod.term("user-0")
        assert await pod.ended("user-0") == 143
        assert await pod.ended("resident") == 0
