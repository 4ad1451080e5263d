"""Which notification rules a bucket should have, and whether those that it has will do. Pure.

A rule names the four events by which content arrives, never `ObjectCreated:*`: tagging an input would run it again.
Rules of others stay as they are; ours are told by the beginning of their ids.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence

from penstock.adapters.s3.notifications import Rule
from watcher.schedule import cover

_LONGEST_FILTER = 1024


def desired(prefixes: Mapping[str, Collection[str]], arns: Collection[str], owner: str) -> dict[str, list[Rule]]:
    """The rules of ours per bucket: each target hears of every key below the prefixes. `owner` begins their ids."""
    return {
        bucket: [_rule(arn, prefix, owner) for arn in sorted(arns) for prefix in cover(map(safe_filter, wanted))]
        for bucket, wanted in prefixes.items()
    }


def _rule(arn: str, prefix: str, owner: str) -> Rule:
    digest = hashlib.sha256(f"{arn}\0{prefix}".encode()).hexdigest()[:16]
    return Rule(id=f"{owner}-{digest}", arn=arn, prefix=prefix)


def safe_filter(prefix: str) -> str:
    """The longest beginning of a prefix that stores take as a filter and that matches no less.

    Some refuse a backslash, control characters and the folders `.` and `..`. MinIO reads `*` and `?` as wildcards,
    which match themselves too, so they may stay: what comes in excess is passed over by the watcher.
    """
    safe = prefix
    for index, letter in enumerate(prefix):
        if letter == "\\" or unicodedata.category(letter) in {"Cc", "Cs", "Cn", "Co"}:
            safe = prefix[:index]
            break
    while len(safe.encode()) > _LONGEST_FILTER:
        safe = safe[:-1]
    folders = safe.split("/")
    for index, folder in enumerate(folders):
        if folder in {".", ".."}:
            return "".join(f"{one}/" for one in folders[:index])
    return safe


def is_ours(rule: Rule, owner: str) -> bool:
    return rule.id.startswith(f"{owner}-")


def merged(existing: Sequence[Rule], wanted: Sequence[Rule], owner: str) -> list[Rule] | None:
    """All rules that the bucket should have, those of others included; None = it has them already."""
    ours = [rule for rule in existing if is_ours(rule, owner)]
    if len(ours) == len(wanted) and set(map(_meaning, ours)) == set(map(_meaning, wanted)):
        return None
    return [rule for rule in existing if not is_ours(rule, owner)] + list(wanted)


def _meaning(rule: Rule) -> tuple[str, str, frozenset[str], str, str]:
    return rule.id, rule.arn, frozenset(rule.events), rule.prefix, rule.suffix


def of_targets(rules: Iterable[Rule], arns: Collection[str]) -> list[Rule]:
    """The rules for some of the targets."""
    return [rule for rule in rules if rule.arn in arns]
