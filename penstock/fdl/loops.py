"""Functions that trigger themselves, alone or in a ring: found when they are deployed, before they cost anything.

Whether an output can trigger an input is decided exactly: keys are the output's folder plus a name of any length, and
both sides filter by beginnings and endings, so two filter sets share a name when one beginning extends the other and
one ending extends the other. At run time the hop limit stops what this cannot see (scripts that upload by themselves).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from penstock.errors import InvalidInput
from penstock.model import Function, StorageIO
from penstock.model.function import OWN_STORE


def check_loops(function: Function) -> list[str]:
    """Return warnings about outputs that come close to the function's own inputs.

    Raises InvalidInput when an output writes into an input's folder (or below it) and the filters let a name through
    both: each result would be the next input.
    """
    warnings = []
    for output in filter(_own, function.outputs):
        for source in filter(_own, function.inputs):
            below = output.bucket == source.bucket and output.key_prefix.startswith(source.key_prefix)
            feeds = _can_feed(output, source)
            if below and feeds:
                raise InvalidInput(
                    f"output {output.path!r} lies in the function's own input {source.path!r}, so every result would "
                    "start it again; write to another folder, or give `suffix` lists that share no name"
                )
            if below:
                warnings.append(
                    f"output {output.path!r} lies in the function's own input {source.path!r}; only their filters "
                    "keep it from starting itself"
                )
            elif feeds:
                warnings.append(
                    f"the input {source.path!r} lies in the output {output.path!r}: a result named like "
                    f"{source.key_prefix[len(output.key_prefix) :]}* would start the function again"
                )
    return warnings


def cycles(functions: Iterable[Function]) -> list[list[str]]:
    """Return rings of two or more functions that feed each other: A to B to A is ["A", "B"].

    Each function in a ring is in at least one of those returned; each ring is as short as can be, begins with its
    smallest name, and the list is sorted.
    """
    feeds = _graph(functions)
    found: set[tuple[str, ...]] = set()
    covered: set[str] = set()
    for name in sorted(feeds):
        if name in covered:
            continue
        ring = _shortest_ring(feeds, name)
        if ring:
            covered.update(ring)
            smallest = ring.index(min(ring))
            found.add((*ring[smallest:], *ring[:smallest]))
    return [list(ring) for ring in sorted(found)]


def _own(entry: StorageIO) -> bool:
    """Tell whether the entry is in the product's own store: `minio.other` is somebody else's."""
    return entry.provider in OWN_STORE and entry.provider_id == "default"


def _can_feed(output: StorageIO, source: StorageIO) -> bool:
    """Tell whether some name is published by `output` and triggers `source`."""
    if output.bucket != source.bucket:
        return False
    beginnings = [output.key_prefix + prefix for prefix in output.prefix or ("",)]
    wanted = [source.key_prefix + prefix for prefix in source.prefix or ("",)]
    endings = [suffix[::-1] for suffix in output.suffix or ("",)]
    wanted_endings = [suffix[::-1] for suffix in source.suffix or ("",)]
    return _share(beginnings, wanted) and _share(endings, wanted_endings)


def _share(ours: Iterable[str], theirs: Iterable[str]) -> bool:
    """Tell whether one text can begin with one of ours and one of theirs: whether one of them begins another.

    By look-up of each one's own beginnings, so that long lists of filters cost their length, not its square.
    """
    left, right = frozenset(ours), frozenset(theirs)
    return any(
        text[:end] in others
        for texts, others in ((left, right), (right, left))
        for text in texts
        for end in range(len(text) + 1)
    )


def _graph(functions: Iterable[Function]) -> dict[str, list[str]]:
    """Return who can start whom, without self-loops (those are `check_loops`' business), names sorted."""
    known = {function.name: function for function in functions}
    sources: dict[str, list[tuple[str, StorageIO]]] = {}
    for name, function in known.items():
        for source in filter(_own, function.inputs):
            sources.setdefault(source.bucket, []).append((name, source))
    graph: dict[str, list[str]] = {}
    for name, function in known.items():
        fed = {
            other
            for output in filter(_own, function.outputs)
            for other, source in sources.get(output.bucket, ())
            if other != name and _can_feed(output, source)
        }
        graph[name] = sorted(fed)
    return graph


def _shortest_ring(feeds: Mapping[str, list[str]], start: str) -> list[str]:
    """Return the shortest way from `start` back to itself, [] if there is none (breadth first)."""
    came_from: dict[str, str] = {}
    waiting = deque([start])
    while waiting:
        here = waiting.popleft()
        for following in feeds[here]:
            if following == start:
                ring = [here]
                while ring[-1] != start:
                    ring.append(came_from[ring[-1]])
                return ring[::-1]
            if following not in came_from:
                came_from[following] = here
                waiting.append(following)
    return []
