"""Jobs as bytes: all but name, items and deadline of a Job is the same for a function's generation, so it is built and
encoded once, and a Job is a few pieces joined. Pure; a property test holds it equal to `manifest.job_manifest`.

The pieces are cut at marks with a NUL byte in them, which `manifest.check_shared` allows in no user's text.
"""

from __future__ import annotations

import msgspec

from dispatcher.kubernetes.checks import check_own, check_shared
from dispatcher.kubernetes.manifest import (
    LONGEST_S,
    assemble,
    common,
    digest_of,
    encode_items,
    job_seconds,
    public_digest,
)
from dispatcher.kubernetes.settings import KubernetesSettings
from penstock.model import JobPlan

_NAME, _ID, _DIGEST, _TRACE = "\0name", "\0id", "\0digest", "\0trace"
# These replace a whole JSON value, the others stand inside of a string.
_ITEMS, _SECONDS, _LIMIT = "\0items", "\0seconds", "\0limit"
_encode = msgspec.json.Encoder().encode


class Rendered(msgspec.Struct, frozen=True):
    """A Job ready to be sent. `items` = the list's JSON when it needs a ConfigMap of its own, else None."""

    body: bytes
    digest: str
    items: bytes | None


class JobTemplate:
    """The Job of one generation of one function. Raises InvalidInput for what no cluster could run."""

    def __init__(self, plan: JobPlan, settings: KubernetesSettings) -> None:
        check_shared(plan, settings)
        self.shared = common(plan)
        self._settings = settings
        #: Whether the generation's files are in the cluster; the runner's note.
        self.prepared = False
        self._public = public_digest(self.shared)
        self._inline = self._pieces(inline=True)
        self._mapped = self._pieces(inline=False)

    def fits(self, plan: JobPlan) -> bool:
        """Whether a plan is of this generation, whatever its numbers say."""
        return common(plan) == self.shared

    def _pieces(self, *, inline: bool) -> list[bytes | str]:
        """Literal bytes and the marks of what goes between them, in order."""
        document = assemble(
            self.shared,
            self._settings,
            name=_NAME,
            job_id=_ID,
            digest=_DIGEST,
            trace=_TRACE,
            items=_ITEMS if inline else None,
            seconds=0,
        )
        document["spec"]["activeDeadlineSeconds"] = _LIMIT
        document["spec"]["template"]["spec"]["activeDeadlineSeconds"] = _SECONDS
        pieces: list[bytes | str] = [_encode(document)]
        for mark in (_ITEMS, _SECONDS, _LIMIT, _NAME, _ID, _DIGEST, _TRACE):
            word = _encode(mark)
            if mark in {_NAME, _ID, _DIGEST, _TRACE}:
                word = word[1:-1]
            pieces = [part for piece in pieces for part in _cut(piece, word, mark)]
        return pieces

    def render(self, plan: JobPlan) -> Rendered:
        """The Job of a plan that `fits`. Raises InvalidInput for its name or items."""
        check_own(plan)
        items = encode_items(plan.items)
        inline = len(items) <= self._settings.inline_bytes
        digest = digest_of(self._public, items)
        seconds = job_seconds(plan, self._settings)
        values = {
            _NAME: plan.name.encode(),
            _ID: _encode(plan.id)[1:-1],
            _DIGEST: digest.encode(),
            _TRACE: plan.items[0].traceparent.encode(),
            _ITEMS: _encode(items.decode()) if inline else b"",
            _SECONDS: b"%d" % seconds,
            _LIMIT: b"%d" % min(LONGEST_S, seconds + self._settings.pending_limit_s),
        }
        pieces = self._inline if inline else self._mapped
        body = b"".join([piece if isinstance(piece, bytes) else values[piece] for piece in pieces])
        return Rendered(body, digest, None if inline else items)


def _cut(piece: bytes | str, word: bytes, mark: str) -> list[bytes | str]:
    if isinstance(piece, str):
        return [piece]
    parts: list[bytes | str] = []
    for literal in piece.split(word):
        parts += [literal, mark]
    return parts[:-1]
