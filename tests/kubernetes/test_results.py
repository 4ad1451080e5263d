"""Result objects in a real store: what is read, what counts as missing, what is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec

from dispatcher.kubernetes import StoreResults, result_key
from dispatcher.kubernetes.entry import WAITS
from dispatcher.kubernetes.results import JobRef
from penstock.model import SYSTEM_BUCKET, ErrorClass, ItemResult
from tests.kubernetes.plans import plan
from tests.process_runner.support import opened_store

TURNS = (("a", 1), ("b", 2), ("c", 1))


def ref(*turns: tuple[str, int]) -> JobRef:
    return JobRef("job-1", "u", turns, WAITS)


async def test_results_are_read_as_they_come(tmp_path: Path) -> None:
    async with opened_store(tmp_path) as store:
        await store.create_bucket(SYSTEM_BUCKET)
        source = StoreResults(store)
        assert await source.results(ref(*TURNS)) == []
        assert await source.results(ref(("a", 1))) == []
        given = [ItemResult(invocation="b", attempt=2, error=ErrorClass.SCRIPT, exit_code=3, message="ü")]
        given.append(ItemResult(invocation="a", attempt=1))
        for result in given:
            key = result_key("u", "job-1", result.invocation, result.attempt)
            await store.write(SYSTEM_BUCKET, key, msgspec.json.encode(result))
        assert sorted(await source.results(ref(*TURNS)), key=lambda r: r.invocation) == sorted(
            given, key=lambda r: r.invocation
        )
        assert await source.results(ref(("b", 1))) == []  # of another attempt
        await source.forget("u", "job-1", TURNS[:1])
        assert [r.invocation for r in await source.results(ref(*TURNS))] == ["b"]
        await source.forget("u", "job-1", None)
        await source.forget("u", "job-1", TURNS)
        assert await source.results(ref(*TURNS)) == []


async def test_what_a_job_left_behind_is_found_and_removed_without_the_job(tmp_path: Path) -> None:
    made = plan(name="job-1", function_uid="u")
    (item,) = made.items
    async with opened_store(tmp_path) as store:
        await store.create_bucket(SYSTEM_BUCKET)
        source = StoreResults(store)
        assert await source.outlasting(made) == []
        kept = ItemResult(invocation=item.invocation, attempt=item.attempt, message="kept")
        for uid in ("u", "other"):
            key = result_key(uid, "job-1", item.invocation, item.attempt)
            await store.write(SYSTEM_BUCKET, key, msgspec.json.encode(kept))
        assert await source.outlasting(made) == [kept]
        # Nothing tells whose it was but what was asked before.
        await source.forget("", "job-1", None)
        await source.forget("", "job-1", None)
        assert await source.outlasting(made) == []
        assert await source.outlasting(msgspec.structs.replace(made, function_uid="other")) == [kept]


async def test_what_is_no_result_is_told_and_takes_no_neighbour_along(tmp_path: Path) -> None:
    async with opened_store(tmp_path) as store:
        await store.create_bucket(SYSTEM_BUCKET)
        forged = msgspec.json.encode(ItemResult(invocation="b", attempt=2))
        await store.write(SYSTEM_BUCKET, result_key("u", "job-1", "a", 1), forged)
        await store.write(SYSTEM_BUCKET, result_key("u", "job-1", "b", 2), b"{")
        good = msgspec.json.encode(ItemResult(invocation="c", attempt=1))
        await store.write(SYSTEM_BUCKET, result_key("u", "job-1", "c", 1), good)
        found = {result.invocation: result for result in await StoreResults(store).results(ref(*TURNS))}
        assert "another item" in found["a"].message
        assert "cannot be read" in found["b"].message
        assert (found["a"].error, found["b"].error, found["c"].error) == (ErrorClass.LOST, ErrorClass.LOST, None)
