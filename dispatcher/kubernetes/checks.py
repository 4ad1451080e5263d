"""What no cluster could run, refused before anything is sent, with a sentence for the function's author. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dispatcher.kubernetes.settings import KubernetesSettings
from penstock.errors import InvalidInput
from penstock.identity import JOB_NAME_LIMIT
from penstock.model import JobPlan

#: Longest string, name included, that a program can be started with.
ENV_LIMIT = 128 * 1024
#: All variables together travel in the Job object, which may have 1.5 MiB with everything else.
ENV_TOTAL_LIMIT = 512 * 1024

_JOB_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_ENV_NAME = re.compile(r"[ -<>-~]+")
_SECRET_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")


def check(plan: JobPlan, settings: KubernetesSettings) -> None:
    """Raises InvalidInput naming what is wrong."""
    check_own(plan)
    check_shared(plan, settings)


def check_own(plan: JobPlan) -> None:
    """What differs between the Jobs of one generation."""
    if len(plan.name) > JOB_NAME_LIMIT or not _JOB_NAME.fullmatch(plan.name):
        raise InvalidInput(
            f"{plan.name!r} is no Job name: up to {JOB_NAME_LIMIT} lower-case letters, digits and '-'", where="name"
        )
    if not plan.items:
        raise InvalidInput(f"the Job {plan.name} has no items", where="items")
    if "\0" in plan.id:
        raise InvalidInput(f"the Job {plan.name} has a NUL byte in its id", where="id")


def check_shared(plan: JobPlan, settings: KubernetesSettings) -> None:
    where = f"function {plan.function}"
    if not (plan.image or settings.default_image):
        raise InvalidInput("names no image, which a cluster cannot do without", where=where)
    if any("\0" in text for text in _texts(plan)):
        raise InvalidInput("has a NUL byte in its name, image, a variable or a label", where=where)
    total = 0
    for name, value in {**plan.environment, **plan.secrets}.items():
        size = len(name.encode("utf-8", "surrogatepass")) + len(value.encode("utf-8", "surrogatepass")) + 2
        total += size
        if not _ENV_NAME.fullmatch(name):
            raise InvalidInput(f"the variable {name!r} needs a name of printable ASCII without '='", where=where)
        if size > ENV_LIMIT:
            raise InvalidInput(
                f"the variable {name!r} is too large: {size} bytes, and a program takes {ENV_LIMIT}", where=where
            )
    if total > ENV_TOTAL_LIMIT:
        raise InvalidInput(
            f"its variables are too large: {total} bytes together, and a Job takes {ENV_TOTAL_LIMIT}", where=where
        )
    for name in plan.secrets:
        if not _SECRET_KEY.fullmatch(name):
            raise InvalidInput(f"the secret {name!r} needs a name of letters, digits, '-', '_' and '.'", where=where)


def _texts(plan: JobPlan) -> Iterator[str]:
    yield from (plan.image, plan.function, plan.function_uid, plan.log_level)
    for mapping in (plan.environment, plan.secrets, plan.labels):
        yield from mapping.keys()
        yield from mapping.values()
    if plan.volume is not None:
        yield from (plan.volume.name, plan.volume.mount_path)
