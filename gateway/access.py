"""Who may see, use and change what: the rules of visibility, pure, in one place for every route.

A caller is the administrator, a user of single sign-on, or the holder of a function's token. Identity comes from
authentication alone; nothing in a body or a header decides it.
"""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.model import Function

#: Owner of what the administrator makes, as OSCAR names it.
ADMIN = "cluster_admin"
#: Label with the owner's name in words.
OWNER_NAME = "owner_name"
TOKEN_DIGITS = 64
_MARK_DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who sent a request. `uid` owns things; `user` is how logs and commands name the caller."""

    request_id: str
    #: "" until authenticated.
    user: str = ""
    #: Set when the caller holds a function's token: it may invoke this function and nothing else.
    function: str = ""
    uid: str = ""
    admin: bool = False
    groups: frozenset[str] = frozenset()
    #: The person's name, for labels that others read.
    display: str = ""
    #: (bucket, key) that a sealed link opens for its holder, who is nobody else.
    link: tuple[str, str] | None = None


def visibility(function: Function) -> str:
    """private, restricted or public."""
    return str(function.definition.get("visibility") or "private")


def allowed_users(function: Function) -> Sequence[str]:
    return tuple(map(str, function.definition.get("allowed_users") or ()))


def may_change(caller: Caller, function: Function) -> bool:
    """Update, delete, stop and everything that is its owner's."""
    return caller.admin or (bool(caller.uid) and caller.uid == function.owner)


def may_see(caller: Caller, function: Function) -> bool:
    """List, read, invoke."""
    if may_change(caller, function):
        return True
    if caller.function:
        return caller.function == function.name
    seen = visibility(function)
    return bool(caller.uid) and (seen == "public" or (seen == "restricted" and caller.uid in allowed_users(function)))


def owns_work(caller: Caller, function: Function, submitter: str) -> bool:
    """Whether an invocation is the caller's own: of his function, or sent by him to another's."""
    if may_change(caller, function):
        return True
    return bool(submitter) and submitter in {caller.uid, mark_of(caller.uid)}


def mark_of(uid: str) -> str:
    """How work is attributed to a caller of whom only a token of `invocation_token` is known."""
    return f"caller:{_mark(uid)}"


def _mark(uid: str) -> str:
    return hashlib.sha256(uid.encode("utf-8", "replace")).hexdigest()[:_MARK_DIGITS]


def invocation_token(function: Function, uid: str) -> str:
    """A token with which one caller may invoke one function: 64 digits, as OSCAR's clients expect. It names the caller
    by a digest and falls with the function's own token, so nothing is stored for it.
    """
    mark = _mark(uid)
    return mark + _seal(function, mark)


def _seal(function: Function, mark: str) -> str:
    told = f"penstock/invoke/{function.uid}/{mark}".encode()
    return hmac.new(function.token.encode(), told, hashlib.sha256).hexdigest()[: TOKEN_DIGITS - _MARK_DIGITS]


def holder(offered: str, function: Function) -> str | None:
    """Whose token this is: the uid or mark of who may invoke the function with it, None = it is none of this function.

    Constant-time for every wrong token. A caller's token is worth what the caller could do now: it dies when the
    function becomes private, or leaves the caller out.
    """
    given = offered.encode("utf-8", "replace")
    own = bool(function.token) and hmac.compare_digest(given, function.token.encode())
    mark = offered[:_MARK_DIGITS]
    sealed = bool(function.token) and hmac.compare_digest(
        given, (mark + _seal(function, mark)).encode("utf-8", "replace")
    )
    if own:
        return function.owner
    if not sealed:
        return None
    seen = visibility(function)
    listed = any(_mark(uid) == mark for uid in allowed_users(function))
    return f"caller:{mark}" if seen == "public" or (seen == "restricted" and listed) else None


def owner_name(display: str) -> str:
    """A person's name as a label has it: without accents, blanks as underscores, at most 62 characters."""
    plain = unicodedata.normalize("NFKD", display).encode("ascii", "ignore").decode()
    kept = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in plain)
    return kept[:62].strip("-_.") or "unknown"
