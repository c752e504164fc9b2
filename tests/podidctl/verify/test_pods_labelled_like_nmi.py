"""A tenant's pod with NMI's label: its image runs as no canary, and its log proves nothing."""

from typing import Any

import msgspec
import pytest

from podidctl.diagnosis.daemons import Daemon
from podidctl.verify.verification import _nmis
from podidentity.exits import StartError

OWNER = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "nmi", "uid": "u", "controller": True}


FILE = {"name": "kubelet-config", "hostPath": {"path": "/etc/default/kubelet"}}
"""NMI with the backend `cilium` has a network of its own and this file of the node."""
EMPTY = {"name": "tmp", "emptyDir": {}}


def pod(
    name: str, *, owners: tuple[Any, ...] = (), host_network: bool = False, volumes: tuple[Any, ...] = ()
) -> Daemon:
    metadata = {"name": name, "namespace": "tenant", "ownerReferences": list(owners)}
    return msgspec.convert(
        {"metadata": metadata, "spec": {"hostNetwork": host_network, "volumes": list(volumes)}}, Daemon
    )


@pytest.mark.parametrize(
    "genuine",
    [
        pod("nmi", owners=(OWNER,), host_network=True),
        pod("nmi", host_network=True),
        pod("nmi", owners=(OWNER,), volumes=(EMPTY, FILE)),
    ],
)
@pytest.mark.parametrize("labelled", [pod("tenants"), pod("tenants", owners=(OWNER,), volumes=(EMPTY,))])
def test_only_a_pod_in_the_nodes_network_counts(genuine: Daemon, labelled: Daemon) -> None:
    assert _nmis([labelled, genuine]) == [genuine]


def test_without_another_pod_it_does_not_count_either() -> None:
    with pytest.raises(StartError, match="install NMI"):
        _nmis([pod("tenants", owners=(OWNER,))])
