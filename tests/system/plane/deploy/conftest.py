"""A cluster in which kwok runs Deployments, DaemonSets and Jobs."""

from collections.abc import Iterator

import pytest

from tests.support.testplane import up


@pytest.fixture(scope="session")
def kwok_plane() -> Iterator[up.Plane]:
    """Three nodes, a scheduler and kwok's kubelets. Each test installs the CustomResourceDefinitions that it needs."""
    with up.Plane(scheduler=True, kwok=True) as running:
        up.create_nodes(running.api, 3)
        for node in ("node-000", "node-001", "node-002"):
            named = {"metadata": {"labels": {"kubernetes.io/hostname": node}}}  # like every kubelet
            running.api("PATCH", f"/api/v1/nodes/{node}", named, "application/merge-patch+json")
        yield running
