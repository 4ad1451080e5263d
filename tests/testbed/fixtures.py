"""The bed as pytest fixtures, loaded by `pytest_plugins = ["tests.testbed.fixtures"]`.

One bed serves the whole session and each component starts when the first test asks for it, so a run of one test starts
only what that test needs. A part that this machine cannot have skips the test with one line saying what is missing; a
part that fails to start fails it. Tests that injure components use `fault_bed`, a bed of their own with small disks, so
that no other test meets the damage.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from tests.testbed.bed import Bed
from tests.testbed.component import Component
from tests.testbed.errors import MissingPart
from tests.testbed.im import InfrastructureManager
from tests.testbed.kafka import Kafka
from tests.testbed.kube_state_metrics import KubeStateMetrics
from tests.testbed.kubernetes import Kubernetes
from tests.testbed.kwok import Kwok
from tests.testbed.lookup import may_make_namespaces
from tests.testbed.minio import Minio
from tests.testbed.network import Network
from tests.testbed.node import Node
from tests.testbed.node_images import Images
from tests.testbed.prometheus import Prometheus

FAULT_DISK_MB = 256


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the logs of a bed whose test failed, and say where they are."""
    report = yield
    if report.failed:
        used = getattr(item, "funcargs", {}).values()
        beds = {one.bed if isinstance(one, Component) else one for one in used if isinstance(one, Component | Bed)}
        for bed in beds:
            bed.failed = True
            report.sections.append(("test bed", f"logs are kept in {bed.logs}"))
    return report


def begin(bed: Bed, name: str) -> None:
    """Start a component for a fixture, or skip with the one line that says what is missing."""
    try:
        bed.run(bed.start(name))
    except MissingPart as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def bed() -> Iterator[Bed]:
    """The session's bed, with nothing started."""
    bed = Bed()
    yield bed
    bed.close()


@pytest.fixture
def fault_bed() -> Iterator[Bed]:
    """A bed of the test's own with nothing started, whose disks can be filled where this process may mount any."""
    bed = Bed(disk_mb=FAULT_DISK_MB if may_make_namespaces() else None)
    yield bed
    bed.close()


@pytest.fixture(scope="session")
def minio(bed: Bed) -> Minio:
    """A MinIO server."""
    begin(bed, "minio")
    return bed.minio


@pytest.fixture(scope="session")
def kafka(bed: Bed) -> Kafka:
    """A Kafka broker."""
    begin(bed, "kafka")
    return bed.kafka


@pytest.fixture(scope="session")
def kubernetes(bed: Bed) -> Kubernetes:
    """A Kubernetes control plane without nodes."""
    begin(bed, "kubernetes")
    return bed.kubernetes


@pytest.fixture(scope="session")
def kwok(bed: Bed) -> Kwok:
    """KWOK on the control plane."""
    begin(bed, "kwok")
    return bed.kwok


@pytest.fixture(scope="session")
def node(bed: Bed) -> Node:
    """A real node on the control plane."""
    begin(bed, "node")
    return bed.node


@pytest.fixture(scope="session")
def network(bed: Bed) -> Network:
    """A node whose pods reach Services by name."""
    begin(bed, "network")
    return bed.network


@pytest.fixture(scope="session")
def images(bed: Bed) -> Images:
    """Images on the node."""
    begin(bed, "images")
    return bed.images


@pytest.fixture(scope="session")
def im(bed: Bed) -> InfrastructureManager:
    """An Infrastructure Manager with the Dummy cloud."""
    begin(bed, "im")
    return bed.im


@pytest.fixture(scope="session")
def kube_state_metrics(bed: Bed) -> KubeStateMetrics:
    """kube-state-metrics on the control plane."""
    begin(bed, "kube-state-metrics")
    return bed.kube_state_metrics


@pytest.fixture(scope="session")
def prometheus(bed: Bed) -> Prometheus:
    """A Prometheus server."""
    begin(bed, "prometheus")
    return bed.prometheus
