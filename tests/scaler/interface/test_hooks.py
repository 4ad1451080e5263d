"""C20: the fourteen hooks, by CLUES's names, told without blocking; PRE may veto. With real programs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidInput, Unavailable
from scaler.control import Happening, HookEvent, Hooks
from scaler.interface.clues_options import HOOK_NAMES
from scaler.interface.expressions import parse_expressions
from scaler.interface.hooks import ProgramHooks, arguments, read_options
from scaler.interface.wording import expression_of
from scaler.model import PodSpec, Request, Requirement

TELL = """#!/bin/sh
echo "$PENSTOCK_HOOK $*" >> "$(dirname "$0")/told"
"""


def script(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def hooks(
    folder: Path, commands: dict[str, str] | None = None, *, timeout_s: float = 60.0, waiting: int = 100, **more: str
) -> ProgramHooks:
    both = (commands or {}) | more
    return ProgramHooks(read_options(both, timeout_s=timeout_s, folder=folder, workers=2, waiting=waiting))


@asynccontextmanager
async def listening(ours: ProgramHooks) -> AsyncIterator[None]:
    """Inside, happenings are told; at the end all were."""
    running = asyncio.create_task(ours.run())
    yield
    async with asyncio.timeout(60):
        await ours.drain()
    running.cancel()
    await asyncio.wait({running})


def event(kind: Happening, node: str = "n1", **fields: Any) -> HookEvent:
    return HookEvent(kind=kind, time_ms=1, node=node, **fields)


def test_c20_the_names_are_those_of_clues() -> None:
    assert {kind.value.upper() for kind in Happening} == set(HOOK_NAMES)


def test_c20_arguments_are_those_of_clues() -> None:
    terms = parse_expressions(['zone == "a" || gpu'])
    spec = PodSpec(requests=(("cpu", 1500), ("memory", 1 << 30), ("pods", 1)), selector=(("k", "v"),), affinity=terms)
    request = Request(id="r1", spec=spec, tasks=4, per_node=2, until_ms=9)
    assert arguments(event(Happening.PRE_POWERON)) == ("n1",)
    assert arguments(event(Happening.POST_POWERON, accepted=True, name="vm-7")) == ("n1", "1", "vm-7")
    assert arguments(event(Happening.POST_POWEROFF)) == ("n1", "0", "n1")
    assert arguments(event(Happening.ONERR, failures=3)) == ("n1", "3")
    told = arguments(HookEvent(kind=Happening.REQUEST, time_ms=1, request=request))
    assert told == ("r1", "1.5", str(1 << 30), "4", "2", 'k == "v";zone == "a" || gpu')


async def test_c20_every_hook_is_told_in_order(tmp_path: Path) -> None:
    script(tmp_path, "tell", TELL)
    ours = hooks(tmp_path, {kind.value: "tell first" for kind in Happening})
    listener: Hooks = ours
    told = [kind for kind in Happening if not kind.value.startswith("pre_")]
    async with listening(ours):
        listener.told([event(kind) for kind in told])
    lines = (tmp_path / "told").read_text().splitlines()
    assert [line.split()[0] for line in lines] == [kind.value for kind in told]
    assert lines[0] == "post_poweron first n1 0 n1"
    assert ours.counts.ended["idle", "ok"] == 1


async def test_c20_pre_may_veto_and_the_reason_is_what_the_program_said(tmp_path: Path) -> None:
    script(tmp_path, "no", "#!/bin/sh\necho thinking\necho 'the room is too warm'\nexit 3\n")
    script(tmp_path, "silent", "#!/bin/sh\nexit 4\n")
    ours = hooks(tmp_path, pre_poweron="no", pre_poweroff="silent")
    assert await ours.allow(event(Happening.PRE_POWERON)) == "hook pre_poweron said no: the room is too warm"
    assert await ours.allow(event(Happening.PRE_POWEROFF)) == "hook pre_poweroff said no: status 4"
    assert ours.counts.ended["pre_poweron", "veto"] == 1
    assert await hooks(tmp_path).allow(event(Happening.PRE_POWERON)) == ""
    assert await hooks(tmp_path, pre_poweron="true").allow(event(Happening.PRE_POWERON)) == ""


async def test_a_program_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    script(tmp_path, "hang", '#!/bin/sh\nsleep 600 &\necho $! > "$(dirname "$0")/child"\nwait\n')
    ours = hooks(tmp_path, timeout_s=1.0, pre_poweroff="hang")
    with pytest.raises(Unavailable, match="did not answer within 1 s and was ended"):
        await ours.allow(event(Happening.PRE_POWEROFF))
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 60
    while _alive(child):
        assert time.monotonic() < deadline, "the child of the hook lives on"
        await asyncio.sleep(0.02)
    assert ours.counts.ended["pre_poweroff", "timeout"] == 1


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_failing_program_is_counted_and_the_next_is_told(tmp_path: Path) -> None:
    script(tmp_path, "fails", "#!/bin/sh\nexit 1\n")
    gone = script(tmp_path, "gone", TELL)
    script(tmp_path, "tell", TELL)
    ours = hooks(tmp_path, idle="fails", used="gone", unknown="tell")
    gone.unlink()
    async with listening(ours):
        ours.told([event(Happening.IDLE), event(Happening.USED), event(Happening.UNKNOWN)])
    assert ours.counts.ended == {("idle", "failed"): 1, ("used", "failed"): 1, ("unknown", "ok"): 1}
    with pytest.raises(Unavailable, match="cannot be run"):
        await hooks_with_lost_program(tmp_path).allow(event(Happening.PRE_POWERON))


def hooks_with_lost_program(folder: Path) -> ProgramHooks:
    lost = script(folder, "lost", TELL)
    ours = hooks(folder, pre_poweron="lost")
    lost.unlink()
    return ours


def test_what_cannot_be_told_in_time_is_dropped_and_counted_not_kept(tmp_path: Path) -> None:
    ours = hooks(tmp_path, waiting=2, idle="true")
    ours.told([event(Happening.IDLE) for _ in range(5)])
    assert ours.waiting == 2
    assert ours.counts.ended["idle", "dropped"] == 3


async def test_a_program_sees_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_TOKEN", "s3cret")
    script(tmp_path, "show", "#!/bin/sh\nenv | tr '\\n' ' '\nexit 1\n")
    said = await hooks(tmp_path, pre_poweron="show").allow(event(Happening.PRE_POWERON, pool="cpu", reason="2 pods"))
    assert "PENSTOCK_POOL=cpu" in said or len(said) > 100
    assert "s3cret" not in said


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("no-such-program", "hooks.idle: there is no program 'no-such-program', or it may not be run"),
        ("'unclosed", "hooks.idle: is no command line: No closing quotation"),
    ],
)
def test_a_wrong_command_is_refused_before_anything_runs(tmp_path: Path, command: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        hooks(tmp_path, idle=command)
    assert str(caught.value) == message


def test_a_program_without_a_path_is_looked_for_in_the_folder_first(tmp_path: Path) -> None:
    mine = script(tmp_path, "true", TELL)
    options = read_options({"idle": "true"}, timeout_s=1, folder=tmp_path, workers=1, waiting=1)
    assert options.programs[Happening.IDLE] == (str(mine),)
    plain = read_options({"idle": "true"}, timeout_s=1, folder=None, workers=1, waiting=1)
    assert Path(plain.programs[Happening.IDLE][0]).parent != tmp_path
    assert os.path.isabs(plain.programs[Happening.IDLE][0])  # noqa: PTH117 - it is a text


values = st.text("ab1.-", min_size=1, max_size=4)
requirements = st.one_of(
    st.builds(Requirement, st.sampled_from(["a", "x.io/b"]), st.sampled_from(["Exists", "DoesNotExist"])),
    st.builds(
        Requirement,
        st.sampled_from(["a", "x.io/b"]),
        st.sampled_from(["In", "NotIn"]),
        st.lists(values, min_size=1, max_size=3).map(tuple),
    ),
    st.builds(
        Requirement,
        st.just("c"),
        st.sampled_from(["Gt", "Lt"]),
        st.integers(0, 99).map(lambda number: (str(number),)),
    ),
)


@given(terms=st.lists(st.lists(requirements, min_size=1, max_size=3, unique=True).map(tuple), max_size=3, unique=True))
def test_a_condition_is_written_so_that_it_reads_back(terms: list[tuple[Requirement, ...]]) -> None:
    text = expression_of(terms)
    assert parse_expressions([text] if text else []) == tuple(terms)
