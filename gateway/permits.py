"""May this caller deploy that? Groups, images, quotas and whose the buckets are, before anything changes. Pure.

Each refusal is a class of error and one sentence. Everything is decided from what was read before, so the same rules
hold for OSCAR's routes and for `/v1/apply`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.access import Caller, may_change
from gateway.bucket_book import BucketEntry, may_manage
from penstock.errors import AlreadyExists, Forbidden, InvalidInput, PenstockError
from penstock.model import Function
from penstock.settings_gateway import GatewayGroup

_OLD_REGISTRY = "docker.io/"
_LIBRARY = "docker.io/library/"
LONGEST_USER = 300


class QuotaExceeded(PenstockError):
    """The caller has as much of it as one user may have."""

    code = "quota"


def buckets_of(function: Function) -> set[str]:
    """The buckets of the own store that a function reads, writes or mounts."""
    used = {entry.bucket for entry in (*function.inputs, *function.outputs) if entry.own_store}
    mount = function.definition.get("mount") or {}
    path = str(mount.get("path") or "")
    provider = str(mount.get("storage_provider") or "")
    if path and provider in {"minio", "minio.default", "local"}:
        used.add(path.split("/", 1)[0])
    return used


def check(
    caller: Caller,
    function: Function,
    base: Function | None,
    *,
    deployed: Iterable[Function],
    buckets: Mapping[str, BucketEntry],
    settings: GatewayGroup,
) -> None:
    """`buckets` = the entries of every bucket that exists and that the function names. Raises Forbidden, InvalidInput,
    AlreadyExists (a bucket of somebody else), QuotaExceeded.
    """
    if base is not None and not may_change(caller, base):
        raise Forbidden(f"the service {base.name} belongs to somebody else: only its owner may change it")
    check_users(function)
    _check_group(caller, function, settings)
    _check_image(function, settings)
    for bucket in sorted(buckets_of(function)):
        entry = buckets.get(bucket)
        if entry is not None and not may_manage(caller, entry):
            raise AlreadyExists(f"the bucket {bucket} belongs to somebody else; choose another name in the path")
    if caller.admin:
        return
    limit = settings.user_functions
    if base is None and limit and sum(one.owner == caller.uid for one in deployed) >= limit:
        raise QuotaExceeded(f"you have {limit} services already, which is what one user may have; remove one first")


def check_bucket_quota(caller: Caller, entries: Mapping[str, BucketEntry], wanted: int, settings: GatewayGroup) -> None:
    """Raises QuotaExceeded."""
    limit = settings.user_buckets
    if caller.admin or not limit:
        return
    owned = sum(entry.owner == caller.uid for entry in entries.values())
    if owned + wanted > limit:
        raise QuotaExceeded(f"one user may have {limit} buckets and you have {owned}; remove one first")


def check_users(function: Function) -> None:
    for user in function.definition.get("allowed_users") or ():
        check_user(str(user))


def check_user(user: str) -> None:
    """Raises InvalidInput for what can be nobody's id."""
    if not user or len(user) > LONGEST_USER or not user.isprintable():
        raise InvalidInput(f"{user[:80]!r} cannot be a user's id", where="allowed_users")


def _check_group(caller: Caller, function: Function, settings: GatewayGroup) -> None:
    vo = str(function.definition.get("vo") or "")
    if not vo or caller.admin:
        return
    if vo not in caller.groups:
        raise Forbidden(f"you are not in the group {vo!r} that `vo` names")
    known = settings.words(settings.oidc_groups)
    if known and vo not in known:
        raise InvalidInput(f"{vo!r} is not one of this installation's groups: {', '.join(known)}", where="vo")


def _check_image(function: Function, settings: GatewayGroup) -> None:
    allowed = settings.words(settings.allowed_images)
    if allowed and not any(_begins(normalized(function.image), normalized(one)) for one in allowed):
        raise Forbidden(f"the image {function.image!r} is not allowed here; allowed are {', '.join(allowed)}")


def normalized(image: str) -> str:
    """An image reference with its registry written out, as the container runtime reads it."""
    image = image.strip().removeprefix("https://").removeprefix("docker://")
    first, slash, _ = image.partition("/")
    host = first.partition(":")[0]
    # A setting may name a registry alone: a host is told from an image by its dot.
    if "." in host or host == "localhost" or (slash and ":" in first):
        return image
    return f"{_OLD_REGISTRY}{image}" if slash else f"{_LIBRARY}{image}"


def _begins(image: str, allowed: str) -> bool:
    """Whole path parts only: `example.org/team` does not allow `example.org/teammate/x`."""
    rest = image[len(allowed) :] if image.startswith(allowed) else None
    return rest is not None and (not rest or allowed.endswith("/") or rest[0] in "/:@")
