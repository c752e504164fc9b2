"""An API server in memory, with the objects of a test, and a client of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from podidentity.kube.client import Client
from tests.support.memory_api import MemoryApi
from tests.support.mic.emulated_cloud import StoredObjects

OWNER = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "nmi", "uid": "u", "controller": True}


@dataclass
class MemoryCluster(StoredObjects):
    api: MemoryApi
    client: Client

    def daemon(
        self,
        name: str,
        *,
        component: str = "nmi",
        namespace: str = "default",
        args: Sequence[str] = ("--no-such-flag",),
        **spec: Any,
    ) -> None:
        """A pod on n0 with the label of *component*. With fields of *spec* it is of a DaemonSet."""
        meta = {"name": name, "namespace": namespace, "labels": {"component": component}}
        owners = {"ownerReferences": [OWNER]} if spec else {}
        container = {"name": component, "image": "i", "args": list(args)}
        document = {"metadata": meta | owners, "spec": {"nodeName": "n0", "containers": [container]} | spec}
        self.api.store.create("pods", document)
