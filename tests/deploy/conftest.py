"""A cluster in which Deployments, DaemonSets and Jobs really run, as far as kwok runs them."""

from collections.abc import Iterator

import pytest

from tests.testplane import up


@pytest.fixture(scope="session")
def kwok_plane() -> Iterator[up.Plane]:
    """Three nodes, a scheduler and kwok's kubelets; whether our kinds are there is for each test to see to."""
    with up.Plane(scheduler=True, kwok=True) as running:
        up.create_nodes(running.api, 3)
        for node in ("node-000", "node-001", "node-002"):
            named = {"metadata": {"labels": {"kubernetes.io/hostname": node}}}  # as every kubelet does
            running.api("PATCH", f"/api/v1/nodes/{node}", named, "application/merge-patch+json")
        yield running
