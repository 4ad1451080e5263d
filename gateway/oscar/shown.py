"""How a function looks to OSCAR's clients. Pure.

The definition that the FDL parser made is already what they expect; here comes what the server decides: owner, token,
labels, the cluster's own store, and what one old client cannot read. Secrets are blank and credentials say `hidden`
whoever asks; the token is the function's own for its owner, and one of the caller's own for everybody else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from gateway.access import ADMIN, OWNER_NAME, Caller, invocation_token, may_change, owner_name
from gateway.oscar.bodies import Deployment, moment
from gateway.storage import StoreAccount
from penstock.model import Function

HIDDEN = "hidden"
#: Sent by oscar-cli and by OSCAR 4.x managers, which disagree on whether a port is a number or a list.
GO_CLIENT = "Go-http-client"


def service(
    function: Function, caller: Caller, place: StoreAccount, *, ports: bool = True, deployment: Deployment | None = None
) -> dict[str, Any]:
    """A service as the caller may see it. `ports` False leaves the ports out."""
    definition = dict(function.definition)
    providers = {kind: dict(entries) for kind, entries in (definition.get("storage_providers") or {}).items()}
    providers.setdefault("minio", {})["default"] = {
        "endpoint": place.endpoint,
        "verify": place.verify,
        "region": place.region,
        "access_key": HIDDEN,
        "secret_key": HIDDEN,
    }
    token = function.token if may_change(caller, function) else invocation_token(function, caller.uid)
    definition |= {
        "name": function.name,
        "image": function.image,
        "script": function.script,
        "owner": function.owner,
        "token": token,
        "labels": labels(function),
        "storage_providers": providers,
        "environment": {
            "variables": function.environment,
            "secrets": dict.fromkeys(function.secrets, ""),
        },
    }
    definition.pop("clusters", None)
    expose = dict(definition.get("expose") or {})
    if not ports:
        expose.pop("api_port", None)
        expose.pop("nodePort", None)
    definition["expose"] = expose
    if deployment is not None:
        shown = msgspec.to_builtins(deployment)
        definition["deployment"] = {key: shown[key] for key in shown if key not in {"service_name", "namespace"}}
    return definition


class Rendered:
    """Owners' views as JSON, kept until the function changes: a list of a thousand then costs a copy of their bytes."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Function, StoreAccount, dict[bool, msgspec.Raw]]] = {}

    def of(
        self, function: Function, caller: Caller, place: StoreAccount, *, ports: bool
    ) -> msgspec.Raw | dict[str, Any]:
        """The caller's view, ready to be encoded. Those of other readers hold a token of theirs and are made anew."""
        if not may_change(caller, function):
            return service(function, caller, place, ports=ports)
        known = self._kept.get(function.uid)
        if known is None or known[0] is not function or known[1] != place:
            known = self._kept[function.uid] = (function, place, {})
        if ports not in known[2]:
            known[2][ports] = msgspec.Raw(msgspec.json.encode(service(function, caller, place, ports=ports)))
        return known[2][ports]

    def keep_only(self, functions: Collection[Function]) -> None:
        """Forget those that are gone."""
        if len(self._kept) > len(functions):
            uids = {function.uid for function in functions}
            self._kept = {uid: kept for uid, kept in self._kept.items() if uid in uids}


def labels(function: Function) -> dict[str, str]:
    """The author's labels under those that the platform sets, as on the service's Jobs."""
    given: Mapping[str, str] = function.definition.get("labels") or {}
    vo = str(function.definition.get("vo") or "")
    return {
        OWNER_NAME: "oscar" if function.owner == ADMIN else owner_name(function.owner),
        **given,
        "oscar_service": function.name,
        **({"vo": vo} if vo else {}),
    }


def deployment(function: Function, *, running: int, why: str, namespace: str = "") -> Deployment:
    """Plain functions have nothing deployed that could fail: they are ready unless somebody paused them."""
    exposed = bool((function.definition.get("expose") or {}).get("api_port"))
    changed = moment(function.updated_ms)
    if exposed:
        return Deployment(
            service_name=function.name,
            namespace=namespace,
            state="unavailable",
            reason="exposed services are not served by this installation",
            last_transition_time=changed,
            active_instances=0,
            affected_instances=0,
            resource_kind="exposed_service",
        )
    return Deployment(
        service_name=function.name,
        namespace=namespace,
        state="stopped" if function.paused else "ready",
        reason="paused: nothing new starts" if function.paused else why,
        last_transition_time=changed,
        active_instances=running,
        affected_instances=0,
        resource_kind="unavailable",
    )
