"""The real kube-apiserver in place of the sandbox's, with the writes of users and kubelets."""

import asyncio
import contextlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, IDENTITIES, NODES, PODS
from tests.conftest import NewPlane, apply_definitions
from tests.support.mic.emulated_cloud import EmulatedCloud
from tests.support.objects import identity_id
from tests.support.testplane.up import Plane
from tests.support.waiting import until

LOCATION = ASSIGNED_IDENTITIES.path("default")


async def in_place_of_the_emulator(
    cloud: EmulatedCloud,
    new_plane: NewPlane,
    prepare: Callable[[Plane], None],
    *definitions: Path,
    identities: Collection[str] = ("demo",),
    define: Callable[..., None] = apply_definitions,
) -> Plane:
    """A real server for the MICs of *cloud*, after *prepare*. The *identities* exist on Azure.

    *define* creates the custom resources, from *definitions* if there are any.
    """

    def start() -> Plane:
        plane = new_plane()
        define(plane, *definitions)
        prepare(plane)
        (cloud.folder / "kubeconfig").write_text(Path(plane.kubeconfig).read_text())
        return plane

    for name in identities:
        cloud.directory.add_identity(identity_id(name), client_id=f"client-{name}")
    return await asyncio.to_thread(start)


def add_node(plane: Plane, name: str, host: str) -> None:
    """A node on the VM, or instance of a scale set, of this Azure id."""
    plane.api("POST", NODES.path(), {"metadata": {"name": name}, "spec": {"providerID": f"azure://{host}"}})


def bind(plane: Plane, name: str) -> None:
    """An identity, and a binding of the same name for pods with that label."""
    create(plane, IDENTITIES, name, {"type": 0, "resourceID": identity_id(name), "clientID": f"client-{name}"})
    create(plane, BINDINGS, name, {"azureIdentity": name, "selector": name})


def create(plane: Plane, kind: Any, name: str, spec: dict[str, Any]) -> None:
    document = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": {"name": name}, "spec": spec}
    plane.api("POST", kind.path("default"), document)


def run_pod(plane: Plane, name: str, node: str, label: str = "demo") -> None:
    meta = {"name": name, "labels": {"aadpodidbinding": label}}
    spec = {
        "nodeName": node,
        "containers": [{"name": "c", "image": "i"}],
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
    }
    with contextlib.suppress(RuntimeError):  # the service account is created shortly after the namespace
        plane.api("POST", "/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "default"}})
    plane.api("POST", PODS.path("default"), {"metadata": meta, "spec": spec})


async def assigned(plane: Plane, **expected: str) -> None:
    """Wait until the objects (pod -> status) are exactly these."""

    async def statuses() -> dict[str, str]:
        response = await asyncio.to_thread(plane.api, "GET", LOCATION)
        return {object_["spec"]["pod"]: object_["status"]["status"] for object_ in response["items"]}

    await until(statuses, "the objects", holds=expected.__eq__)
