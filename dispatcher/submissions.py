"""How many Jobs are on their way to the runner. Pure.

A cluster may have room for thousands of Jobs while its API server takes a few dozen at once. What is handed in beyond
that only waits there in order of arrival, where no priority and no fair turn goes before it, and each one is a task
that the event loop and the garbage collector have to look after. So the rest stays in the plan.
"""

from __future__ import annotations

from collections import Counter

#: Submissions under way at once, of all functions together: twice as many requests as the API server gets at a time, so
#: that one is always ready when another was answered.
MOST = 64


class Submissions:
    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._of: Counter[str] = Counter()

    def begin(self, function_uid: str) -> None:
        self._of[function_uid] += 1

    def end(self, function_uid: str) -> None:
        self._of[function_uid] -= 1
        if not self._of[function_uid]:
            del self._of[function_uid]

    def __len__(self) -> int:
        return self._of.total()

    def of(self, function_uid: str) -> int:
        return self._of[function_uid]

    @property
    def full(self) -> bool:
        return len(self) >= self._most
