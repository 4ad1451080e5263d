"""Items that end together: what is noted of them, when they are published, and which are published without a look."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from dispatcher.process_runner import finish as finishing
from dispatcher.process_runner import group as groups
from dispatcher.process_runner.group import Group
from dispatcher.process_runner.job import Item, Job
from dispatcher.process_runner.layout import JobFolder, Note
from penstock.model import BucketEvent, ItemResult
from tests.process_runner.support import eventually, plan, process_bench

EVENT = BucketEvent(bucket="pictures", key="k", etag="e", size=0, time_ms=1, arrived_ms=1, hops=0)


def test_notes_keep_the_last_word_per_item_and_pass_over_torn_lines(tmp_path: Path) -> None:
    folder = JobFolder(str(tmp_path), "job")
    Path(folder.root).mkdir()
    assert folder.notes() == ({}, {})
    first, second = (ItemResult(invocation="i", attempt=attempt) for attempt in (1, 2))
    folder.note([Note(item=0, intent=first), Note(item=1, intent=first)])
    with Path(folder.root, "notes").open("ab") as stream:
        stream.write(b'{"item":1,"result":{"invoc')  # a kill, or a full disk
    folder.note([Note(item=0, result=first)])
    folder.note([Note(item=0, result=second)])
    assert folder.notes() == ({0: second}, {0: first, 1: first})


class Batches:
    """What a group publishes, held back until a test lets it go on."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.free = asyncio.Event()

    async def publish(self, items: list[Item]) -> None:
        self.seen.append([item.index for item in items])
        await self.free.wait()


def ended(tmp_path: Path, count: int) -> list[Item]:
    made = plan("true", *(EVENT for _ in range(count)))
    return Job(made, JobFolder(str(tmp_path), "job"), "n").items


async def test_items_that_end_while_others_are_published_wait_and_go_together(tmp_path: Path) -> None:
    batches = Batches()
    group = Group(batches.publish, "publish")
    items = ended(tmp_path, 40)
    assert not group.busy
    group.add(items[0])
    await eventually(lambda: batches.seen == [[0]])  # alone, after the longest wait for company
    for item in items[1:]:
        group.add(item)
    assert group.busy
    batches.free.set()
    await group.flush()
    assert batches.seen == [[0], list(range(1, 17)), list(range(17, 33)), list(range(33, 40))]
    assert not group.busy


async def test_a_full_group_and_the_last_of_a_job_do_not_wait_for_company(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "_GATHER_S", 1000.0)
    batches = Batches()
    batches.free.set()
    group = Group(batches.publish, "publish")
    items = ended(tmp_path, 18)
    for item in items[:16]:
        group.add(item)
    await eventually(lambda: len(batches.seen) == 1)
    group.add(items[16])
    await group.flush()
    assert [len(batch) for batch in batches.seen] == [16, 1]
    group.add(items[17])
    await group.abandon()
    assert not group.busy
    assert len(batches.seen) == 2


async def test_a_bug_in_publication_is_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_GATHER_S", 0.0)
    tried = asyncio.Event()

    async def broken(_: list[Item]) -> None:
        tried.set()
        raise ZeroDivisionError

    group = Group(broken, "publish")
    items = ended(tmp_path, 2)
    group.add(items[0])
    await tried.wait()
    group.add(items[1])
    with pytest.raises(ZeroDivisionError):
        await group.flush()
    await group.abandon()


@pytest.mark.parametrize(
    ("attempt", "recovered", "came_ms", "first"),
    [(1, False, 11, True), (2, False, 11, False), (1, True, 11, False), (1, False, 10, False)],
)
def test_only_a_first_attempt_on_a_new_input_is_published_without_a_look(
    tmp_path: Path, attempt: int, came_ms: int, *, recovered: bool, first: bool
) -> None:
    (item,) = ended(tmp_path, 1)
    trigger = msgspec.structs.replace(item.job_item.trigger, arrived_ms=came_ms)
    item.job_item = msgspec.structs.replace(item.job_item, attempt=attempt, trigger=trigger)
    item.recovered = recovered
    assert finishing._is_first(item, 10) == first


async def test_when_the_last_script_has_ended_that_is_said_before_its_outputs_are_there(tmp_path: Path) -> None:
    async with process_bench(tmp_path) as bench:
        events = [await bench.put(str(number)) for number in range(3)]
        await bench.runner.submit(plan('cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/"', *events))
        status = await bench.end("job-1")
        assert [output.key for result in status.results for output in result.outputs] == ["out/0", "out/1", "out/2"]
        told = [status.scripts_done for status in bench.seen]
        assert told == sorted(told)  # once said it stays
        early = next(status for status in bench.seen if status.scripts_done)
        assert early.current is None
        assert "job-1-2" not in {result.invocation for result in early.results}
