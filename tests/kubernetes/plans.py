"""Plans for these tests, by hand and by hypothesis."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st

from penstock.model import BucketEvent, JobItem, JobPlan, Origin, Resources, StorageIO, Volume

UID = "0123456789abcdef0123456789abcdef"
EVENT = BucketEvent(
    bucket="pictures", key="in/a b+%2F.png", etag="e1", size=10, time_ms=1_700_000_000_000,
    arrived_ms=1_700_000_000_001, origin=Origin.PUSH, hops=0,
)  # fmt: skip


def items_of(count: int, name: str = "job-1") -> tuple[JobItem, ...]:
    return tuple(JobItem(invocation=f"{name}-{index}", attempt=1, trigger=EVENT) for index in range(count))


def plan(name: str = "job-1", count: int = 1, **changes: Any) -> JobPlan:
    made = JobPlan(
        name=name,
        id=f"id-{name}",
        function="classify",
        function_uid=UID,
        generation=3,
        image="penstock.test/busybox:1",
        script="#!/bin/sh\ntrue\n",
        items=items_of(count, name),
        outputs=(StorageIO(provider="minio", bucket="results", folder="out", suffix=(".json",)),),
        environment={"MODEL": "big", "MONEY": "$5 $(OSCAR_SERVICE_TOKEN)", "EMPTY": ""},
        secrets={"API_KEY": "s3cret"},
        token="t0ken",
        resources=Resources(cpu_millis=500, memory_bytes=64 * 2**20),
        deadline_s=60,
        labels={"oscar_service": "classify"},
    )
    return msgspec.structs.replace(made, **changes)


_text = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)
_names = st.text("abcXYZ_09.-$", min_size=1, max_size=12)


@st.composite
def plans(draw: st.DrawFn) -> JobPlan:
    """Plans that a cluster could run, with nasty but legal texts."""
    name = draw(st.from_regex(r"[a-z]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True))
    keys = draw(st.lists(_text.filter(bool), min_size=1, max_size=4))
    return plan(
        name,
        id=draw(_text),
        function=draw(_text.filter(bool)),
        generation=draw(st.integers(1, 10**6)),
        items=tuple(
            JobItem(invocation=f"i{number}", attempt=number + 1, trigger=msgspec.structs.replace(EVENT, key=key))
            for number, key in enumerate(keys)
        ),
        environment=draw(st.dictionaries(_names, _text, max_size=4)),
        secrets=draw(st.dictionaries(st.text("ABC_", min_size=1, max_size=6), _text, max_size=2)),
        token=draw(st.sampled_from(["", "t" * 64])),
        labels=draw(st.dictionaries(st.sampled_from(["owner_name", "vo"]), _text, max_size=2)),
        deadline_s=draw(st.floats(0.1, 10**12)),
        volume=draw(st.sampled_from([None, Volume(name="v", mount_path="/data")])),
        resources=draw(
            st.builds(
                Resources,
                cpu_millis=st.none() | st.integers(0, 10**6),
                memory_bytes=st.none() | st.integers(0, 2**50),
                gpu=st.booleans(),
            )
        ),
    )
