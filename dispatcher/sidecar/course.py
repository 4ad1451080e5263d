"""The course of a Job's items through the launcher: which word to say next, when an item has ended, and why. Pure.

`output` feeds it with what it heard (the launcher's words, what `input` staged, cancels, TERM, the clock) and carries
out what `step` answers. An item is settled exactly once, in order, whatever is heard; a word that the launcher dropped
because user code had forged an end is said again.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence

import msgspec

from dispatcher.sidecar.words import Exit, Hello, Word
from penstock.model import ErrorClass

#: A launcher that was told to end and is not gone after this long still runs something: it is made to end that.
LINGER_S = 2.0
#: Between one word and its repetition.
REPEAT_S = 1.0
#: TERM came and the user's container never started: it will not any more.
NEVER_STARTED_S = 2.0


class Say(msgspec.Struct, frozen=True):
    """A line for the launcher."""

    words: str


class Turn(msgspec.Struct, frozen=True):
    """It is this item's turn now: the next one may be staged."""

    index: int


class Settle(msgspec.Struct, frozen=True):
    """An item that will not run: refused by `input`, or cancelled before its turn."""

    index: int
    cancelled: str | None = None


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """An item whose script was started has ended. `code` None = nobody told how."""

    index: int
    code: int | None
    why: ErrorClass | None = None
    why_text: str = ""
    started_ms: int
    finished_ms: int
    #: The pod was being taken away: unless it succeeded this is no end of the script's own.
    interrupted: bool = False


Act = Say | Turn | Settle | Ended


class State(enum.Enum):
    WAITING = enum.auto()  # for `input` to stage, or for the launcher
    RUNNING = enum.auto()
    #: No item will be started any more.
    OVER = enum.auto()


