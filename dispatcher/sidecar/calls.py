"""What the gateway and the pod of a resident function say to each other: one HTTP request per run, framed both ways.

A frame is a line with a length, so much JSON, and then the bytes themselves: the body of the run one way, its answer
the other. Neither fits a header (a result may name thousands of outputs), and neither is ever wrapped in the other.
"""

from __future__ import annotations

import msgspec

from penstock.errors import InvalidInput
from penstock.model import ItemResult, Submission

#: Where the pod listens. User code runs only on request, so nobody can have taken it before.
PORT = 18080
RUN_PATH, READY_PATH, USE_PATH = "/run", "/ready", "/use"
#: On a 503: nothing was begun, so the same run may be sent elsewhere.
NOT_BEGUN = "Penstock-Not-Begun"
BUSY, LEAVING, STARTING = "busy", "leaving", "starting"
#: Of a failed run so much of the log's end comes as the answer.
QUOTED_BYTES = 2048
_LONGEST_LINE = 12


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `submission` comes without its body, which follows the frame."""

    invocation: str
    submission: Submission
    deadline_s: float
    publish_on_failure: bool = True
    #: Variables of this run alone, `Http_*` as OSCAR's watchdog gives them.
    variables: dict[str, str] = {}


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """How it ended. What follows is the answer, or of a failed run the end of its log."""

    result: ItemResult


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """How much a pod is used, for whoever decides how many there shall be."""

    slots: int
    #: Slots whose launcher is there.
    up: int
    active: int
    #: Seconds since its last run ended or it started, 0 = one is under way.
    idle_s: float
    leaving: bool = False


_encode = msgspec.json.Encoder().encode
decode_call = msgspec.json.Decoder(Call).decode
decode_reply = msgspec.json.Decoder(Reply).decode
decode_use = msgspec.json.Decoder(Use).decode


def frame(head: Call | Reply) -> bytes:
    text = _encode(head)
    return b"%d\n%b" % (len(text), text)


class Unframer:
    """Cuts the head off a stream. Feed it until `head` is not None; what came after is in `rest`."""

    def __init__(self, limit: int) -> None:
        """`limit` = bytes of the longest head that is taken."""
        self._limit = limit
        self._data = b""
        self._length = -1
        self.head: bytes | None = None
        self.rest = b""

    def feed(self, data: bytes) -> bool:
        """True = the head is there. Raises InvalidInput for what is no frame."""
        self._data += data
        if self._length < 0:
            line, end, rest = self._data.partition(b"\n")
            if not end:
                if len(line) > _LONGEST_LINE:
                    raise InvalidInput("a run begins with the length of its head")
                return False
            if not line.isdigit() or len(line) > _LONGEST_LINE or int(line) > self._limit:
                raise InvalidInput("a run begins with the length of its head, and this one is none or too long")
            self._length, self._data = int(line), rest
        if len(self._data) < self._length:
            return False
        self.head, self.rest = self._data[: self._length], self._data[self._length :]
        return True
