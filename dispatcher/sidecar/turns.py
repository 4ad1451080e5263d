"""One launcher that serves one run after the other: which word to say next, and how a run has ended. Pure.

The launcher is the one of Jobs, whose items never end: run N is item N of a list that goes on for ever. It numbers from
0 each time that it starts, which it says by `hello`. Words come from the user's own container, so a forged one may end
its own run early and do nothing else; a launcher that no longer listens is made to end, and the kubelet starts it
again.
"""

from __future__ import annotations

import msgspec

from dispatcher.sidecar.words import Hello, Word
from penstock.model import ErrorClass

#: Between one word and its repetition.
REPEAT_S = 1.0
#: After so many words to end a run the launcher itself is told to end: it waits for another word than we think.
STUBBORN = 5
#: What a launcher that is to be started again ends with.
RESTART = "done 143"


class Outcome(msgspec.Struct, frozen=True):
    """`code` None = nobody told how it ended; `why` = the platform ended it."""

    code: int | None
    why: ErrorClass | None = None
    why_text: str = ""


class Turns:
    """Times are seconds of any clock."""

    def __init__(self, *, grace_s: float) -> None:
        """`grace_s` = between the polite and the forced end of a script."""
        self._grace_s = grace_s
        self.up = False
        self.running = False
        self.number = 0
        self.outcome: Outcome | None = None
        self._due = 0.0
        self._why: ErrorClass | None = None
        self._why_text = ""
        self._say_at = 0.0
        self._said = 0

    def hear(self, word: Word) -> list[str]:
        """What to say now."""
        if isinstance(word, Hello):
            if not self.up:
                self.up = True
                self.number = 0
        elif self.running and word.index == self.number:
            oom = word.oom and bool(word.code) and self._why is None
            self._finish(word.code, ErrorClass.OUT_OF_MEMORY if oom else self._why)
        elif self.running and word.index < self.number:
            # The end of that one was forged, and the launcher dropped our word while it still ran.
            return [f"ready {self.number}"]
        return []

    def start(self, now: float, deadline_s: float) -> list[str]:
        """Begin the run that is staged as `number`; only while it is up and none is running."""
        assert self.up
        assert not self.running
        self.running, self.outcome = True, None
        self._why, self._why_text, self._said = None, "", 0
        self._due = now + deadline_s
        return [f"ready {self.number}"]

    def stop(self, now: float, why: ErrorClass, text: str = "") -> list[str]:
        """End what runs. The first reason counts."""
        if self.running and self._why is None:
            self._why, self._why_text, self._say_at = why, text, now
        return self.tick(now)

    def tick(self, now: float) -> list[str]:
        """What time asks to be said: the end of a run beyond its deadline, and once more to one that goes on."""
        if not self.running:
            return []
        if self._why is None and now >= self._due:
            self._why, self._say_at = ErrorClass.DEADLINE, now
        if self._why is None or now < self._say_at:
            return []
        self._said += 1
        self._say_at = now + (self._grace_s if self._said == 1 else REPEAT_S)
        # The launcher makes the first one TERM and each further one KILL.
        return [f"cancel {self.number}"] + ([RESTART] if self._said >= STUBBORN else [])

    def next_s(self, now: float) -> float | None:
        """Seconds until `tick` has something to say, None = nothing runs."""
        if not self.running:
            return None
        return max(0.0, (self._due if self._why is None else self._say_at) - now)

    def lost(self) -> None:
        """The launcher is gone, and with it everything in its container."""
        self.up = False
        if self.running:
            self._finish(None, self._why)
        self.number = 0

    def _finish(self, code: int | None, why: ErrorClass | None) -> None:
        text = self._why_text
        if code is None and why is None:
            why = ErrorClass.KILLED
            text = (
                "the script's container was ended while it ran: killed from outside, or it used more memory than the "
                "function's `memory`"
            )
        self.outcome = Outcome(code, why, text)
        self.running = False
        self.number += 1