class Course:
    """Times are seconds of any clock; `step` also takes the milliseconds since the epoch for the record."""

    def __init__(
        self, invocations: Sequence[str], *, deadline_s: float, grace_s: float, settled: Collection[int] = ()
    ) -> None:
        """`settled` = items that have a durable result already."""
        self._invocations = invocations
        self._deadline_s = deadline_s
        self._grace_s = grace_s
        self._settled = frozenset(settled)
        self._staged: dict[int, bool] = {}
        self._cancelled: Mapping[str, str] = {}
        self._greeted = False
        self._unsaid: list[Say] = []
        self._pending: list[Act] = []
        self.index = -1
        self.state = State.WAITING
        self._why: ErrorClass | None = None
        self._why_text = ""
        self._running = 0
        self._started = 0.0
        self._started_ms = 0
        self._cancel_at = 0.0
        self._ended: Exit | None = None
        self._last = ""
        #: The launcher waits for the item after this one, as it said; None = for nothing that it was not told already.
        self._behind: int | None = None
        self._nudge_at = 0.0
        self._nudges = 0
        self._term_at: float | None = None
        #: The launcher is gone, and with it everything in its container.
        self.gone = False
        #: `input` is gone before its time: what is not staged never will be.
        self.crippled = False
        self._advance()

    # What was heard

    def hear(self, word: Word) -> None:
        if isinstance(word, Hello):
            if not self._greeted:
                self._greeted = True
                self._pending += self._unsaid
                self._unsaid.clear()
        elif self.state is State.RUNNING and word.index == self.index:
            self._ended = self._ended or word
        elif self._last and word.index < len(self._invocations):
            # An end that was told before: the launcher waits again and may have missed the words since.
            self._behind = word.index if self._behind is None else min(word.index, self._behind)

    def staged(self, index: int, *, runs: bool) -> None:
        """`runs` False = `input` refused it."""
        self._staged[index] = runs

    def cancel(self, reasons: Mapping[str, str]) -> None:
        """All cancels so far: reason by invocation."""
        self._cancelled = reasons

    def terminate(self, now: float) -> None:
        if self._term_at is None:
            self._term_at = now

    def lost_launcher(self) -> None:
        self.gone = True

    def lost_input(self) -> None:
        self.crippled = True

    @property
    def terminating(self) -> bool:
        return self._term_at is not None

    @property
    def greeted(self) -> bool:
        return self._greeted

    @property
    def complete(self) -> bool:
        """Every item was settled."""
        return self.index >= len(self._invocations)

    def hopeless(self, now: float) -> bool:
        """The pod is being taken away and the launcher never came."""
        return self._term_at is not None and not self._greeted and now - self._term_at > NEVER_STARTED_S

    # What to do

    def step(self, now: float, now_ms: int) -> list[Act]:
        """Everything to be done now, in order."""
        while self._move(now, now_ms):
            pass
        if self._behind is not None:
            # It waits for its own next item's word and drops all others, so it is led past what has ended without it.
            self._pending += [Say(f"skip {index}") for index in range(self._behind + 1, self.index)]
            self._pending.append(Say(self._last))
            self._behind = None
        acts, self._pending = self._pending, []
        return acts

    def _move(self, now: float, now_ms: int) -> bool:
        if self.state is State.RUNNING:
            return self._watch(now, now_ms)
        if self.state is State.WAITING:
            return self._start(now, now_ms)
        return False

    def _start(self, now: float, now_ms: int) -> bool:
        """Run or settle the item whose turn it is; False = something is waited for."""
        index = self.index
        if self.gone or self.terminating:
            self.state = State.OVER
            return False
        if index in self._settled:
            self._pass(None)
            return True
        reason = self._cancelled.get(self._invocations[index])
        if reason is not None:
            self._pass(Settle(index, reason))
            return True
        runs = self._staged.get(index)
        if runs is None:
            if self.crippled:
                self.state = State.OVER
            return False
        if not runs:
            self._pass(Settle(index))
            return True
        if not self._greeted:
            return False
        self._why, self._why_text, self._ended = None, "", None
        self._running, self._started, self._started_ms = index, now, now_ms
        self._cancel_at = 0.0
        self.state = State.RUNNING
        self._say(f"ready {index}")
        return True

    def _pass(self, act: Settle | None) -> None:
        if act is not None:
            self._pending.append(act)
        self._say(f"skip {self.index}")
        self._advance()

    def _advance(self) -> None:
        self.index += 1
        self.state = State.WAITING
        if self.complete:
            self.state = State.OVER
        else:
            self._pending.append(Turn(self.index))

    def _watch(self, now: float, now_ms: int) -> bool:
        """The running item; True = it has ended."""
        if self._ended is not None or self.gone:
            self._finish(now_ms)
            return True
        if self._why is None:
            reason = self._cancelled.get(self._invocations[self.index])
            if reason is not None:
                self._why, self._why_text = ErrorClass.CANCELLED, reason
            elif now >= self._started + self._deadline_s:
                self._why = ErrorClass.DEADLINE
        if self._why is not None and now >= self._cancel_at:
            # The launcher makes the first one TERM and each further one KILL.
            again = REPEAT_S if self._cancel_at else self._grace_s
            self._cancel_at = now + again
            self._pending.append(Say(f"cancel {self.index}"))
        return False

    def _finish(self, now_ms: int) -> None:
        told = self._ended
        why = self._why
        if told is not None and told.oom and told.code and why is None:
            why = ErrorClass.OUT_OF_MEMORY
        self._pending.append(
            Ended(
                index=self.index,
                code=None if told is None else told.code,
                why=why,
                why_text=self._why_text,
                started_ms=self._started_ms,
                finished_ms=now_ms,
                interrupted=self.terminating or (told is not None and told.term),
            )
        )
        self._advance()

    def _say(self, words: str) -> None:
        self._last = words
        (self._pending if self._greeted else self._unsaid).append(Say(words))

    def part(self, code: int, now: float) -> list[Act]:
        """Everything is published: make the launcher end with this code. Called until it is gone."""
        word = f"done {code}"
        if self._last != word:
            self._say(word)
            self._nudge_at = now + LINGER_S
        elif now >= self._nudge_at and self._greeted:
            # It did not listen: the end of its last item was user code's own word, and something still runs.
            self._nudge_at = now + (REPEAT_S if self._nudges else self._grace_s)
            self._nudges += 1
            self._pending += [Say(f"cancel {self._running}"), Say(word)]
        acts, self._pending = self._pending, []
        return acts
