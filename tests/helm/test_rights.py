"""What each service account may do: templates and a real API server say what the list in the repository says."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm.rendering import CHART, EVERYTHING, Json, documents, template
from tests.testbed.kubernetes import Kubernetes
from tests.testbed.lookup import obtain

pytestmark = pytest.mark.components

LIST = yaml.safe_load((Path(__file__).parent / "rights.yaml").read_text())
NAMESPACES = {"functions": "penstock-functions", "own": "penstock", "cluster": ""}
Rights = dict[str, dict[str, dict[str, list[str]]]]


def resource_of(group: str, resource: str) -> str:
    """`functions/status` of the group `penstock.dev` is `functions.penstock.dev/status`."""
    name, slash, part = resource.partition("/")
    return f"{name}.{group}{slash}{part}" if group else resource


def flat(rules: list[Json]) -> Iterator[tuple[str, list[str]]]:
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                yield resource_of(group, resource), sorted(rule["verbs"])


def rendered(objects: list[Json]) -> Rights:
    """Service -> place -> resource -> verbs, from roles and whom they are bound to."""
    places = {namespace: place for place, namespace in NAMESPACES.items()}
    roles = {
        (one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]): one["rules"]
        for one in objects
        if one["kind"] in {"Role", "ClusterRole"}
    }
    found: Rights = {
        one["metadata"]["name"].removeprefix("p-penstock-"): {} for one in objects if one["kind"] == "ServiceAccount"
    }
    for one in objects:
        if one["kind"] not in {"RoleBinding", "ClusterRoleBinding"}:
            continue
        namespace = one["metadata"].get("namespace", "")
        rules = roles[one["roleRef"]["kind"], namespace, one["roleRef"]["name"]]
        for subject in one["subjects"]:
            service = subject["name"].removeprefix("p-penstock-")
            there = found[service].setdefault(places[namespace], {})
            # The one process of the edge has the rules of several services, some for the same resource.
            for name, verbs in flat(rules):
                there[name] = sorted({*there.get(name, ()), *verbs})
    return found


def wanted(services: set[str]) -> Rights:
    return {
        service: {
            place: {name: sorted(verbs) for name, verbs in resources.items()} for place, resources in places.items()
        }
        for service, places in LIST.items()
        if service in services
    }


def test_the_roles_give_what_the_list_says_and_nothing_else() -> None:
    found = rendered(documents("production", everything=True))
    assert found == wanted(set(LIST))


def test_unless_asked_for_nobody_has_a_right_on_the_cluster() -> None:
    found = rendered(documents("default"))
    expected = wanted({"watcher", "dispatcher", "gateway", "job"})
    del expected["gateway"]["cluster"]
    assert found == expected
    assert not any("cluster" in places for places in found.values())


def test_the_one_process_of_the_edge_may_do_what_three_may() -> None:
    found = rendered(documents("edge"))["edge"]
    for service in ("watcher", "dispatcher", "gateway"):
        for place in {"functions", "own"} & set(LIST[service]):
            for name, verbs in LIST[service][place].items():
                assert set(verbs) <= set(found[place][name]), (service, name)


def test_no_role_has_a_wildcard() -> None:
    for one in documents("production", everything=True):
        if one["kind"] in {"Role", "ClusterRole"}:
            assert "*" not in json.dumps(one["rules"])


def kubectl(cluster: Kubernetes, *words: str, text: str = "") -> str:
    argv = [str(obtain("kubectl")), "--kubeconfig", str(cluster.kubeconfig), *words]
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def told(cluster: Kubernetes, user: str, namespace: str) -> dict[str, list[str]]:
    """What the API server says that a user may do there."""
    review = {
        "kind": "SelfSubjectRulesReview",
        "apiVersion": "authorization.k8s.io/v1",
        "spec": {"namespace": namespace},
    }
    words = ["create", "--raw", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", "-f", "-", "--as", user]
    groups = ["--as-group", "system:serviceaccounts", "--as-group", "system:authenticated"]
    answer: dict[str, Any] = json.loads(kubectl(cluster, *words, *groups, text=json.dumps(review)))
    found: dict[str, set[str]] = {}
    for rule in answer["status"]["resourceRules"]:
        for name, verbs in flat([rule]):
            found.setdefault(name, set()).update(verbs)
    return {name: sorted(verbs) for name, verbs in found.items()}


async def test_a_real_api_server_grants_exactly_that(kubernetes: Kubernetes) -> None:
    text = template("production", EVERYTHING).stdout
    kinds = {"Namespace", "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
    objects = [one for one in yaml.safe_load_all(text) if one and one["kind"] in kinds]
    for one in objects:
        if one["kind"] not in {"Namespace", "ClusterRole", "ClusterRoleBinding"}:
            one["metadata"].setdefault("namespace", "penstock")
    own = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "penstock"}}
    document = {"apiVersion": "v1", "kind": "List", "items": [own, *objects]}

    def work() -> Rights:
        kubectl(kubernetes, "apply", "-f", str(CHART / "crds"))
        kubectl(kubernetes, "apply", "-f", "-", text=json.dumps(document))
        try:
            everybody = told(kubernetes, "system:serviceaccount:penstock:nobody-of-that-name", "penstock")
            found: Rights = {}
            for service in LIST:
                home = "penstock-functions" if service == "job" else "penstock"
                user = f"system:serviceaccount:{home}:p-penstock-{service}"
                found[service] = {
                    place: rights(told(kubernetes, user, namespace or "default"), everybody)
                    for place, namespace in NAMESPACES.items()
                }
            return found
        finally:
            kubectl(kubernetes, "delete", "--ignore-not-found", "-f", "-", text=json.dumps(document))

    found = await asyncio.to_thread(work)
    for service, places in wanted(set(LIST)).items():
        everywhere = places.get("cluster", {})
        for place in NAMESPACES:
            expected = merged(everywhere, places.get(place, {}))
            assert found[service][place] == expected, (service, place)


def rights(mine: dict[str, list[str]], everybody: dict[str, list[str]]) -> dict[str, list[str]]:
    """Less what every account of a cluster may do."""
    return {name: verbs for name, verbs in mine.items() if verbs != everybody.get(name)}


def merged(*parts: dict[str, list[str]]) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for part in parts:
        for name, verbs in part.items():
            found.setdefault(name, set()).update(verbs)
    return {name: sorted(verbs) for name, verbs in found.items()}
