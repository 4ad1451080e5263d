"""The session's control plane for this folder's tests."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest

from penstock.adapters.kubernetes import KubernetesClient
from tests.kubernetes import support
from tests.kubernetes.playing import PlayedExits
from tests.testbed.errors import MissingPart
from tests.testbed.kubernetes import Kubernetes

_numbers = itertools.count()


@pytest.fixture
async def api(kubernetes: Kubernetes) -> AsyncIterator[KubernetesClient]:
    """A client of ours to the control plane, with our resource installed."""
    await support.use(kubernetes)
    async with support.client() as made:
        yield made


@pytest.fixture
async def namespace(api: KubernetesClient) -> str:
    """A namespace of the test's own in which pods can be made."""
    return await support.make_namespace(api, f"test-{next(_numbers)}", pods=True)


@pytest.fixture(scope="session")
def played(kubernetes: Kubernetes) -> PlayedExits:
    """A node whose pods end as their labels say."""
    kwok = PlayedExits(kubernetes.bed)
    try:
        kubernetes.bed.run(kwok.start())
    except MissingPart as missing:
        pytest.skip(str(missing))
    kubernetes.bed.run(kwok.add_node())
    return kwok
