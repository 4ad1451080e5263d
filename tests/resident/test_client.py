"""The client of pods against a real one, and the history that follows: no cluster is needed for either."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest

from gateway.resident.history import History, record_of
from gateway.resident.pod_client import NotBegun, PodClient, PodLost
from penstock.adapters.sqlite import SqliteEventLog
from penstock.codec import decode_record
from penstock.errors import Unavailable
from penstock.model import SYSTEM_BUCKET, TOPIC_RECORDS, Function, ItemResult, Record, Submission
from penstock.model.objects import payload_key
from tests.process_runner.support import opened_store
from tests.resident.local import LocalPod, call

FUNCTION = Function(name="echo", uid="0" * 32)


async def test_an_answer_comes_with_its_result_and_a_pod_that_is_away_began_nothing(tmp_path: Path) -> None:
    script = 'cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/x"'
    async with PodClient() as client:
        async with LocalPod(tmp_path, script).started() as pod:
            assert await client.up(pod.url)
            data = base64.b64encode(b"x" * 2_000_000)
            answer = await client.run(pod.url, pod.key, call(data), data, content_type="text/plain")
            assert (answer.result.error, await answer.read()) == (None, data + b"\n")
            await answer.close()
            use = await client.use(pod.url, pod.key)
            assert use is not None
            assert (use.slots, use.up) == (1, 1)
            assert await client.use(pod.url, "0" * 64) is None
            with pytest.raises(PodLost, match="401"):
                await client.run(pod.url, "0" * 64, call(), b"", content_type="text/plain")
        assert not await client.up(pod.url)
        with pytest.raises(NotBegun):
            await client.run(pod.url, pod.key, call(), b"", content_type="text/plain")


async def test_a_pod_that_is_lost_in_the_middle_is_not_asked_again(tmp_path: Path) -> None:
    async with PodClient() as client, LocalPod(tmp_path, f"echo $$ >{tmp_path}/pid; exec sleep 1000").started() as pod:
        asking = asyncio.create_task(client.run(pod.url, pod.key, call(), b"", content_type="text/plain"))
        await pod.until("pid")
        with pytest.raises(NotBegun, match="busy"):
            await client.run(pod.url, pod.key, call(), b"", content_type="text/plain")
        pod.kill("resident")
        with pytest.raises(PodLost):
            await asking


async def test_history_is_written_in_groups_and_kept_while_the_log_is_away(tmp_path: Path) -> None:
    heard: list[str] = []

    async def written(records: list[Record]) -> None:
        heard.extend(record.id for record in records)

    async with opened_store(tmp_path) as store:
        await store.create_bucket(SYSTEM_BUCKET)
        log = await SqliteEventLog.open(tmp_path / "log.sqlite")
        away = True

        class Away:
            """The log behind a wire that is cut."""

            def __getattr__(self, name: str) -> object:
                return getattr(log, name)

            async def append(self, topic: str, entries: object) -> object:
                if away:
                    raise Unavailable("cut")
                return await log.append(topic, entries)  # type: ignore[arg-type]

        history = History(Away(), store, written)  # type: ignore[arg-type]
        made = []
        for body in (b"small", b"l" * 100_000):
            asked = call(body)
            result = ItemResult(invocation=asked.invocation, attempt=1, finished_ms=2)
            history.add(record_of(FUNCTION, asked.submission, result, pod="p", begun_ms=1, now=3), body)
            made.append(asked)
        with pytest.raises(Unavailable):
            await history.flush()
        assert heard == []
        away = False
        await history.flush()
        await history.flush()
        assert heard == [one.invocation for one in made], "once"
        records = [decode_record(entry.value) for entry in await log.read(TOPIC_RECORDS, {}, limit=10)]
        await log.close()
        small, large = sorted((record.trigger for record in records), key=lambda one: getattr(one, "size", 0))
        assert isinstance(small, Submission)
        assert isinstance(large, Submission)
        assert (small.body, small.body_key) == (b"small", None)
        assert (large.body, large.body_key) == (b"", payload_key(large.function_uid, made[1].submission.id))
        kept = b"".join([chunk async for chunk in store.read(SYSTEM_BUCKET, large.body_key or "")])
        assert kept == b"l" * 100_000, "a replay finds it"
