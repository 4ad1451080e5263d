"""Several functions at once: chains, fans, loops, and who goes when."""

from __future__ import annotations

import asyncio

from penstock.answers import Invocation
from tests.embedded.shop import COPY, Shop, document, entry, service, until


def append(word: str) -> str:
    return f'{{ cat "$INPUT_FILE_PATH"; printf {word}; }} > "$TMP_OUTPUT_DIR/${{INPUT_FILE_PATH##*/}}"\n'


async def test_three_functions_in_a_row(shop: Shop) -> None:
    fdl = document(
        service("one", source="flow/raw", target="flow/clean"),
        service("two", source="flow/clean", target="flow/text"),
        service("three", source="flow/text", target="flow/final"),
    )
    applied = await shop.client.apply(fdl, {"one.sh": append("A"), "two.sh": append("B"), "three.sh": append("C")})
    assert applied.warnings == ()
    for name in ("x", "y"):
        shop.drop(f"flow/raw/{name}.txt", name)
    for function in ("one", "two", "three"):
        assert [one.phase for one in await shop.settled(function, 2)] == ["succeeded"] * 2
    outputs = await shop.outputs("flow")
    assert outputs["final/x.txt"] == b"xABC"
    assert outputs["final/y.txt"] == b"yABC"
    assert len(outputs) == 8
    last = (await shop.records("three"))[0]
    first = next(one for one in await shop.records("one") if one.key == last.key.replace("text/", "raw/"))  # type: ignore[union-attr]
    assert first.finished_ms <= last.started_ms


async def test_results_fan_out_by_their_names_and_each_starts_its_own_chain(shop: Shop) -> None:
    outputs = f"[{entry('fan/pictures', suffix='[.png]')}, {entry('fan/tables', suffix='[.csv]', prefix='[t]')}]"
    split = 'cd "$TMP_OUTPUT_DIR"; mkdir d; for name in a.png t.csv x.csv c.txt d/e.png; do echo 1 > $name; done\n'
    fdl = document(
        service("split", source="fan/in", target=None, output=outputs),
        service("pictures", source="fan/pictures", target="fan/seen"),
    )
    await shop.client.apply(fdl, {"split.sh": split, "pictures.sh": COPY})
    shop.drop("fan/in/go")
    record = await shop.ended("split")
    assert record.phase == "succeeded"
    assert sorted(one.key for one in record.outputs) == ["pictures/a.png", "pictures/d/e.png", "tables/t.csv"]
    await shop.settled("pictures", 2)
    found = await shop.outputs("fan")
    assert set(found) == {
        "in/go",
        "pictures/a.png",
        "pictures/d/e.png",
        "tables/t.csv",
        "seen/a.png",
        "seen/e.png",
    }


async def test_two_functions_on_one_bucket_both_get_each_file(shop: Shop) -> None:
    fdl = document(
        service("all", source="both/in", target="both/all"),
        service("texts", target="both/texts", source=None, input=f"[{entry('both/in', suffix='[.txt]')}]"),
    )
    await shop.client.apply(fdl, {"all.sh": COPY, "texts.sh": "exit 4\n"})
    shop.drop("both/in/a.txt", "a")
    shop.drop("both/in/b.bin", "b")
    assert [one.phase for one in await shop.settled("all", 2)] == ["succeeded"] * 2
    texts = await shop.ended("texts")
    assert (texts.key, texts.phase) == ("in/a.txt", "failed"), "and one's failure is not the other's"


async def test_a_circle_stops_at_max_hops_and_says_why(shop: Shop) -> None:
    fdl = document(
        service("ping", source="ring/a", target="ring/b", max_hops=5),
        service("pong", source="ring/b", target="ring/a", max_hops=5),
    )
    applied = await shop.client.apply(fdl, {"ping.sh": append("p"), "pong.sh": append("q")})
    assert any("feed each other" in warning for warning in applied.warnings)
    shop.drop("ring/a/ball", ".")

    async def look() -> list[Invocation]:
        return await shop.records("ping") + await shop.records("pong")

    records = await until(look, lambda seen: len(seen) == 6 and all(one.final for one in seen))
    assert sorted(one.phase for one in records) == ["skipped", *["succeeded"] * 5]
    [skipped] = [one for one in records if one.phase == "skipped"]
    assert skipped.error == "hop_limit"
    assert "has passed through 5 functions" in skipped.reason
    assert "(max_hops)" in skipped.reason
    assert (await shop.outputs("ring"))["b/ball"] == b".pqpqp"


#: Tells when it begins and ends, in the order of one file's lines.
def telling(shop: Shop, name: str, pause: str = "0.1") -> str:
    tell = f'{name} ${{STORAGE_OBJECT_KEY##*/}}" >> {shop.note("told")}'
    return f'echo "begin {tell}\nsleep {pause}\necho "end {tell}\n'


