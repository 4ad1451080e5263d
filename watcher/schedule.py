"""Decides what the reconciler lists next. Pure: `now_ms` is an argument, what listings cost was measured by the shell.

Everything is listed at once after a start, a gap or a rule change; otherwise as often as a small share of the time and
a budget of keys allow, at least daily. Where that is seldom, folders with recent news are listed in between.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

#: Reason of the listing that takes what an urgent one left out because it might still be written.
SETTLED = "unfinished files"


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    #: Part of the time that may be spent listing.
    share: float = 0.02
    #: Listed keys per minute over all buckets, 0 = no limit (a local folder; requests to S3 cost money and time).
    keys_per_minute: int = 0
    #: Seconds between two full listings of one scope.
    min_interval_s: float = 60.0
    max_interval_s: float = 24 * 3600.0
    #: Folders with news so recent are listed in between.
    hot_s: float = 15 * 60.0
    hot_interval_s: float = 60.0
    #: At most so many folders per scope are hot.
    hot_folders: int = 32
    #: A listing leaves out files that another program may still be writing. Where events may be missing, it is
    #: therefore repeated once after this time. 0 = listings leave nothing out.
    settle_s: float = 0.0
    #: Pause after a failed listing; doubled each time it fails again, up to the interval.
    retry_s: float = 5.0


class Hot(msgspec.Struct):
    """A folder with recent news."""

    news_ms: int
    swept_ms: int = 0
    cost_s: float = 0.0
    keys: int = 0


class Scope(msgspec.Struct, kw_only=True):
    """What is listed in one go: a bucket, or the part of it below a prefix that some function takes input from."""

    bucket: str
    prefix: str = ""
    #: Why it must be listed at once; "" = it need not.
    urgent: str = ""
    #: When the last complete listing began, 0 = never.
    swept_ms: int = 0
    #: When it must be listed again for what was left out as unfinished, 0 = it need not.
    again_ms: int = 0
    cost_s: float = 0.0
    keys: int = 0
    #: Since when events should have told of everything here (store's clock), 0 = not yet.
    told_since_ms: int = 0
    #: Failures in a row, and not before when the next try.
    failures: int = 0
    not_before_ms: int = 0
    hot: dict[str, Hot] = msgspec.field(default_factory=dict)


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    bucket: str
    prefix: str
    #: Prefix of the scope that it belongs to; equal to `prefix` when it is a full listing.
    scope: str
    why: str

    @property
    def full(self) -> bool:
        return self.prefix == self.scope


class Idle(msgspec.Struct, frozen=True):
    """Nothing is due for so many seconds."""

    seconds: float


def decide(scopes: Collection[Scope], policy: Policy, now_ms: int) -> Sweep | Idle:
    """Return the most urgent listing that is due, or how long none is."""
    soonest = policy.max_interval_s
    due: list[tuple[int, float, Sweep]] = []
    for scope in scopes:
        for rank, moment_ms, sweep in _plans(scope, policy, len(scopes)):
            wait_s = (max(moment_ms, scope.not_before_ms) - now_ms) / 1000
            if wait_s <= 0:
                due.append((rank, wait_s, sweep))
            else:
                soonest = min(soonest, wait_s)
    if not due:
        return Idle(soonest)
    return min(due, key=lambda plan: plan[:2])[2]


def _plans(scope: Scope, policy: Policy, scopes: int) -> Iterable[tuple[int, float, Sweep]]:
    """(rank, moment it is due in ms, listing): the urgent first, then the full, then the hot ones."""
    interval_s = full_interval_s(scope, policy, scopes)
    why = scope.urgent or ("start" if not scope.swept_ms else "interval")
    urgent = bool(scope.urgent) or not scope.swept_ms
    # Gaps in quick succession (a queue that overflows again and again) must not mean listing all the time.
    moment_ms = scope.swept_ms + 1000 * (3 * scope.cost_s if urgent else interval_s)
    full = Sweep(bucket=scope.bucket, prefix=scope.prefix, scope=scope.prefix, why=why)
    yield (0 if urgent else 1), moment_ms, full
    if scope.again_ms:
        moment_ms = max(scope.again_ms, scope.swept_ms + 1000 * 3 * scope.cost_s)
        yield 0, moment_ms, msgspec.structs.replace(full, why=SETTLED)
    if interval_s < 2 * policy.hot_interval_s:
        return
    for prefix, hot in scope.hot.items():
        pause_s = max(policy.hot_interval_s, _affordable_s(hot.cost_s, hot.keys, policy, scopes * len(scope.hot)))
        moment_ms = max(hot.swept_ms, scope.swept_ms) + 1000 * pause_s
        yield 2, moment_ms, Sweep(bucket=scope.bucket, prefix=prefix, scope=scope.prefix, why="recent news")


def full_interval_s(scope: Scope, policy: Policy, scopes: int) -> float:
    """Seconds between two full listings: each scope gets an equal part of the share and of the budget."""
    wanted = max(policy.min_interval_s, _affordable_s(scope.cost_s, scope.keys, policy, scopes))
    return min(wanted, policy.max_interval_s)


def _affordable_s(cost_s: float, keys: int, policy: Policy, parts: int) -> float:
    by_time = cost_s * parts / policy.share
    by_keys = 60.0 * keys * parts / policy.keys_per_minute if policy.keys_per_minute else 0.0
    return max(by_time, by_keys)


def note_swept(scope: Scope, policy: Policy, *, why: str, begun_ms: int, now_ms: int) -> None:
    """A full listing succeeded. One that made up for missing events is followed by another for unfinished files."""
    makes_up = why not in {"interval", SETTLED}
    if makes_up and policy.settle_s:
        scope.again_ms = now_ms + int(1000 * policy.settle_s)
    elif scope.again_ms <= begun_ms:
        scope.again_ms = 0


def note_failure(scope: Scope, policy: Policy, scopes: int, now_ms: int) -> None:
    """Try again soon, but not forever: a folder that nobody may read must not cost more than one that can be."""
    pause_s = min(policy.retry_s * 2.0 ** min(scope.failures, 32), full_interval_s(scope, policy, scopes))
    scope.failures += 1
    scope.not_before_ms = now_ms + int(1000 * pause_s)


def worst_case_s(scopes: Collection[Scope], policy: Policy) -> float:
    """After how many seconds at most an object is found whose event was lost without a gap being noticed.

    The longest interval, plus every other listing that may be in the way, plus that listing itself, with the pauses
    that the budget of keys asks for.
    """
    if not scopes:
        return 0.0
    longest = max(full_interval_s(scope, policy, len(scopes)) for scope in scopes)
    keys = sum(scope.keys for scope in scopes)
    pauses = 60.0 * keys / policy.keys_per_minute if policy.keys_per_minute else 0.0
    return longest + pauses + sum(scope.cost_s for scope in scopes)


def note_news(scope: Scope, keys: Iterable[str], policy: Policy, now_ms: int) -> None:
    """Remember the folders of new keys; forget those without news for long, the oldest first when there are many."""
    for key in keys:
        folder = key[: key.rfind("/") + 1]
        # Listing the scope's own folder would be the full listing again.
        if len(folder) > len(scope.prefix) and folder.startswith(scope.prefix):
            hot = scope.hot.pop(folder, None) or Hot(now_ms)
            hot.news_ms = now_ms
            scope.hot[folder] = hot  # last in the order of the dictionary: newest news
    for folder in [name for name, hot in scope.hot.items() if now_ms - hot.news_ms > 1000 * policy.hot_s]:
        del scope.hot[folder]
    while len(scope.hot) > policy.hot_folders:
        del scope.hot[next(iter(scope.hot))]


def cover(prefixes: Iterable[str]) -> list[str]:
    """The fewest prefixes that cover all: without those that lie below another one."""
    chosen: list[str] = []
    for prefix in sorted(set(prefixes)):
        if not chosen or not prefix.startswith(chosen[-1]):
            chosen.append(prefix)
    return chosen
