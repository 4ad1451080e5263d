"""Removes what crashes and old generations left in the cluster: lists without a Job, files that no Job mounts any more.

Once per start is enough: a live runner leaves nothing but the files of generations that were replaced meanwhile.
"""

from __future__ import annotations

from dispatcher.kubernetes.board import Board
from dispatcher.kubernetes.client import JobApi
from dispatcher.kubernetes.manifest import KIND_FILES, KIND_ITEMS, LABEL_GENERATION, LABEL_JOB, LABEL_UID

#: What is younger may be in the middle of being made, by a dispatcher that is just being replaced.
ORPHAN_AFTER_S = 600.0


async def sweep(api: JobApi, board: Board, now_s: float) -> None:
    """`board` knows every Job there is; `now_s` is in seconds since the epoch. Raises Unavailable, Forbidden."""
    for _, labels, made in await api.beside(KIND_ITEMS):
        if labels.get(LABEL_JOB, "") not in board.entries and now_s - made > ORPHAN_AFTER_S:
            await api.delete_items(labels[LABEL_JOB])
    files = await api.beside(KIND_FILES)
    newest: dict[str, int] = {}
    for _, labels, _ in files:
        uid = labels.get(LABEL_UID, "")
        newest[uid] = max(newest.get(uid, 0), int(labels.get(LABEL_GENERATION, "0")))
    in_use = {(entry.function_uid, entry.generation) for entry in board.entries.values()}
    for name, labels, made in files:
        uid, generation = labels.get(LABEL_UID, ""), labels.get(LABEL_GENERATION, "0")
        old = int(generation) < newest[uid] and now_s - made > ORPHAN_AFTER_S
        if old and (uid, generation) not in in_use:
            await api.drop_files(name)
