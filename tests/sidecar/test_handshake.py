"""The two sidecars and the launcher together, as local processes against a real MinIO: how items run, end and fail."""

from __future__ import annotations

import base64
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.errors import NotFound
from penstock.model import SYSTEM_BUCKET, BucketEvent, ErrorClass, StorageIO, Submission
from penstock.model.objects import answer_key, payload_key, result_key
from tests.sidecar.pods import LocalPod, Shop, started

pytestmark = pytest.mark.components
SHELLS = [("dash",), ("bash", "--posix"), ("busybox", "sh")]
COPY = 'cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/"'


class Hands:
    """Makes pods over the shop, with names of their own."""

    def __init__(self, shop: Shop, folder: Path) -> None:
        self.shop = shop
        self.folder = folder
        self.count = 0

    @contextmanager
    def pod(
        self,
        script: str,
        *triggers: BucketEvent | Submission,
        start: tuple[str, ...] = (),
        shell: tuple[str, ...] = ("dash",),
        item: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Iterator[LocalPod]:
        self.count += 1
        name = f"{self.shop.pictures}-{self.count}"
        plan = self.shop.plan(*triggers, name=name, **changes)
        if item:
            plan = msgspec.structs.replace(
                plan, items=tuple(msgspec.structs.replace(one, **item) for one in plan.items)
            )
        with started(LocalPod(self.folder / name, self.shop, plan, script, shell=shell), *start) as pod:
            yield pod


@pytest.fixture
def hands(shop: Shop, tmp_path: Path) -> Hands:
    return Hands(shop, tmp_path)


def submission(body: bytes, **fields: Any) -> Submission:
    values: dict[str, Any] = {"function": "classify", "function_uid": "0" * 32, "id": "s", "time_ms": 1, "body": body}
    return Submission(**(values | fields))


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
async def test_an_item_runs_and_its_output_carries_its_lineage(hands: Hands, shell: tuple[str, ...]) -> None:
    event = await hands.shop.put(data=b"hello")
    with hands.pod(f"{COPY}; echo one; echo two >&2", event, shell=shell) as pod:
        assert pod.end() == {"input": 0, "output": 0, "user": 0}
        assert pod.said("user") == "one\ntwo\n"
        result = await pod.result()
        assert await pod.log() == b"one\ntwo\n"
    assert (result.error, result.exit_code, result.message, result.log_bytes) == (None, 0, "", 8)
    assert 0 < result.staged_ms <= result.started_ms <= result.finished_ms <= result.published_ms
    (output,) = result.outputs
    assert (output.key, output.size, output.written) == ("out/pic ture.txt", 5, True)
    info = await hands.shop.store.head(hands.shop.results, output.key)
    assert info.etag == output.etag
    assert info.metadata == {
        "penstock-invocation": result.invocation,
        "penstock-input": event.identity,
        "penstock-hops": "1",
        "penstock-sha256": output.sha256,
        "traceparent": pod.plan.items[0].traceparent,
    }


async def test_a_failed_script_keeps_its_code_and_its_outputs_are_published(hands: Hands) -> None:
    event = await hands.shop.put()
    with hands.pod(f"{COPY}; exit 3", event) as pod:
        assert pod.end() == {"input": 0, "output": 0, "user": 3}
        result = await pod.result()
    assert (result.error, result.exit_code) == (ErrorClass.SCRIPT, 3)
    assert await hands.shop.keys() == ["out/pic ture.txt"]
    with hands.pod(f"{COPY}; exit 3", await hands.shop.put("b"), item={"publish_on_failure": False}) as pod:
        assert pod.end()["user"] == 3
    assert await hands.shop.keys() == ["out/pic ture.txt"]


async def test_a_list_of_twenty_with_one_bad_one(hands: Hands) -> None:
    events = [await hands.shop.put(f"{number}.txt", b"%d" % number) for number in range(20)]
    with hands.pod(
        f'case $INPUT_FILE_PATH in */7.txt) exit 9;; esac; {COPY}; echo "$STORAGE_OBJECT_KEY"', *events
    ) as pod:
        assert pod.end() == {"input": 0, "output": 0, "user": 0}
        results = await pod.results()
        assert await pod.log(11) == b"11.txt\n"
        # What was published is not kept on the pod's disk.
        assert not list(pod.run.glob("items/*/out/*"))
    assert [result.exit_code for result in results] == [0] * 7 + [9] + [0] * 12
    assert [len(result.outputs) for result in results] == [1] * 7 + [0] + [1] * 12


async def test_the_next_item_is_staged_while_one_runs_and_only_the_next(hands: Hands) -> None:
    events = [await hands.shop.put(f"{number}.txt") for number in range(3)]
    with hands.pod(f"while [ ! -e {hands.folder}/go ]; do sleep 0.01; done", *events) as pod:
        await pod.until("items/1/env")
        assert not (pod.run / "items/2").exists()
        (hands.folder / "go").touch()
        assert pod.end()["user"] == 0


async def test_objects_that_were_replaced_or_deleted_do_not_run_and_their_neighbours_do(hands: Hands) -> None:
    events = [await hands.shop.put(f"{number}.txt", b"%d" % number) for number in range(3)]
    await hands.shop.put("0.txt", b"another")
    await hands.shop.store.delete(hands.shop.pictures, "1.txt")
    with hands.pod("echo ran", *events) as pod:
        assert pod.end()["user"] == 0
        results = await pod.results()
        assert pod.said("user") == "ran\n"
    assert [result.error for result in results] == [ErrorClass.SUPERSEDED, ErrorClass.GONE, None]
    with hands.pod("echo ran", events[1]) as pod:
        assert pod.end() == {"input": 0, "output": 0, "user": 0}
        assert (await pod.result()).error is ErrorClass.GONE


async def test_hops_of_an_event_found_by_a_listing_come_from_the_object(hands: Hands) -> None:
    event = msgspec.structs.replace(await hands.shop.put("a", b"input", **{"penstock-hops": "2"}), hops=None)
    with hands.pod(COPY, event) as pod:
        assert pod.end()["user"] == 0
    assert (await hands.shop.store.head(hands.shop.results, "out/a")).metadata["penstock-hops"] == "3"
    with hands.pod("echo ran", event, max_hops=2) as pod:
        pod.end()
        result = await pod.result()
        assert pod.said("user") == ""
    assert result.error is ErrorClass.HOP_LIMIT
    assert "max_hops" in result.message


async def test_a_deadline_ends_its_item_alone(hands: Hands) -> None:
    events = [await hands.shop.put(f"{number}.txt") for number in range(2)]
    script = f"case $INPUT_FILE_PATH in */0.txt) trap '' TERM; while :; do sleep 0.05; done;; esac; {COPY}"
    with hands.pod(script, *events, deadline_s=0.5) as pod:
        assert pod.end() == {"input": 0, "output": 0, "user": 0}
        first, second = await pod.results()
    assert (first.error, first.exit_code) == (ErrorClass.DEADLINE, 124)
    assert "0.5 s" in first.message
    assert second.error is None


async def test_cancelled_items_end_with_their_reason_and_the_others_go_on(hands: Hands) -> None:
    events = [await hands.shop.put(f"{number}.txt") for number in range(3)]
    script = f"case $INPUT_FILE_PATH in */0.txt) touch {hands.folder}/up; exec sleep 1000;; esac; {COPY}"
    with hands.pod(script, *events) as pod:
        await pod.until("items/0/pid")
        pod.cancel(2)
        pod.cancel(0, "not wanted")
        assert pod.end()["user"] == 0
        results = await pod.results()
    assert [result.error for result in results] == [ErrorClass.CANCELLED, None, ErrorClass.CANCELLED]
    assert results[0].message == "not wanted"
    assert await hands.shop.keys() == ["out/1.txt"]


async def test_a_killed_container_is_seen_at_once(hands: Hands) -> None:
    events = [await hands.shop.put(f"{number}.txt") for number in range(2)]
    with hands.pod(f"echo so far; touch {hands.folder}/up; exec sleep 1000", *events) as pod:
        await pod.until(str(hands.folder / "up"))
        pod.kill("user")
        assert pod.end() == {"input": 0, "output": 0, "user": -signal.SIGKILL}
        result = await pod.result()
        assert await pod.log() == b"so far\n"
        with pytest.raises(NotFound):
            await pod.result(1)
    assert (result.error, result.exit_code) == (ErrorClass.KILLED, 137)


@pytest.mark.parametrize("victim", ["input", "output"])
async def test_a_sidecar_that_crashes_ends_the_pod_as_a_failure(hands: Hands, victim: str) -> None:
    """Items with a result keep it; the others have none, so the dispatcher runs them again."""
    events = [await hands.shop.put(f"{number}.txt") for number in range(4)]
    script = f"case $INPUT_FILE_PATH in */1.txt) touch {hands.folder}/up; exec sleep 3;; esac; {COPY}"
    with hands.pod(script, *events) as pod:
        await pod.until(str(hands.folder / "up"))
        await pod.recorded(0)
        pod.kill(victim)
        codes = pod.end()
        assert codes.pop(victim) == -signal.SIGKILL
        assert codes.pop("user") == 122
        assert set(codes.values()) == {122}
        assert (await pod.result(0)).error is None
        with pytest.raises(NotFound):
            await pod.result(3)


async def test_forged_words_fail_only_the_items_of_their_own_job(hands: Hands) -> None:
    events = [await hands.shop.put(f"{number}.txt") for number in range(3)]
    script = """case $INPUT_FILE_PATH in */0.txt)
        run=${TMP_OUTPUT_DIR%/items/*}
        echo 'exit 0 0' >"$run/alive"; echo 'exit 1 0' >"$run/alive"; printf 'garbage' >"$run/alive"
        echo 'exit 99999999999999 -1 oom x' >"$run/alive"; echo 'done 0' >"$run/ack"; echo 'skip 1' >"$run/ack"
        sleep 0.7; exit 4;; esac
        cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/" """
    with hands.pod(script, *events) as pod:
        codes = pod.end()
        assert (codes["input"], codes["output"]) == (0, 0)
        results = [await pod.result(0)]
    # It forged its own end, so it counts as what it said; the launcher and the list went on or ended, but nothing hung.
    assert results[0].exit_code == 0
    again = await hands.shop.put("other.txt")
    with hands.pod(COPY, again) as pod:
        assert pod.end()["user"] == 0
        assert (await pod.result()).error is None


async def test_a_list_goes_on_after_an_item_that_forged_the_end_of_the_next_one(hands: Hands) -> None:
    events = [await hands.shop.put(f"{number}.txt") for number in range(4)]
    script = """case $INPUT_FILE_PATH in */0.txt)
        alive=${TMP_OUTPUT_DIR%/items/*}/alive n=0
        echo 'exit 0 0' >"$alive"
        while [ $n -lt 40 ]; do echo 'exit 1 0' >"$alive"; sleep 0.05; n=$((n + 1)); done; exit 4;; esac
        cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/" """
    with hands.pod(script, *events) as pod:
        assert pod.end() == {"input": 0, "output": 0, "user": 0}
        results = await pod.results()
    assert [(one.error, one.exit_code) for one in results] == [(None, 0)] * 4
    assert [len(one.outputs) for one in results] == [0, 0, 1, 1]


async def test_a_script_that_forges_its_end_and_runs_on_is_ended(hands: Hands) -> None:
    script = "trap '' TERM; echo 'exit 0 0' >${TMP_OUTPUT_DIR%/items/*}/alive; while :; do sleep 0.05; done"
    with hands.pod(script, await hands.shop.put()) as pod:
        assert pod.end()["output"] == 0


async def test_links_do_not_lead_to_what_only_the_sidecar_can_read(hands: Hands) -> None:
    secret = hands.folder / "secret"
    secret.mkdir()
    (secret / "key").write_text("s3cret")
    # The first one goes at the folder of the second, once that is staged.
    script = f"""until [ -e "${{TMP_OUTPUT_DIR%/0/out}}/1/env" ] || [ -e {hands.folder}/once ]; do sleep 0.01; done
        touch {hands.folder}/once
        ln -s {secret}/key "$TMP_OUTPUT_DIR/link"; mkfifo "$TMP_OUTPUT_DIR/pipe"
        rm -r "${{TMP_OUTPUT_DIR%/0/out}}/1/out"; ln -s {secret} "${{TMP_OUTPUT_DIR%/0/out}}/1/out"
        rm -f "${{TMP_OUTPUT_DIR%out}}log"; ln -s {secret}/key "${{TMP_OUTPUT_DIR%out}}log" """
    events = [await hands.shop.put(f"{number}") for number in range(2)]
    with hands.pod(script, *events) as pod:
        pod.end()
        first, second = await pod.results()
        assert first.log_truncated
    assert "leads out of the output folder" in first.message
    assert not first.outputs
    assert not second.outputs
    assert await hands.shop.keys() == []
    assert (secret / "key").exists()


async def test_large_files_and_long_logs(hands: Hands) -> None:
    event = await hands.shop.put(data=os.urandom(20_000_000))
    script = f'{COPY}; i=0; line=$(printf "%099d" 0); while [ $i -lt 20000 ]; do echo $line; i=$((i+1)); done'
    with hands.pod(script, event) as pod:
        assert pod.end()["user"] == 0
        result = await pod.result()
        assert len(await pod.log()) == result.log_bytes == 2_000_000
    (output,) = result.outputs
    assert output.etag.endswith("-3")  # three parts
    assert await hands.shop.get(hands.shop.results, output.key) == await hands.shop.get(hands.shop.pictures, event.key)


async def test_the_same_output_of_the_same_invocation_is_not_published_twice(hands: Hands) -> None:
    event = await hands.shop.put()
    with hands.pod(COPY, event) as pod:
        pod.end()
        first = await pod.result()
    before = await hands.shop.store.head(hands.shop.results, "out/pic ture.txt")
    with hands.pod(COPY, event, item={"invocation": first.invocation, "attempt": 2}) as pod:
        pod.end()
        second = await pod.result()
    assert (second.error, second.outputs[0].written) == (None, False)
    assert await hands.shop.store.head(hands.shop.results, "out/pic ture.txt") == before
    with hands.pod(COPY, event, item={"invocation": first.invocation, "attempt": 3, "force": True}) as pod:
        pod.end()
        assert (await pod.result()).outputs[0].written


async def test_a_pod_that_replaces_another_skips_what_has_a_result(hands: Hands) -> None:
    events = [await hands.shop.put(f"{number}.txt") for number in range(3)]
    with hands.pod("echo $STORAGE_OBJECT_KEY", *events, start=("input",)) as pod:
        key = result_key(pod.plan.function_uid, pod.plan.name, pod.plan.items[1].invocation, 1)
        await hands.shop.store.write(SYSTEM_BUCKET, key, b"{}")
        pod.start("output", "user")
        assert pod.end()["user"] == 0
        assert pod.said("user") == "0.txt\n2.txt\n"


async def test_bodies_become_files_and_answers(hands: Hands) -> None:
    body = base64.b64encode(b"a picture")
    with hands.pod(f"{COPY}; echo said", submission(body, answer=True, id=hands.shop.pictures)) as pod:
        assert pod.end()["user"] == 0
        (item,) = pod.plan.items
        answer = await hands.shop.get(SYSTEM_BUCKET, answer_key(pod.plan.function_uid, item.invocation, 1))
    assert base64.b64decode(answer) == b"a picture"
    key = payload_key("0" * 32, hands.shop.pictures)
    await hands.shop.store.write(SYSTEM_BUCKET, key, base64.b64encode(bytes(9_000_000)))
    large = submission(b"", body_key=key, id="2")
    with hands.pod('[ $(wc -c <"$INPUT_FILE_PATH") = 9000000 ] || exit 1; echo x >"$TMP_OUTPUT_DIR/x"', large) as pod:
        assert pod.end()["user"] == 0
    with hands.pod("true", submission(b"hello world!")) as pod:
        assert pod.end()["user"] == 123
        assert (await pod.result()).error is ErrorClass.INVALID


@pytest.mark.parametrize("script", ["", " \n"])
async def test_a_missing_script_is_invalid(hands: Hands, script: str) -> None:
    events = [await hands.shop.put(key) for key in "ab"]
    with hands.pod(script, *events[:1]) as pod:
        assert pod.end()["user"] == 123
        result = await pod.result()
    assert (result.error, result.exit_code) == (ErrorClass.INVALID, 123)
    assert result.message == "the function classify has no script"
    with hands.pod(script, *events) as pod:
        pod.end()
        results = await pod.results()
    assert [(result.error, result.exit_code) for result in results] == [(ErrorClass.INVALID, 123)] * 2


async def test_outputs_that_cannot_go_up_fail_the_item_with_their_names(hands: Hands) -> None:
    outputs = (StorageIO(provider="onedata", bucket="space"), StorageIO(provider="minio", bucket=hands.shop.results))
    with hands.pod(COPY, await hands.shop.put("b"), outputs=outputs) as pod:
        assert pod.end()["user"] == 121
        result = await pod.result()
    assert (result.error, [output.key for output in result.outputs]) == (ErrorClass.PUBLISH, ["b"])
    assert "onedata.default:space" in result.message


async def test_term_lets_the_script_end_and_what_succeeded_counts(hands: Hands) -> None:
    script = f"trap 'stop=1' TERM; touch {hands.folder}/up; while [ ! \"$stop\" ]; do sleep 0.05; done; {COPY}"
    events = [await hands.shop.put(f"{number}") for number in range(2)]
    with hands.pod(script, *events) as pod:
        await pod.until(str(hands.folder / "up"))
        pod.term()
        assert pod.end() == {"input": 0, "output": 0, "user": 143}
        assert (await pod.result()).error is None
        with pytest.raises(NotFound):
            await pod.result(1)


async def test_term_of_a_script_that_dies_of_it_leaves_no_result(hands: Hands) -> None:
    """Whoever took the pod away says what that means: a cancel, or a drained node."""
    with hands.pod(f"echo x; touch {hands.folder}/up; exec sleep 1000", await hands.shop.put()) as pod:
        await pod.until(str(hands.folder / "up"))
        pod.term()
        assert pod.end() == {"input": 0, "output": 0, "user": 143}
        assert await pod.log() == b"x\n"
        with pytest.raises(NotFound):
            await pod.result()


async def test_a_term_that_output_has_not_heard_of_yet_leaves_no_result_either(hands: Hands) -> None:
    with hands.pod(f"touch {hands.folder}/up; exec sleep 1000", await hands.shop.put()) as pod:
        await pod.until(str(hands.folder / "up"))
        pod.term("user")
        pod.end()
        with pytest.raises(NotFound):
            await pod.result()


async def test_term_before_the_launcher_came_ends_both(hands: Hands) -> None:
    with hands.pod("true", await hands.shop.put(), start=("input", "output")) as pod:
        await pod.minds_term()
        pod.term()
        assert pod.end() == {"input": 0, "output": 0}


async def test_the_launcher_waits_for_the_sidecars_and_they_for_it(hands: Hands) -> None:
    with hands.pod(COPY, await hands.shop.put("late"), start=("user",)) as pod:
        pod.start("output")
        pod.start("input")
        assert pod.end() == {"input": 0, "output": 0, "user": 0}
        assert (await pod.result()).error is None


async def test_a_wrong_account_is_said_without_its_keys(hands: Hands) -> None:
    with hands.pod("true", await hands.shop.put(), start=("input",)) as pod:
        (pod.secrets / "secret_key").write_text("wr0ng-key")
        pod.start("output", "user")
        codes = pod.end()
        said = pod.said("output")
    assert codes["output"] == 1
    assert codes["user"] == 122
    assert "refused" in said
    assert "wr0ng-key" not in said


async def test_the_script_sees_its_values_and_no_credential(hands: Hands) -> None:
    event = await hands.shop.put("deep/er/na me+%2F.txt")
    with hands.pod('env -0 >"$TMP_OUTPUT_DIR/env"', event) as pod:
        assert pod.end()["user"] == 0
        raw = await hands.shop.get(hands.shop.results, "out/env")
    seen = dict(line.decode().split("=", 1) for line in raw.split(b"\0") if line)
    assert seen["STORAGE_OBJECT_KEY"] == "deep/er/na me+%2F.txt"
    assert seen["INPUT_FILE_PATH"] == f"{seen['TMP_INPUT_DIR']}/na me+%2F.txt"
    assert '"key":"deep%2Fer%2Fna+me%2B%252F.txt"' in seen["EVENT"]
    assert not [name for name in seen if name.startswith(("PENSTOCK", "_pk", "AWS"))]