def most_at_once(lines: list[str]) -> int:
    now = most = 0
    for line in lines:
        now += 1 if line.startswith("begin") else -1
        most = max(most, now)
    return most


async def test_concurrency_1_is_really_one_at_a_time(shop: Shop) -> None:
    await shop.deploy("single", telling(shop, "single"), concurrency=1, target=None, cpu="0.1")
    for number in range(8):
        shop.drop(f"single-in/files/{number}")
    await shop.settled("single", 8)
    assert most_at_once(await shop.noted("told", 16)) == 1


async def test_without_a_limit_items_share_the_machine_by_their_cpu(shop: Shop) -> None:
    # The counter-check of the test before: the same files do run side by side.
    await shop.deploy("many", telling(shop, "many", "0.4"), target=None, cpu="0.1")
    for number in range(8):
        shop.drop(f"many-in/files/{number}")
    await shop.settled("many", 8)
    assert most_at_once(await shop.noted("told", 16)) >= 4


async def test_rate_spreads_the_starts(shop: Shop) -> None:
    await shop.deploy("slowly", "true\n", rate=5, target=None)
    for number in range(10):
        shop.drop(f"slowly-in/files/{number}")
    starts = sorted(one.started_ms for one in await shop.settled("slowly", 10))
    # One second's worth may start at once, also later when starts were held up; the rest comes at five a second.
    for first in range(10):
        for last in range(first + 6, 10):
            assert starts[last] - starts[first] >= (last - first - 4) * 200 - 100, starts


async def test_the_higher_priority_goes_first(shop: Shop) -> None:
    fdl = document(
        service("hold", source="first/hold", target=None),
        service("low", source="first/low", target=None, priority=-5),
        service("high", source="first/high", target=None, priority=5),
    )
    hold = f"while [ ! -e {shop.note('gate')} ]; do sleep 0.02; done\n"
    scripts = {"hold.sh": hold, "low.sh": telling(shop, "low"), "high.sh": telling(shop, "high")}
    await shop.client.apply(fdl, scripts)
    slots = (await shop.client.status()).slots.cpu_millis_total // 1000
    for number in range(slots):
        shop.drop(f"first/hold/{number}")
    await until(lambda: shop.phases("hold"), lambda phases: phases == ["running"] * slots)
    for number in range(5):
        shop.drop(f"first/low/{number}")
    await until(lambda: shop.phases("low"), lambda phases: len(phases) == 5)
    for number in range(5):
        shop.drop(f"first/high/{number}")
    await until(lambda: shop.phases("high"), lambda phases: len(phases) == 5)
    shop.note("gate").touch()
    await shop.settled("high", 5)
    await shop.settled("low", 5)
    begun = [line.split()[1] for line in await shop.noted("told", 20) if line.startswith("begin")]
    assert begun[:5] == ["high"] * 5


async def test_a_paused_function_queues_and_goes_on_when_resumed(shop: Shop) -> None:
    await shop.deploy("resting")
    await shop.client.pause("resting")
    for number in range(3):
        shop.drop(f"resting-in/files/{number}")
    await until(lambda: shop.phases("resting"), lambda phases: phases == ["queued"] * 3)
    status = next(one for one in (await shop.client.status()).functions if one.name == "resting")
    assert status.paused
    assert status.queued == 3
    assert status.waiting_for is not None
    assert "paused" in status.waiting_for
    await shop.deploy("resting", COPY + "true\n")  # deploying anew does not resume
    await asyncio.sleep(0.3)
    assert await shop.phases("resting") == ["queued"] * 3
    await shop.client.resume("resting")
    assert [one.phase for one in await shop.settled("resting", 3)] == ["succeeded"] * 3


async def test_linger_waits_for_a_list_and_not_longer(shop: Shop) -> None:
    await shop.deploy("list", COPY, batch="{max_items: 50, linger: 700ms}", concurrency=1)
    for number in range(6):
        shop.drop(f"list-in/files/{number}", str(number))
        await asyncio.sleep(0.05)
    records = await shop.settled("list", 6)
    assert len({one.job for one in records}) == 1
    assert 650 <= min(one.started_ms for one in records) - min(one.queued_ms for one in records) < 5000
    # And without company it starts all the same.
    shop.drop("list-in/files/alone", "x")
    alone = (await shop.settled("list", 7))[-1]
    assert alone.phase == "succeeded"
    assert alone.started_ms - alone.queued_ms >= 650


async def test_a_full_list_does_not_linger(shop: Shop) -> None:
    await shop.deploy("list", COPY, batch="{max_items: 3, linger: 1h}", concurrency=1)
    for number in range(3):
        shop.drop(f"list-in/files/{number}")
    assert [one.phase for one in await shop.settled("list", 3)] == ["succeeded"] * 3
